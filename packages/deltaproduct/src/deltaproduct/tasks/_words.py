"""Word problems: the running product of group elements; parity is that of two."""

import torch
from torch import Tensor

from deltaproduct.tasks._base import IGNORE, Task, generator
from deltaproduct.tasks._groups import Group, group
from geocore._checks import check_positive_int

__all__ = ["GroupWordProblem", "parity"]


class GroupWordProblem(Task):
    """Words over a group; the target at every position is the product of the elements so far.

    ``targets[:, t] = tokens[:, 0] tokens[:, 1] ... tokens[:, t]`` by the group's Cayley table, the accumulated product on the left.

    Args:
        problem: ``"S5"``, ``"A5"``, ``"Z7"``, ``"D4"``, ``"S3_x_Z2"``, a Cayley table, or a ``Group``.
        length: Elements per word.
        n: Number of words.
        generators: Elements that words are made of: ``"all"``, ``"transpositions"`` (swaps only), a number (so many elements, drawn by the
            seed), or a tensor of elements.
        seed: Seed of the words.
        bos: Whether a token for the beginning, number ``order``, comes first; its target is ``IGNORE``.
        extra_tokens: Thinking tokens, number ``order + 1``, after each element; the target moves to the last of them.

    Raises:
        ValueError: If the group or generators are unknown, a generator is no element, or a size is too small.
        TypeError: If a size is not an int.

    Example:
        >>> tokens, targets = GroupWordProblem("S3", length=16, n=64, seed=1)
        >>> tokens.shape, targets.shape
        (torch.Size([64, 16]), torch.Size([64, 16]))
    """

    group: Group

    def __new__(  # noqa: PYI034 - the runtime shape checker reads no Self
        cls,
        problem: str | Tensor | Group,
        length: int,
        n: int,
        generators: str | int | Tensor = "all",
        seed: int = 0,
        *,
        bos: bool = False,
        extra_tokens: int = 0,
    ) -> "GroupWordProblem":
        """Generate the words."""
        check_positive_int("length", length)
        check_positive_int("n", n, minimum=0)
        check_positive_int("extra_tokens", extra_tokens, minimum=0)
        made = group(problem)
        random = generator(seed)
        letters = _letters(made, generators, random)
        drawn = torch.randint(len(letters), (length, n), generator=random)  # by position: a step below reads one row
        words = drawn if torch.equal(letters, torch.arange(made.order)) else letters[drawn]
        products = torch.empty_like(words)
        acc = torch.zeros(n, dtype=torch.int64)
        flat = made.table.flatten()
        for t in range(length):
            acc = flat[acc * made.order + words[t]]
            products[t] = acc
        tokens, targets = words.T.contiguous(), products.T.contiguous()
        if extra_tokens:
            tokens = _stretch(tokens, made.order + 1, extra_tokens, first=True)
            targets = _stretch(targets, IGNORE, extra_tokens, first=False)
        if bos:
            tokens = torch.cat([tokens.new_full((n, 1), made.order), tokens], 1)
            targets = torch.cat([targets.new_full((n, 1), IGNORE), targets], 1)
        self = tuple.__new__(cls, (tokens, targets))
        self.group, self.num_classes, self.names = made, made.order, ()
        self.vocab_size = made.order + (2 if extra_tokens else int(bos))
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self[0], self[1], self.group, self.vocab_size)


def _rebuild(tokens: Tensor, targets: Tensor, made: Group, vocab_size: int) -> GroupWordProblem:
    self = tuple.__new__(GroupWordProblem, (tokens, targets))
    self.group, self.num_classes, self.names, self.vocab_size = made, made.order, (), vocab_size
    return self


def _letters(made: Group, generators: str | int | Tensor, random: torch.Generator) -> Tensor:
    if isinstance(generators, Tensor):
        letters = generators.long()
        if letters.ndim != 1 or letters.numel() == 0 or int(letters.min()) < 0 or int(letters.max()) >= made.order:
            raise ValueError(f"generators must be elements from 0 to {made.order - 1}, got {generators.tolist()}")
        return letters
    if generators == "all":
        return torch.arange(made.order)
    if generators == "transpositions":
        if made.transpositions.numel() == 0:
            raise ValueError(f"generators='transpositions' needs a group that has some, got {made.name}")
        return made.transpositions
    if isinstance(generators, int) and not isinstance(generators, bool) and 1 <= generators <= made.order:
        return torch.randperm(made.order, generator=random)[:generators].sort().values
    raise ValueError(
        f"generators must be 'all', 'transpositions', a number up to {made.order}, or a tensor of elements, got {generators!r}"
    )


def _stretch(x: Tensor, fill: int, extra: int, *, first: bool) -> Tensor:
    n, length = x.shape
    out = x.new_full((n, length, extra + 1), fill)
    out[:, :, 0 if first else -1] = x
    return out.flatten(1)


def parity(length: int, n: int, seed: int = 0) -> Task:
    """Bits; the target at every position is the parity of the ones so far.

    Args:
        length: Bits per sequence.
        n: Number of sequences.
        seed: Seed of the bits.

    Returns:
        ``(tokens, targets)``, both ``(n, length)`` in {0, 1}.

    Raises:
        ValueError: If a size is too small.
        TypeError: If a size is not an int.

    Example:
        >>> tokens, targets = parity(4, 1)
    """
    check_positive_int("length", length)
    check_positive_int("n", n, minimum=0)
    bits = torch.randint(2, (n, length), generator=generator(seed))
    return Task(bits, bits.cumsum(1) % 2, vocab_size=2, num_classes=2, names=("0", "1"))
