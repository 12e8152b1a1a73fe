import pytest
import torch

from geocore.orthogonal import assert_orthogonal, assert_rotation, assert_skew, is_orthogonal, is_rotation, is_skew, orthogonality_error

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def rotations(dtype: torch.dtype) -> torch.Tensor:
    g = torch.randn(5, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.matrix_exp(g - g.mT).to(dtype)


class TestMasks:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_rotations_pass_and_scaled_ones_fail(self, dtype: torch.dtype) -> None:
        R = rotations(dtype)
        assert is_rotation(R).tolist() == [True] * 5
        assert is_orthogonal(R).shape == (5,)
        assert not is_rotation(1.1 * R).any()
        assert is_rotation(1.1 * R, atol=0.3).all()

    def test_reflections_are_orthogonal_only(self) -> None:
        Q = torch.diag(torch.tensor([1.0, -1.0]))
        assert is_orthogonal(Q)
        assert not is_rotation(Q)

    def test_frames(self) -> None:
        Q = rotations(torch.float64)
        assert is_orthogonal(Q[..., :2]).all()
        assert is_orthogonal(Q[..., :2, :]).all()
        assert not is_orthogonal(torch.ones(3, 2))
        assert orthogonality_error(torch.zeros(3, 0)) == 0.0

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_skew(self, dtype: torch.dtype) -> None:
        S = torch.tensor([[0.0, 1e3], [-1e3, 0.0]], dtype=dtype)
        assert is_skew(S)
        assert not is_skew(S.abs())
        assert is_skew(torch.zeros(0, 3, 3, dtype=dtype)).shape == (0,)

    def test_nan_is_never_valid(self) -> None:
        bad = torch.full((2, 2), float("nan"))
        assert not is_orthogonal(bad)
        assert not is_rotation(bad)
        assert not is_skew(bad)

    def test_traceable_without_reading_values(self) -> None:
        R = rotations(torch.float32)
        assert torch.vmap(is_rotation)(R).all()
        assert torch.compile(is_rotation, fullgraph=True, backend="aot_eager")(R).all()


class TestAssertions:
    def test_valid_input_passes(self) -> None:
        R = rotations(torch.float32)
        assert assert_rotation(R) is None
        assert assert_orthogonal(-R[..., :3]) is None
        assert assert_skew(R - R.mT) is None

    @pytest.mark.parametrize("kind", [ValueError, AssertionError])
    def test_failures_name_the_item_and_the_error(self, kind: type[Exception]) -> None:
        R = rotations(torch.float64)
        R[3] = 2 * R[3]
        with pytest.raises(kind, match=r"1 of 5 are not, the first at index \(3,\) with error 3 \(allowed 1e-10\)"):
            assert_rotation(R)
        with pytest.raises(kind, match="det R = 1"):
            assert_rotation(torch.diag(torch.tensor([1.0, -1.0])))
        with pytest.raises(kind, match="orthogonal"):
            assert_orthogonal(torch.ones(2, 2))
        with pytest.raises(kind, match="skew"):
            assert_skew(torch.eye(2))

    @pytest.mark.bad_input
    def test_bad_input(self) -> None:
        for check in (is_rotation, is_skew, assert_rotation, assert_skew):
            with pytest.raises(ValueError, match="square"):
                check(torch.zeros(2, 3))
        for check in (is_orthogonal, assert_orthogonal):
            with pytest.raises(ValueError, match="shape"):
                check(torch.zeros(3))
            with pytest.raises(TypeError, match="floating-point"):
                check(torch.zeros(3, 3, dtype=torch.long))
