"""What all tasks return."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

__all__ = ["IGNORE", "Task", "generator"]

IGNORE = -100


class Task(tuple[Tensor, Tensor]):
    """A pair ``(tokens, targets)`` with its vocabulary.

    Args:
        tokens: Shape ``(n, length)``, int64.
        targets: Same shape, ``IGNORE`` where no answer is asked for.
        vocab_size: Number of tokens.
        num_classes: Number of answers; answers are ``0 .. num_classes - 1``.
        names: Text of each token, where it has one.
    """

    vocab_size: int
    num_classes: int
    names: tuple[str, ...]

    def __new__(cls, tokens: Tensor, targets: Tensor, *, vocab_size: int, num_classes: int, names: tuple[str, ...] = ()) -> "Task":  # noqa: PYI034 - the runtime shape checker reads no Self
        """Bind the pair."""
        self = super().__new__(cls, (tokens, targets))
        self.vocab_size, self.num_classes, self.names = vocab_size, num_classes, names
        return self

    def __getnewargs_ex__(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self[0], self[1]), {"vocab_size": self.vocab_size, "num_classes": self.num_classes, "names": self.names}

    @property
    def tokens(self) -> Tensor:
        """Shape ``(n, length)``."""
        return self[0]

    @property
    def targets(self) -> Tensor:
        """Shape ``(n, length)``."""
        return self[1]

    def dataset(self) -> TensorDataset:
        """For a ``DataLoader``."""
        return TensorDataset(self[0], self[1])


def generator(seed: int) -> torch.Generator:
    """A generator of its own for a seed."""
    return torch.Generator().manual_seed(seed)
