"""Modular arithmetic, with brackets (context-free) or without (regular): the answer is asked for at the last position."""

import torch
from torch import Tensor

from deltaproduct.tasks._base import IGNORE, Task, generator
from geocore._checks import check_positive_int

__all__ = ["modular_arithmetic"]

_OPERATORS = ("+", "-", "*")
_TOGETHER = 8192  # expressions at a time, so that their state stays in the cache of a core


def modular_arithmetic(mod: int = 5, brackets: bool = False, length: int = 16, n: int = 1000, seed: int = 0, *, max_depth: int = 8) -> Task:
    """Expressions such as ``3 + 2 * ( 4 - 1 ) =`` and their values modulo ``mod``; ``*`` binds before ``+`` and ``-``.

    Expressions have an odd number of tokens; what is left of ``length`` is filled with ``=``, at least one. Where a bracket
    may open, it does so half of the time; where one may close, a quarter of the time.

    Args:
        mod: Modulus; digits are ``0 .. mod - 1``.
        brackets: Whether expressions have brackets.
        length: Tokens per sequence, at least 2.
        n: Number of sequences.
        seed: Seed of the expressions.
        max_depth: Largest nesting of brackets.

    Returns:
        ``(tokens, targets)``, both ``(n, length)``. Tokens: ``0 .. mod - 1``, then ``+ - * ( ) =``. The target is the value at the last
        position and ``IGNORE`` (-100) elsewhere.

    Raises:
        ValueError: If a size is too small.
        TypeError: If a size is not an int.

    Example:
        >>> tokens, targets = modular_arithmetic(5, brackets=True, length=12, n=2)
    """
    check_positive_int("mod", mod, minimum=2)
    check_positive_int("length", length, minimum=2)
    check_positive_int("n", n, minimum=0)
    check_positive_int("max_depth", max_depth, minimum=0)
    names = (*map(str, range(mod)), *_OPERATORS, "(", ")", "=")
    size = length - 1 if length % 2 == 0 else length - 2  # odd, and room for '='
    tokens = torch.full((length, n), len(names) - 1)
    targets = torch.full((n, length), IGNORE)
    random = generator(seed)
    for start in range(0, n, _TOGETHER):
        rows = slice(start, min(n, start + _TOGETHER))
        machine = _Machine(rows.stop - start, mod, max_depth if brackets else 0, random)
        for t in range(size):
            tokens[t, rows] = machine.step(size - t)
        targets[rows, -1] = machine.value()
    return Task(tokens.T.contiguous(), targets, vocab_size=len(names), num_classes=mod, names=names)


class _Machine:
    """Writes ``n`` expressions token by token and evaluates them on the way.

    A level is ``total + sign * product``; an opening bracket pushes it, a closing one multiplies its value into the level below.
    """

    def __init__(self, n: int, mod: int, max_depth: int, random: torch.Generator) -> None:
        self.mod, self.max_depth, self.random, self.n = mod, max_depth, random, n
        self.expects = torch.ones(n, dtype=torch.bool)  # an operand; an operator or closing bracket otherwise
        self.depth = torch.zeros(n, dtype=torch.int64)
        self.level = torch.tensor([0, 1, 1])[:, None].repeat(1, n)  # total, sign, product
        self.stack = torch.zeros(max_depth + 1, 3, n, dtype=torch.int64)

    def step(self, left: int) -> Tensor:
        """One token, with ``left`` to go including this one."""
        mod = self.mod
        coin = torch.rand(self.n, generator=self.random)
        digit = torch.randint(mod, (self.n,), generator=self.random)
        operator = torch.randint(3, (self.n,), generator=self.random)
        # left - depth keeps its parity; an opening bracket needs three more tokens at least: a digit and two brackets
        opens = self.expects & (self.depth < self.max_depth) & (self.depth <= left - 3) & (coin < 0.5)
        closes = ~self.expects & ((self.depth >= left) | ((self.depth > 0) & (coin < 0.25)))
        writes, operates = self.expects & ~opens, ~(self.expects | closes)
        token = torch.where(writes, digit, mod + operator)
        total, sign, product = self.level
        product.copy_(torch.where(writes, product * digit % mod, product))
        additive = operates & (operator < 2)
        total.copy_(torch.where(additive, (total + sign * product) % mod, total))
        sign.copy_(torch.where(additive, 1 - 2 * operator, sign))
        product.masked_fill_(additive, 1)
        if self.max_depth:
            self._brackets(opens.nonzero()[:, 0], closes.nonzero()[:, 0], token)
        self.expects = opens | operates
        return token

    def _brackets(self, opens: Tensor, closes: Tensor, token: Tensor) -> None:
        token[opens], token[closes] = self.mod + 3, self.mod + 4
        self.stack[self.depth[opens], :, opens] = self.level[:, opens].T
        self.level[:, opens] = torch.tensor([0, 1, 1])[:, None]
        self.depth[opens] += 1
        value = self.value()[closes]
        self.depth[closes] -= 1
        self.level[:, closes] = self.stack[self.depth[closes], :, closes].T
        self.level[2, closes] = self.level[2, closes] * value % self.mod

    def value(self) -> Tensor:
        """Values of the levels that are open now."""
        total, sign, product = self.level
        return (total + sign * product) % self.mod
