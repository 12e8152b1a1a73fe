"""Learn the generator of a rotary position embedding, then fold it into plain RoPE.

One skew matrix S acts on vectors at positions t through exp(t S), without a matrix exponential per position. The dot product
of two rotated vectors depends on the difference of their positions only. After training, the planes and frequencies of S turn
it into an ordinary rotary embedding.
"""

import torch

from geocore import son


def main() -> None:
    torch.manual_seed(0)
    n, length = 8, 64
    truth = son.skew(0.3 * torch.randn(n, n))
    t = torch.arange(length, dtype=torch.float32)
    x = torch.randn(length, n)
    target = son.expm_skew_apply(truth, t / length, x)

    P = torch.zeros(n, n, requires_grad=True)  # S = 0, where gradients through eigenvectors do not exist
    optimizer = torch.optim.Adam([P], lr=0.03)
    for step in range(301):
        loss = (son.expm_skew_apply(son.skew(P), t / length, x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step:3d}  loss {loss.item():.2e}")

    S = son.skew(P).detach()
    q, k = torch.randn(n), torch.randn(n)

    def score(a: float, b: float) -> float:
        return float(son.expm_skew_apply(S, torch.tensor(a), q) @ son.expm_skew_apply(S, torch.tensor(b), k))

    print(f"score at positions (0.1, 0.4) {score(0.1, 0.4):.6f}, shifted by 5: {score(5.1, 5.4):.6f}")

    w, Q = son.skew_spectral(S)
    print("frequencies", [round(v, 3) for v in w.tolist()], "of the target", [round(v, 3) for v in son.skew_spectral(truth)[0].tolist()])
    a, b = (Q.mT @ q)[0::2], (Q.mT @ q)[1::2]
    c, s = torch.cos(0.4 * w), torch.sin(0.4 * w)
    folded = Q @ torch.stack([c * a - s * b, s * a + c * b], -1).flatten()
    print(f"plain RoPE in the basis Q differs by {(folded - son.expm_skew_apply(S, torch.tensor(0.4), q)).abs().max().item():.1e}")


if __name__ == "__main__":
    main()
