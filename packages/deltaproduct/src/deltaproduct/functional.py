"""The method as functions of tensors: ``delta_product`` and ``transition_matrix``."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deltaproduct._checks import check_cu_seqlens, check_inputs, check_values
from deltaproduct._chunk import chunk_pass
from deltaproduct._chunk_grad import Settings, chunk_pass_recomputed
from deltaproduct._dispatch import NORM_EPS, choose_mode, default_chunk_size, needs_composable, without_autocast
from deltaproduct._kernel import kernel_pass, kernel_runs
from deltaproduct._plan import dense_plan, ragged_plan
from deltaproduct._recurrent import decode_step, recurrent_pass
from geocore._checks import check_broadcastable, check_floating, check_positive_int, check_trailing
from geocore._precision import full_precision
from geocore.householder import to_matrix

__all__ = ["delta_product", "normalise", "transition_matrix"]


def delta_product(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B Tn H K"],
    v: Float[Tensor, "B Tn H V"],
    beta: Float[Tensor, "B Tn H"],
    g: Float[Tensor, "B T H"] | None = None,
    *,
    num_householder: int,
    scale: float | None = None,
    initial_state: Float[Tensor, "N H K V"] | None = None,
    output_final_state: bool = False,
    cu_seqlens: Int[Tensor, " N1"] | None = None,
    l2norm_qk: bool = False,
    mode: str = "auto",
    chunk_size: int | None = None,
    state_dtype: torch.dtype = torch.float32,
    validate: bool = False,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "N H K V"] | None]:
    r"""Linear recurrence whose transition is a product of ``n`` generalised Householder factors per token.

    For every head, with a state ``S (K, V)`` and micro-steps ``j = 1 .. n`` of token ``t``,

        S <- exp(g_t) S                                            once per token, before its first micro-step
        S <- (I - beta_tj k_tj k_tj^T) S + beta_tj k_tj v_tj^T     for j = 1 .. n
        o_t = scale S^T q_t                                        after the last micro-step

    (Siems et al., DeltaProduct, NeurIPS 2025; ``n = 1`` is DeltaNet, with ``g`` the gated delta rule). It is stable for any length if
    ``beta |k|^2`` stays in [0, 2], so keys should have unit length; keys that are not normalised make the solve inside a chunk explode.
    Layout and names are those of flash-linear-attention.

    Args:
        q: Queries, shape ``(B, T, H, K)``.
        k: Keys, shape ``(B, T * n, H, K)``, the micro-steps of a token one after another.
        v: Values, shape ``(B, T * n, H, V)``.
        beta: Step sizes, shape ``(B, T * n, H)``, in [0, 1], or [0, 2] for negative eigenvalues.
        g: Log-gates, shape ``(B, T, H)``, at most 0; none by default.
        num_householder: ``n``, factors per token.
        scale: Factor of the outputs; ``K ** -0.5`` by default.
        initial_state: States before the first token, shape ``(N, H, K, V)``, ``N = B`` or the number of sequences; zero by default.
        output_final_state: Whether to return the states after the last token.
        cu_seqlens: Offsets in tokens of sequences that follow one another in a batch of 1, shape ``(N + 1,)``, int32 or int64, from 0 to
            ``T``; empty sequences are legal. On another device than the CPU they are waited for.
        l2norm_qk: Whether to normalise queries and keys, ``x / sqrt(|x|^2 + 1e-6)``, in the computing dtype; a zero key then is no update
            and has a finite gradient. Rounding that would lift ``beta |k|^2`` above 2 is taken out of ``beta``.
        mode: ``"recurrent"`` (token by token), ``"chunk"`` (parallel within chunks; hand-written gradient that saves the inputs and one
            state per chunk), ``"triton"`` (the same with a Triton kernel for the pass over chunks), ``"fla"`` (kernels of
            flash-linear-attention: CUDA, float16 or bfloat16) or ``"auto"``. Equal up to rounding. On the CPU ``"chunk"`` and ``"auto"``
            take the compiled kernel where ``geocore-cuda`` is installed.
        chunk_size: Tokens per chunk; by default about 32 micro-steps on the CPU and 64 elsewhere.
        state_dtype: Smallest dtype of the state, the solve and the decays: float32 or float64. They are never in half precision.
        validate: Whether to check values too, which waits for the device: ``beta`` in [0, 2], ``beta |k|^2 <= 2``, ``g <= 0``.

    Returns:
        Outputs of shape ``(B, T, H, V)`` in the common dtype of ``q, k, v``, and the states ``(N, H, K, V)`` in the computing dtype
        (float32 unless an input or ``state_dtype`` is float64), or ``None``.

    Raises:
        ValueError: If a shape does not fit, ``mode`` or ``state_dtype`` is unknown or impossible here, ``cu_seqlens`` are not offsets of a
            batch of 1, or a value that was checked is out of range (``g`` on the CPU always).
        TypeError, NotImplementedError: If an argument has the wrong type, or is complex.
        ImportError: If ``mode="fla"`` without flash-linear-attention.

    Example:
        >>> q, k = torch.randn(1, 100, 2, 16), torch.randn(1, 200, 2, 16)
        >>> v, beta = torch.randn(1, 200, 2, 32), 2 * torch.rand(1, 200, 2)
        >>> o, S = delta_product(q, k, v, beta, num_householder=2, l2norm_qk=True, output_final_state=True)
        >>> o.shape, S.shape
        (torch.Size([1, 100, 2, 32]), torch.Size([1, 2, 16, 32]))
    """
    if state_dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"state_dtype must be torch.float32 or torch.float64, got {state_dtype}; the state loses its content in half precision"
        )
    if chunk_size is not None:
        check_positive_int("chunk_size", chunk_size)
    sequences = None
    if isinstance(cu_seqlens, Tensor) and cu_seqlens.ndim == 1:
        sequences = cu_seqlens.shape[0] - 1
    check_inputs(q, k, v, beta, g, num_householder, initial_state, sequences)
    B, T, H, K = q.shape
    offsets = None if cu_seqlens is None else check_cu_seqlens(cu_seqlens, B, T)
    check_values(k, beta, g, validate=validate, normalised=l2norm_qk)
    factor = float(max(K, 1) ** -0.5 if scale is None else scale)
    asked, mode = mode, choose_mode(mode, q, k, v, tokens=T, state_dtype=state_dtype)
    out_dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    if mode == "fla":
        from deltaproduct.integrations.fla import fla_pass

        o, final = fla_pass(q, k, v, beta, g, num_householder, factor, initial_state, cu_seqlens, l2norm_qk)
        return o.to(out_dtype), final if output_final_state else None

    dtype = torch.promote_types(out_dtype, state_dtype)
    for x in (beta, g):
        dtype = dtype if x is None else torch.promote_types(dtype, x.dtype)
    with without_autocast(q.device):
        if l2norm_qk:
            q, k, beta = normalise(q.to(dtype)), normalise(k.to(dtype)), beta.to(dtype)
            beta = beta - _excess(k.detach(), beta.detach())
        N = B if offsets is None else len(offsets) - 1
        S = q.new_zeros(N, H, K, v.shape[-1], dtype=dtype) if initial_state is None else initial_state.to(dtype)
        size = chunk_size or default_chunk_size(num_householder, q.device)
        composable = needs_composable()
        by_kernel = not composable and (mode == "chunk" or (mode == "recurrent" and asked == "auto"))
        if by_kernel and kernel_runs((q, k, v, beta, g), S, min(size, T) * num_householder):
            o, final = kernel_pass(q, k, v, beta, g, S, offsets, min(size, T), Settings(num_householder, factor, dtype))
        elif mode == "recurrent" or composable:
            inputs = (q.to(dtype) * factor, k.to(dtype), v.to(dtype), beta.to(dtype), None if g is None else g.to(dtype), S)
            if mode == "recurrent" and T == 1 and offsets is None:
                o, final = decode_step(*inputs)
            else:
                size = 1 if mode == "recurrent" else size
                plan = dense_plan(B, T, size) if offsets is None else ragged_plan(offsets, size, q.device)
                o, final = (recurrent_pass if mode == "recurrent" else chunk_pass)(*inputs, plan, num_householder)
        else:
            plan = dense_plan(B, T, size) if offsets is None else ragged_plan(offsets, size, q.device)
            settings = Settings(num_householder, factor, dtype, kernel=mode == "triton")
            o, final = chunk_pass_recomputed(q, k, v, beta, g, S, plan, settings)
    return o.to(out_dtype), final if output_final_state else None


def normalise(x: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch K"]:
    """``x / sqrt(|x|^2 + 1e-6)``: unit length, never more by more than rounding, and zero stays zero with a finite gradient."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + NORM_EPS)


