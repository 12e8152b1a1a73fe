"""The same six numbers mean different rotations in different code bases: convert explicitly."""

import torch

from rotrep import continuity_report, convert, get_representation, list_representations

R = get_representation("rotvec").decode(torch.tensor([0.3, -0.5, 0.8]))
for convention in ("columns", "rows"):
    for layout in ("concat", "interleaved"):
        v = get_representation("6d", convention=convention, layout=layout).encode(R)
        print(f"{convention:8} {layout:12}", [round(x, 3) for x in v.tolist()])
print("rows to columns:", convert(R[:2].flatten(), "6d", "6d", src_convention="rows").tolist())
for name in list_representations():
    report = continuity_report(name, n=16, steps=500)
    print(f"{name:16} largest jump {report['max_jump']:12.3g}")
