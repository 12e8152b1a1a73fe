"""The unit cycle resolver: angles as points of a circle, and the pull that keeps predictions on it."""

from math import pi, sqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geocore._checks import check_option
from geocore.planar import decode_phase, wrap
from obbkit import _quick
from obbkit.coders import check_code, flat_angle, register_coder, wide

__all__ = ["UCRCoder", "UnitCircleLoss"]


def _root(square: Tensor) -> Tensor:
    """Square root with gradient 0 at 0; what is not a number stays so."""
    return torch.where(square == 0, 0.0, torch.where(square == 0, 1.0, square).sqrt())


class UCRCoder(nn.Module):
    """Codes ``x_k = cos(phi + 2 pi k / m)`` of the phase ``phi = 2 pi t / period``; for ``m = 2`` ``(cos phi, sin phi)``.

    The codes of all angles are one circle of squared radius ``m / 2`` in a plane (for ``m = 3`` the one orthogonal to (1, 1, 1)), of
    radius 1 for ``m = 2``. Reading an angle ignores the distance from the circle, so a network may drift away from it; ``restriction``
    measures how far it is, and with ``invalid_thr`` codes near the axis, whose angle means nothing, read as 0 and get no angle gradient.

    Source: RSAR: Restricted State Angle Resolver and Rotated SAR Benchmark, CVPR 2025, arXiv 2501.04440, section 3.

    Args:
        m: Numbers of a code, at least 2.
        invalid_thr: Share of the squared amplitude below which a code is invalid; 0 for never.
        period: Period of the angle, pi for boxes.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> coder = UCRCoder(3)
        >>> coder.encode(torch.tensor(0.3))
        tensor([ 0.8253, -0.9017,  0.0763])
        >>> coder.decode(2 * coder.encode(torch.tensor(0.3)) + 1)
        tensor(0.3000)
    """

    cosines: Tensor
    sines: Tensor

    def __init__(self, m: int = 3, invalid_thr: float = 0.0, period: float = pi) -> None:
        super().__init__()
        if isinstance(m, bool) or not isinstance(m, int):
            raise TypeError(f"m must be an int, got {type(m).__name__}")
        if m < 2:
            raise ValueError(f"m must be at least 2, got {m}")
        if not invalid_thr >= 0:
            raise ValueError(f"invalid_thr must not be negative, got {invalid_thr}")
        if not period > 0:
            raise ValueError(f"period must be positive, got {period}")
        self.m, self.invalid_thr, self.period = m, invalid_thr, period
        self.encode_size = m
        self.radius2 = 1.0 if m == 2 else m / 2
        phase = 2 * pi * torch.arange(m, dtype=torch.float64) / m if m > 2 else torch.tensor([0.0, -pi / 2], dtype=torch.float64)
        self.columns = phase.cos().tolist(), phase.sin().tolist()
        self.register_buffer("cosines", phase.cos(), persistent=False)
        self.register_buffer("sines", phase.sin(), persistent=False)

    def encode(self, angle: Float[Tensor, "..."]) -> Float[Tensor, "... m"]:
        """Codes of angles.

        Args:
            angle: Radians, shape ``(...)``, or ``(..., 1)`` of at least two dimensions.

        Raises:
            TypeError: If it is not floating.
        """
        a = flat_angle(angle)
        if _quick.pays(a, a.numel()):
            return _quick.encode(a, 2 * pi / self.period, *self.columns)
        phi = wide(a) * (2 * pi / self.period)
        code = phi.cos().unsqueeze(-1) * self.cosines.to(phi.dtype) - phi.sin().unsqueeze(-1) * self.sines.to(phi.dtype)
        return code.to(a.dtype)

    def projections(self, code: Float[Tensor, "... m"]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """``(p_c, p_s)``: radius times cosine and sine of the phase, float32 at least.

        Args:
            code: Shape ``(..., m)``.

        Raises:
            ValueError: If the last dimension is not ``m``.
        """
        check_code(code, self.m)
        x = wide(code)
        if _quick.may_run(x):
            c, s = _quick.project(x.reshape(-1, self.m), *self.columns)
            return c.reshape(x.shape[:-1]), s.reshape(x.shape[:-1])
        if self.m > 4:
            return (x * self.cosines.to(x.dtype)).sum(-1), -(x * self.sines.to(x.dtype)).sum(-1)
        return _quick.project_reference(x, *self.columns)  # so few columns are added up faster one by one than by a reduction

    def decode(self, code: Float[Tensor, "... m"], keepdim: bool = False) -> Float[Tensor, "..."]:
        """Angles of codes, in ``[-period / 2, period / 2)``.

        Args:
            code: Shape ``(..., m)``, any amplitude; below 1e-6 the angle is 0 with zero gradient.
            keepdim: Keep a last dimension of one.

        Raises:
            ValueError: If the last dimension is not ``m``.
        """
        check_code(code, self.m)
        if _quick.may_run(code):
            angle = self._decode_quick(code)
            return angle.unsqueeze(-1) if keepdim else angle
        c, s = self.projections(code)
        angle = wrap(decode_phase(c, s, tol=1e-6 * self.radius2) * (self.period / (2 * pi)), self.period, -self.period / 2)
        if self.invalid_thr > 0:
            square = (c.square() + s.square()).detach()
            angle = torch.where(square < self.radius2**2 * self.invalid_thr, 0.0, angle)
        angle = angle.to(code.dtype)
        return angle.unsqueeze(-1) if keepdim else angle

    def _decode_quick(self, code: Tensor) -> Tensor:
        flat = code.detach().reshape(-1, self.m)
        angle = flat.new_empty(len(flat))
        for part, into in _quick.pieces(flat, angle):
            c, s = _quick.project(part, *self.columns)
            square = c.square().addcmul_(s, s) if self.invalid_thr > 0 else None
            _quick.read_angle(c, s, self.period, 1e-6 * self.radius2, into)
            if square is not None:
                into.masked_fill_(square < self.radius2**2 * self.invalid_thr, 0.0)
        return angle.reshape(code.shape[:-1])

    def amplitude(self, code: Float[Tensor, "... m"]) -> Float[Tensor, "..."]:
        """Distance from the axis in radii of the circle: 1 on it.

        Args:
            code: Shape ``(..., m)``.

        Raises:
            ValueError: If the last dimension is not ``m``.
        """
        c, s = self.projections(code)
        square = c.square() + s.square()
        return (_root(square) / self.radius2).to(code.dtype)

    def restriction(
        self, code: Float[Tensor, "... m"], reduction: str = "mean", form: str = "squared", complement: str = "official"
    ) -> Float[Tensor, "..."]:
        """How far codes are from the circle.

        ``| |x|^2 - r^2 | + |x_1 + x_2 + x_3|`` for ``m = 3``, the first term alone for ``m = 2``, each averaged over the codes.

        Args:
            code: Shape ``(..., m)``.
            reduction: ``"mean"``, ``"sum"`` or ``"none"``.
            form: ``"squared"`` (the paper; no gradient at the origin), or ``"norm"``: ``| |x| - r |``.
            complement: ``"official"``: ``|sum x|``; ``"all"``: for ``m > 3`` everything orthogonal to the plane of the circle counts, the
                same as before for ``m = 3``.

        Returns:
            A number, or shape ``(...)``. Of no codes 0, connected to the graph.

        Raises:
            ValueError: If a shape or option is wrong.
        """
        check_option("reduction", reduction, ("mean", "sum", "none"))
        check_option("form", form, ("squared", "norm"))
        check_option("complement", complement, ("official", "all"))
        check_code(code, self.m)
        x = wide(code)
        if (complement == "official" or self.m <= 3) and _quick.pays(code, code.numel() // self.m):
            return self._restriction_quick(code, reduction, form)
        square = x.square().sum(-1)
        if form == "squared":
            value = (square - self.radius2).abs()
        else:
            value = (_root(square) - sqrt(self.radius2)).abs()
        if self.m > 2:
            value = value + self._off_plane(x, complement)
        value = value.to(code.dtype)
        if reduction == "none":
            return value
        return value.sum() if reduction == "sum" or value.numel() == 0 else value.mean()

    def _restriction_quick(self, code: Tensor, reduction: str, form: str) -> Tensor:
        flat = code.detach().reshape(-1, self.m)
        values, squares = flat.new_empty(len(flat)), torch.empty_like(flat[: _quick.PIECE])
        for part, into in _quick.pieces(flat, values):
            square = _quick.row_sum(torch.mul(part, part, out=squares[: len(part)]))
            if form == "squared":
                torch.sub(square, self.radius2, out=into).abs_()
            else:
                torch.sub(square.sqrt_(), sqrt(self.radius2), out=into).abs_()
            if self.m > 2:
                into.add_(_quick.row_sum(part).abs_())
        if reduction == "none":
            return values.reshape(code.shape[:-1])
        return values.sum() if reduction == "sum" or values.numel() == 0 else values.mean()

    def _off_plane(self, x: Tensor, complement: str) -> Tensor:
        if complement == "official" or self.m == 3:
            return x.sum(-1).abs()
        cosines, sines = self.cosines.to(x.dtype), self.sines.to(x.dtype)
        inside = ((x * cosines).sum(-1, keepdim=True) * cosines + (x * sines).sum(-1, keepdim=True) * sines) * (2 / self.m)
        rest = x - inside
        basis = self._basis().to(x)
        return sqrt(self.m) * (rest @ basis).abs().sum(-1)

    def _basis(self) -> Tensor:
        """Orthonormal columns orthogonal to the circle: the constant, and the other real harmonics."""
        k = torch.arange(self.m, dtype=torch.float64)
        columns = [torch.ones_like(k)]
        for order in range(2, self.m // 2 + 1):
            columns.append((2 * pi * order * k / self.m).cos())
            if 2 * order != self.m:
                columns.append((2 * pi * order * k / self.m).sin())
        stacked = torch.stack(columns, -1)
        return stacked / stacked.norm(dim=0)

    def get_restrict_loss(self, code: Float[Tensor, "... m"]) -> Float[Tensor, ""]:
        """``restriction(code)``, the name that hosts of mmrotate call."""
        return self.restriction(code)

    def extra_repr(self) -> str:
        """Arguments."""
        return f"m={self.m}, invalid_thr={self.invalid_thr}, period={self.period:.6g}"


class UnitCircleLoss(nn.Module):
    """``loss_weight`` times the restriction of a coder, after ``warmup`` steps.

    A constant code on the circle satisfies the restriction without any angle, so an early, strong pull can trap a network there; waiting
    for the angles to form avoids that. Steps are counted by the calls in training mode, and saved with the state.

    Args:
        coder: ``UCRCoder``.
        loss_weight: Weight; 0.05 in the paper, 0.03 for DOTA.
        form, complement: As ``UCRCoder.restriction``.
        warmup: Steps before the loss starts; 0 as in the paper.

    Raises:
        ValueError: If an argument is out of range.
    """

    steps: Tensor

    def __init__(
        self, coder: UCRCoder, loss_weight: float = 0.05, form: str = "squared", warmup: int = 0, complement: str = "official"
    ) -> None:
        super().__init__()
        check_option("form", form, ("squared", "norm"))
        check_option("complement", complement, ("official", "all"))
        if not loss_weight >= 0:
            raise ValueError(f"loss_weight must not be negative, got {loss_weight}")
        if not warmup >= 0:
            raise ValueError(f"warmup must not be negative, got {warmup}")
        if warmup % 1:
            raise ValueError(f"warmup must be a whole number of steps, got {warmup}; a share of a training is Recipe.warmup")
        self.coder, self.loss_weight, self.form, self.warmup, self.complement = coder, loss_weight, form, warmup, complement
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, code: Float[Tensor, "... m"]) -> Float[Tensor, ""]:
        """Loss of a batch of codes; 0, connected to the graph, before the warm-up is over and for none.

        Args:
            code: Shape ``(..., m)``.
        """
        started = self.steps >= self.warmup
        if self.training:
            self.steps += 1
        value = self.loss_weight * self.coder.restriction(code, form=self.form, complement=self.complement)
        return torch.where(started, value, 0.0 * value)


register_coder("ucr", UCRCoder)