def _excess(k: Tensor, beta: Tensor) -> Tensor:
    """What rounding of the key's length adds to ``beta |k|^2`` beyond 2, as a part of ``beta``; 0 almost everywhere."""
    square = k.square().sum(-1)
    return (beta.clamp(max=2.0) - 2.0 / square.clamp(min=1.0)).clamp(min=0.0)


@full_precision
def transition_matrix(
    k: Float[Tensor, "*batch n K"], beta: Float[Tensor, "*batch n"], g: Float[Tensor, "*batch"] | None = None
) -> Float[Tensor, "*batch K K"]:
    r"""The dense transition of one token, ``A = e^g (I - beta_n k_n k_n^T) ... (I - beta_1 k_1 k_1^T)``.

    For analysis: eigenvalues, norm, effective rank. With ``n = 1`` it is symmetric; two factors with ``beta = 2`` and unit keys are the
    rotation by twice the angle between the keys, with eigenvalues ``e^{+-2i acos(k_1 . k_2)}``.

    Args:
        k: Keys, shape ``(..., n, K)``, in the order of the micro-steps; used as they are.
        beta: Step sizes, shape ``(..., n)``.
        g: Log-gate of the token, shape ``(...)``; none by default.

    Returns:
        Shape ``(..., K, K)``, acting on the state from the left.

    Raises:
        ValueError: If a shape does not fit.
        TypeError, NotImplementedError: If an argument is not real floating point.

    Example:
        >>> k = torch.nn.functional.normalize(torch.randn(2, 3), dim=-1)
        >>> torch.linalg.eigvals(transition_matrix(k, torch.tensor([2.0, 2.0]))).abs()  # a rotation: all 1
    """
    check_trailing("k", k, (None, None), hint="the keys of the micro-steps are its rows")
    check_trailing("beta", beta, (k.shape[-2],), hint=f"one step size for each of the {k.shape[-2]} keys")
    check_broadcastable(k=k.shape[:-2], beta=beta.shape[:-1])
    A = to_matrix(k.flip(-2).mT, beta.flip(-1))
    if g is None:
        return A
    check_floating("g", g)
    check_broadcastable(k=k.shape[:-2], g=g.shape)
    return torch.exp(g)[..., None, None] * A
