"""State-tracking tasks with seeded, vectorised generators: word problems of groups, parity, modular arithmetic.

Every task unpacks as ``tokens, targets = task``, both ``(n, length)`` int64; targets that are not asked for are ``IGNORE`` (-100, which
``cross_entropy`` leaves out).
"""

from deltaproduct.tasks._arithmetic import modular_arithmetic
from deltaproduct.tasks._base import IGNORE, Task
from deltaproduct.tasks._groups import Group, group, permutation_matrices
from deltaproduct.tasks._words import GroupWordProblem, parity

__all__ = ["IGNORE", "Group", "GroupWordProblem", "Task", "group", "modular_arithmetic", "parity", "permutation_matrices"]
