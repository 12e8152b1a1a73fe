"""Network heads."""

import io

import pytest
import torch

from geocore.testing import check_export, check_module
from rotrep import NDRotation, RotationHead, SimilarityHead, get_representation, list_representations, losses, sampling


@pytest.mark.parametrize("name", list_representations())
def test_rotation_head_starts_at_the_identity(name, rng):
    head = RotationHead(5, name, hidden=(7,))
    out = head(torch.randn(4, 5, generator=rng))
    torch.testing.assert_close(out.matrix, torch.eye(3).expand(4, 3, 3), atol=1e-6, rtol=0)
    assert out.raw.shape == (4, get_representation(name).dim)
    assert (out.confidence is not None) == (name in ("9d", "10d"))
    if name == "9d":
        torch.testing.assert_close(out.confidence, torch.full((4,), 2.0))


@pytest.mark.parametrize(("name", "compiled"), [("6d", True), ("9d", True), ("10d", False), ("euler", False)])
def test_rotation_head_contract(name, compiled):
    check_module(lambda: RotationHead(5, name, hidden=(4, 6), init="default"), torch.randn(3, 5), compile=compiled)


def test_similarity_head_contract():
    check_module(lambda: SimilarityHead(5, hidden=(4,), init="default"), torch.randn(3, 5))
    out = SimilarityHead(5, "9d", n=3, scale="softplus")(torch.randn(2, 3, 5))
    torch.testing.assert_close(out.matrix, torch.eye(4).expand(2, 3, 4, 4), atol=1e-6, rtol=0)
    assert [tuple(x.shape) for x in out] == [(2, 3, 4, 4), (2, 3, 13), (2, 3), (2, 3, 3, 3), (2, 3), (2, 3, 3)]
    torch.testing.assert_close(SimilarityHead(5, n=2)(torch.randn(4, 5)).matrix, torch.eye(3).expand(4, 3, 3))


def test_options_and_instances():
    assert RotationHead(4).representation == get_representation("9d")
    assert RotationHead(4, "6d", convention="rows").representation == get_representation("6d", convention="rows")
    assert RotationHead(4, NDRotation(5))(torch.randn(2, 4)).matrix.shape == (2, 5, 5)
    assert "hidden=(8,)" in repr(RotationHead(4, hidden=(8,)))
    head = RotationHead(4, "5d", output_scale="official", dtype=torch.float64)
    torch.testing.assert_close(head(torch.randn(2, 4, dtype=torch.float64)).matrix[0], torch.eye(3, dtype=torch.float64))
    assert len([m for m in RotationHead(4, hidden=(8, 9)).modules() if isinstance(m, torch.nn.Linear)]) == 3


@pytest.mark.parametrize("name", ["6d", "9d"])
def test_head_learns_a_rotation(name, rng):
    # one step of a loss from the identity: gradients arrive, and a few hundred steps reach the target
    torch.manual_seed(0)
    head = RotationHead(3, name)
    x = torch.randn(32, 3, generator=rng)
    target = sampling.haar(3, (), rng).expand(32, 3, 3)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-2)
    for _ in range(200):
        optimizer.zero_grad()
        losses.matrix_mse(head(x).matrix, target).backward()
        optimizer.step()
    assert losses.geodesic(head(x).matrix, target).rad2deg() < 5


def test_export_with_a_dynamic_batch():
    head = RotationHead(5, "6d", hidden=(4,), init="default").eval()
    check_export(lambda x: head(x).matrix, torch.randn(3, 5))
    program = torch.export.export(head, (torch.randn(3, 5),), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},))
    x = torch.randn(7, 5)
    torch.testing.assert_close(program.module()(x).matrix, head(x).matrix)
    assert not any("linalg" in str(node.target) and "cross" not in str(node.target) for node in program.graph.nodes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.export.load(buffer).module()(x).matrix, head(x).matrix)


def test_autocast_keeps_the_decoder_in_float32(rng):
    head = RotationHead(5, "9d", init="default")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        R = head(torch.randn(8, 5, generator=rng)).matrix
    assert R.dtype == torch.bfloat16  # what the linear layer gives
    assert (R.double().mT @ R.double() - torch.eye(3, dtype=torch.float64)).abs().max() < 1e-2  # rounding of the entries only


@pytest.mark.bad_input
def test_errors():
    with pytest.raises(ValueError, match="name must be one of"):
        RotationHead(4, "7d")
    with pytest.raises(ValueError, match="in_features must be at least 1"):
        RotationHead(0)
    with pytest.raises(TypeError, match="hidden must be an int"):
        RotationHead(4, hidden=(2.0,))
    with pytest.raises(ValueError, match="init must be one of"):
        RotationHead(4, init="zero")
    with pytest.raises(ValueError, match="beside an instance"):
        RotationHead(4, get_representation("6d"), layout="concat")
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 4\)"):
        RotationHead(4)(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="rotation must be one of"):
        SimilarityHead(4, "7d")
