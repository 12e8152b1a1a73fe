"""Fit one rotation to noisy point pairs by gradient descent on its 6D numbers, and check it against the closed form."""

import math

import torch

from geocore import so3


def main() -> float:
    g = torch.Generator().manual_seed(0)
    truth = so3.random(generator=g)
    points = torch.randn(200, 3, generator=g)
    images = points @ truth.mT + 0.05 * torch.randn(200, 3, generator=g)

    numbers = torch.tensor([1.0, 0, 0, 0, 1, 0], requires_grad=True)
    optimizer = torch.optim.Adam([numbers], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss = (points @ so3.from_6d(numbers).mT - images).square().sum(-1).mean()
        loss.backward()
        optimizer.step()

    learned = so3.from_6d(numbers.detach())
    closed = so3.align(points, images, translation=False).rotation
    to_closed = math.degrees(so3.geodesic(learned, closed).item())
    print(f"gradient descent against the closed form: {to_closed:.4f} degrees")
    print(f"closed form against the truth:            {math.degrees(so3.geodesic(closed, truth).item()):.4f} degrees")
    print(f"as Euler angles (XYZ, degrees):           {so3.matrix_to_euler(learned, 'XYZ').rad2deg().tolist()}")
    return to_closed


if __name__ == "__main__":
    main()
