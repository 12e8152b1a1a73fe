"""Every representation of SO(3): the laws that make it one."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given

from geocore import so3
from geocore.testing import assert_finite, check_batching, check_derivatives, check_half, check_transforms, strategies
from rotrep import Representation, get_representation, list_representations, sampling

NAMES = list_representations()
VARIANTS = [
    *((name, {}) for name in NAMES),
    ("6d", {"convention": "rows"}),
    ("6d", {"layout": "interleaved"}),
    ("6d", {"convention": "rows", "layout": "interleaved"}),
    ("5d", {"convention": "rows"}),
    ("10d", {"order": "xyzw"}),
    ("quaternion", {"order": "xyzw"}),
    ("euler", {"euler": "zyz"}),
    ("euler_sincos", {"euler": "ZXY"}),
]
DIMS = {
    "6d": 6,
    "5d": 5,
    "9d": 9,
    "10d": 10,
    "quaternion": 4,
    "rotvec": 3,
    "axis_angle4": 4,
    "euler": 3,
    "euler_sincos": 6,
    "quaternion_half": 4,
    "rodrigues": 3,
    "mrp": 3,
    "hopf": 3,
}
ids = [name + "".join(f"-{v}" for v in options.values()) for name, options in VARIANTS]
variants = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=ids)


def test_names_dimensions_and_continuity():
    assert {name: get_representation(name).dim for name in NAMES} == DIMS
    assert list_representations(continuous=True) == ["6d", "5d", "9d", "10d"]
    assert all(get_representation(name).is_continuous == (name in ("6d", "5d", "9d", "10d")) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-7), (torch.float64, 1e-14)])
def test_decode_gives_rotations(name, dtype, tolerance, rng):
    rep = get_representation(name)
    R = rep.decode(torch.randn(100_000, rep.dim, generator=rng, dtype=dtype))
    assert R.dtype == dtype
    assert (R.mT @ R - torch.eye(3, dtype=dtype)).abs().max() <= tolerance
    assert (torch.linalg.det(R.double()) - 1).abs().max() <= tolerance


@variants
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-14)])
def test_decode_inverts_encode(name, options, dtype, tolerance, hard_rotations):
    rep = get_representation(name, **options)
    R = hard_rotations.to(dtype)
    v = rep.encode(R)
    assert v.shape == (len(R), rep.dim)
    assert torch.isfinite(v).all()
    assert (rep.decode(v) - R).abs().max() <= tolerance


@given(strategies.rotation_vectors())
def test_round_trip_law(w):
    R = so3.exp(w)
    for name in NAMES:
        rep = get_representation(name)
        assert (rep.decode(rep.encode(R)) - R).abs().max() <= 1e-14, name


@variants
def test_identity_bias_and_random(name, options):
    rep = get_representation(name, **options)
    bias = rep.identity_bias(dtype=torch.float64)
    assert bias.shape == (rep.dim,)
    assert torch.equal(rep.decode(bias), torch.eye(3, dtype=torch.float64))
    one, again = (rep.random((3, 2), torch.Generator().manual_seed(1), dtype=torch.float64) for _ in range(2))
    assert one.shape == (3, 2, rep.dim)
    assert torch.equal(one, again)
    angle = so3.geodesic(rep.decode(rep.random(5_000, torch.Generator().manual_seed(1))), torch.eye(3)).mean()
    assert abs(angle - (math.pi / 2 + 2 / math.pi)) < 0.04  # standard error 0.009


@pytest.mark.parametrize("name", ["6d", "9d", "10d", "quaternion"])
def test_decode_ignores_scale(name, rng):
    rep = get_representation(name)
    v = torch.randn(500, rep.dim, generator=rng, dtype=torch.float64)
    for scale in (1e-6, 3.0, 1e6):
        torch.testing.assert_close(rep.decode(scale * v), rep.decode(v), atol=1e-12, rtol=0)
    if name == "6d":  # each of the two vectors for itself
        weights = torch.tensor([5.0] * 3 + [1e-4] * 3, dtype=torch.float64)
        torch.testing.assert_close(rep.decode(weights * v), rep.decode(v), atol=1e-13, rtol=0)


def test_6d_is_two_columns_in_every_convention():
    R = torch.tensor([[0.0, 1, 2], [3, 4, 5], [6, 7, 8]])  # encode only picks entries
    expected = {
        ("columns", "concat"): [0.0, 3, 6, 1, 4, 7],
        ("columns", "interleaved"): [0.0, 1, 3, 4, 6, 7],
        ("rows", "concat"): [0.0, 1, 2, 3, 4, 5],
        ("rows", "interleaved"): [0.0, 3, 1, 4, 2, 5],
    }
    for (convention, layout), values in expected.items():
        assert get_representation("6d", convention=convention, layout=layout).encode(R).tolist() == values


def test_5d_hand_worked_and_range(hard_rotations):
    # R = I: x3 = 0, r = 1: (1, 0, 0, 1, 0). Columns x = (0, 0, 1), y = (1, 0, 0): r = sqrt(2) + 1.
    rep = get_representation("5d")
    assert rep.encode(torch.eye(3)).tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]
    cyclic = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(rep.encode(cyclic), torch.tensor([0.0, 0, math.sqrt(2) + 1, 0, 0], dtype=torch.float64))
    r = rep.encode(hard_rotations)[:, 2:].norm(dim=-1)
    assert r.min() >= math.sqrt(2) - 1 - 1e-12
    assert r.max() <= math.sqrt(2) + 1 + 1e-12
    single = hard_rotations.float()
    assert (rep.decode(rep.encode(single)) - single).abs().max() <= 1e-6


def test_5d_output_scale_belongs_to_decoding(rng):
    plain, scaled = get_representation("5d"), get_representation("5d", output_scale="official")
    v = torch.randn(50, 5, generator=rng, dtype=torch.float64)
    factor = torch.tensor([1, 1, math.sqrt(2) + 1, math.sqrt(2) + 1, math.sqrt(2)], dtype=torch.float64)
    torch.testing.assert_close(scaled.decode(v), plain.decode(v * factor), atol=1e-14, rtol=0)
    R = sampling.haar(3, 10, rng)
    assert torch.equal(scaled.encode(R), plain.encode(R))
    torch.testing.assert_close(scaled.decode(scaled.identity_bias()), torch.eye(3), atol=1e-6, rtol=0)


def test_hand_worked_baselines():
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)  # pi / 2 about the third axis
    cases = {
        "axis_angle4": [math.atanh(0.5), 0.0, 0.0, 1.0],
        "rotvec": [0.0, 0.0, math.pi / 2],
        "rodrigues": [0.0, 0.0, 1.0],  # tan(pi / 4)
        "mrp": [0.0, 0.0, math.tan(math.pi / 8)],
        "euler": [0.0, 0.0, math.pi / 2],
        "euler_sincos": [0.0, 1.0, 0.0, 1.0, 1.0, 0.0],
        "quaternion": [math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)],
        "quaternion_half": [math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)],
        "hopf": [math.pi / 2, math.pi / 2, 0.0],  # cos(theta/2) = sin(theta/2) sin(phi) = sqrt(1/2)
    }
    for name, values in cases.items():
        rep = get_representation(name)
        v = torch.tensor(values, dtype=torch.float64)
        torch.testing.assert_close(rep.decode(v), quarter, atol=1e-15, rtol=0)
        torch.testing.assert_close(rep.encode(quarter), v, atol=2e-15, rtol=0)
    folded = get_representation("quaternion_half").decode(torch.tensor([-1.0, 0, 0, 1], dtype=torch.float64))
    torch.testing.assert_close(folded, quarter, atol=1e-15, rtol=0)


DEGENERATE = {
    "6d": [[0.0] * 6, [1.0, 2, 3, 2, 4, 6], [1.0, 2, 3, -1, -2, -3], [0.0, 0, 0, 1, 2, 3], [1.0, 2, 3, 0, 0, 0]],
    "5d": [[0.0] * 5, [1.0, 2, 0, 0, 0], [0.0, 0, 1, 0, 0], [2.0, 0, 1, 0, 0]],
    "9d": [[0.0] * 9, [1.0, 2, 3, 2, 4, 6, 3, 6, 9], [1.0, 0, 0, 0, 1, 0, 0, 0, -1]],
    "10d": [[0.0] * 10, [1.0, 0, 0, 0, 1, 0, 0, 1, 0, 1], [-1.0, 0, 0, 0, -1, 0, 0, 0, 0, 0]],
    "quaternion": [[0.0] * 4],
    "quaternion_half": [[0.0] * 4],
    "axis_angle4": [[0.0] * 4, [3.0, 0, 0, 0]],
    "euler_sincos": [[0.0] * 6, [0.0, 0, 1, 1, 2, 2]],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_degenerate_input_gives_rotations_and_finite_gradients(name, dtype, rng):
    bad = DEGENERATE.get(name, [])
    rep = get_representation(name)
    # 0, and for 9D the identity, diag(1, 1, -1) and a half turn, are on the list of every representation as far as they fit
    extra = [[0.0] * rep.dim, *rep.encode(torch.stack([torch.eye(3), torch.diag(torch.tensor([1.0, -1, -1]))])).tolist()]
    v = torch.tensor([*bad, *extra], dtype=dtype, requires_grad=True)
    R = rep.decode(v)
    torch.testing.assert_close(R.mT @ R, torch.eye(3, dtype=dtype).expand_as(R), atol=1e-6, rtol=0)
    assert (torch.linalg.det(R) > 0).all()
    weight = torch.randn(R.shape, generator=rng, dtype=dtype)
    (gradient,) = torch.autograd.grad((R * weight).sum(), v)
    assert_finite("gradient", gradient)
    mask = rep.degenerate_mask(v)
    assert mask[: len(bad)].all()
    assert not mask[len(bad) + 1 :].any()


def test_gradient_is_zero_along_undefined_directions(rng):
    weight = torch.randn(3, 3, generator=rng, dtype=torch.float64)
    v = torch.tensor([1.0, 2, 3, 2, 4, 6], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad((get_representation("6d").decode(v) * weight).sum(), v)
    assert torch.equal(gradient[3:], torch.zeros(3, dtype=torch.float64))
    assert gradient[:3].abs().max() > 0


@pytest.mark.parametrize("name", sorted(DEGENERATE))
def test_degenerate_modes(name, rng):
    bad = torch.tensor(DEGENERATE[name], dtype=torch.float32)
    good = torch.randn(4, bad.shape[-1], generator=rng)
    nan = get_representation(name, degenerate="nan")
    R = nan.decode(torch.cat([good, bad]))
    assert torch.isfinite(R[:4]).all()
    assert torch.isnan(R[4:]).all()
    strict = get_representation(name, degenerate="raise")
    # 9D takes another path to the same rotation when it must know the margin
    torch.testing.assert_close(strict.decode(good), get_representation(name).decode(good), atol=2e-6, rtol=0)
    with pytest.raises(ValueError, match=rf"{len(bad)} of {len(bad) + 4} items do not"):
        strict.decode(torch.cat([good, bad]))


def test_eps_is_the_sine_of_the_angle_and_at_least_eight_ulp():
    for angle, dtype, flagged in (
        (1e-9, torch.float64, True),
        (1e-7, torch.float64, False),
        (1e-7, torch.float32, True),
        (1e-5, torch.float32, False),
    ):
        v = torch.tensor([1.0, 0, 0, 1, angle, 0], dtype=dtype)
        assert bool(get_representation("6d").degenerate_mask(v)) is flagged
        assert bool(get_representation("6d").degenerate_mask(1e-5 * v)) is flagged
    assert bool(get_representation("6d", eps=1e-3).degenerate_mask(torch.tensor([1.0, 0, 0, 1, 5e-4, 0])))
    # 5D of the same geometry: first column (a, 0, x3) with r = 1 so x3 = 0, second column p
    assert bool(get_representation("5d", eps=1e-3).degenerate_mask(torch.tensor([2.0, 0, 1, 5e-4, 0])))
    assert not bool(get_representation("5d", eps=1e-4).degenerate_mask(torch.tensor([2.0, 0, 1, 5e-4, 0])))


@pytest.mark.parametrize("name", NAMES)
def test_derivatives(name, rng):
    rep = get_representation(name)
    check_derivatives(rep.decode, torch.randn(2, rep.dim, generator=rng), atol=1e-6)
    check_derivatives(
        lambda M: rep.encode(so3.renormalize(M)), so3.exp(torch.tensor([[0.3, -0.4, 0.5], [-0.9, 0.2, 1.1]])), second=False, atol=1e-6
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_encoders_have_finite_gradients_everywhere(name, dtype, hard_rotations):
    R = hard_rotations[::7].to(dtype).requires_grad_()
    (gradient,) = torch.autograd.grad(get_representation(name).encode(R).sum(), R)
    assert_finite("gradient", gradient)


@pytest.mark.parametrize("name", NAMES)
def test_batches_and_precision(name, rng):
    rep = get_representation(name)
    v = torch.randn(4, rep.dim, generator=rng)
    check_batching(rep.decode, v)
    check_half(rep.decode, v)
    check_batching(rep.encode, sampling.haar(3, 4, rng))
    check_half(rep.encode, so3.exp(torch.tensor([[0.3, -0.4, 0.5], [-0.9, 0.2, 1.1]])))
    assert rep.decode(torch.zeros(0, 5, rep.dim)).shape == (0, 5, 3, 3)


@pytest.mark.parametrize("name", ["6d", "5d", "9d", "10d", "axis_angle4", "hopf", "euler_sincos", "rodrigues"])
def test_transforms(name, rng):
    # those that are one call to geocore are tested there, and by the next test
    rep = get_representation(name)
    check_transforms(rep.decode, torch.randn(3, rep.dim, generator=rng, dtype=torch.float64), compiled_transforms=name in ("6d", "hopf"))


@pytest.mark.parametrize("name", NAMES)
def test_vmap_and_function_gradients(name, rng):
    rep = get_representation(name, degenerate="nan")
    v = torch.randn(3, rep.dim, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(rep.decode)(v), rep.decode(v), atol=1e-13, rtol=0)
    jacobian = torch.func.vmap(torch.func.jacrev(rep.decode))(v)
    torch.testing.assert_close(torch.func.vmap(torch.func.jacfwd(rep.decode))(v), jacobian, atol=1e-10, rtol=1e-9)


def test_half_precision_does_not_overflow():
    v = torch.tensor([300.0, 0, 0, 0, 60000, 0], dtype=torch.float16)  # the squares exceed 65504
    assert torch.equal(get_representation("6d").decode(v), torch.eye(3, dtype=torch.float16))


@pytest.mark.parametrize("name", ["9d", "10d"])
def test_confidence_is_the_margin(name, rng):
    rep = get_representation(name)
    v = torch.randn(50, rep.dim, generator=rng, dtype=torch.float64)
    R, confidence = rep.decode_with_confidence(v)
    torch.testing.assert_close(R, rep.decode(v), atol=1e-13, rtol=0)
    if name == "9d":
        M = v.unflatten(-1, (3, 3))
        s = torch.linalg.svdvals(M)
        expected = s[:, 1] + torch.linalg.det(M).sign() * s[:, 2]
    else:
        i, j = torch.triu_indices(4, 4)
        A = v.new_zeros(50, 4, 4)
        A[:, i, j] = v
        A[:, j, i] = v
        values = torch.linalg.eigvalsh(A)
        expected = values[:, 1] - values[:, 0]
    torch.testing.assert_close(confidence, expected, atol=1e-13, rtol=0)
    assert get_representation("6d").decode_with_confidence(torch.randn(2, 6))[1] is None


@pytest.mark.parametrize("name", ["6d", "quaternion"])
def test_arithmetic_on_raw_vectors(name, rng):
    rep = get_representation(name)
    a, b = (3.0 * torch.randn(5, rep.dim, generator=rng, dtype=torch.float64) for _ in range(2))
    p = torch.randn(5, 3, generator=rng, dtype=torch.float64)
    A, B = rep.decode(a), rep.decode(b)
    close = lambda x, y: torch.testing.assert_close(x, y, atol=1e-13, rtol=0)  # noqa: E731
    close(rep.decode(rep.compose(a, b)), A @ B)
    close(rep.decode(rep.inverse(a)), A.mT)
    close(rep.apply(a, p), (A @ p[..., None])[..., 0])
    close(rep.apply(rep.compose(a, b), p), rep.apply(a, rep.apply(b, p)))
    close(rep.decode(rep.interpolate(a, b, 0.0)), A)
    close(rep.decode(rep.interpolate(a, b, 1.0)), B)
    middle = rep.decode(rep.interpolate(a, b, 0.25))
    close(so3.geodesic(A, middle), 0.25 * so3.geodesic(A, B))


def test_instances_are_values():
    a, b = get_representation("6d", convention="rows"), get_representation("6d", convention="rows")
    assert a == b
    assert hash(a) == hash(b)
    assert a != get_representation("6d")
    assert pickle.loads(pickle.dumps(a)) == a
    assert copy.deepcopy(a) == a
    assert "convention='rows'" in repr(a)
    assert get_representation("svd") == get_representation("9d")
    assert get_representation("euler_zyx") == get_representation("euler", euler="zyx")
    with pytest.raises(AttributeError):
        a.convention = "columns"


def test_base_class_is_abstract():
    for call in (lambda r: r.dim, lambda r: r._decode(torch.zeros(1)), lambda r: r._encode(torch.eye(3))):
        with pytest.raises(NotImplementedError):
            call(Representation())


@pytest.mark.bad_input
def test_errors():
    with pytest.raises(ValueError, match=r"'6d', '5d', '9d'.*got '7d'"):
        get_representation("7d")
    with pytest.raises(ValueError, match=r"'9d' has no option 'layout'; it has 'degenerate', 'eps'"):
        get_representation("9d", layout="concat")
    with pytest.raises(ValueError, match="convention must be one of 'columns', 'rows', got 'cols'"):
        get_representation("6d", convention="cols")
    with pytest.raises(ValueError, match="layout must be one of"):
        get_representation("6d", layout="F")
    with pytest.raises(ValueError, match="degenerate must be one of"):
        get_representation("6d", degenerate="ignore")
    with pytest.raises(ValueError, match="eps must lie in"):
        get_representation("6d", eps=-1.0)
    with pytest.raises(ValueError, match="output_scale must be one of"):
        get_representation("5d", output_scale="paper")
    with pytest.raises(ValueError, match="order must be one of"):
        get_representation("quaternion", order="zyxw")
    with pytest.raises(ValueError, match="euler must be one of"):
        get_representation("euler", euler="XXY")
    for name in NAMES:
        rep = get_representation(name)
        with pytest.raises(ValueError, match=rf"\(\.\.\., {rep.dim}\), got \(2, {rep.dim + 1}\)"):
            rep.decode(torch.zeros(2, rep.dim + 1))
        with pytest.raises(TypeError, match="floating-point"):
            rep.decode(torch.zeros(2, rep.dim, dtype=torch.int64))
        with pytest.raises(NotImplementedError, match="complex"):
            rep.decode(torch.zeros(2, rep.dim, dtype=torch.complex64))
        with pytest.raises(ValueError, match="R must have shape"):
            rep.encode(torch.zeros(2, 3))
        with pytest.raises(TypeError, match="floating-point"):
            rep.encode(torch.eye(3, dtype=torch.int32))


@pytest.mark.bad_input
def test_encode_validates_on_request():
    rep = get_representation("6d")
    R = sampling.haar(3, 4, torch.Generator().manual_seed(0))
    assert torch.equal(rep.encode(R + 2e-5, validate=True), rep.encode(R + 2e-5))
    with pytest.raises(ValueError, match="must be a rotation"):
        rep.encode(R + 1e-3, validate=True)
    with pytest.raises(ValueError, match="det R = 1"):
        rep.encode(-R, validate=True)
    assert torch.isfinite(rep.encode(-R)).all()
    assert rep.encode(R.half(), validate=True).dtype == torch.float16
