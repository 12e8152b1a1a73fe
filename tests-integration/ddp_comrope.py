"""One process of the distributed test: a training step of the small transformer on its share of the batch, under DDP."""

import sys

import torch
from small_models import batch, make
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel


def main(rank: int, world: int, store: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    patches, positions, labels = batch(8)
    share = slice(rank * 8 // world, (rank + 1) * 8 // world)
    model = DistributedDataParallel(make())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(patches[share], positions), labels[share]).backward()
        optimizer.step()
    if rank == 0:
        torch.save({"grad": {n: p.grad for n, p in model.module.named_parameters()}, "state": model.module.state_dict()}, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
