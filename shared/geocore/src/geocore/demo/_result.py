"""What a demonstration returns: measured rows, checkable claims, figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Claim", "DemoResult", "Figure", "Progress", "Row"]

Progress = Callable[[float, str], None]
"""``progress(done, message)`` with ``done`` from 0 to 1."""

KINDS = ("ours", "baseline", "reference", "paper")


@dataclass(frozen=True)
class Row:
    """One line of the result table.

    Args:
        name: What was run, as the reader should see it.
        values: One measured number per column; ``None`` where there is none.
        kind: ``"ours"``, ``"baseline"``, ``"reference"`` (a check, such as the unmodified model) or ``"paper"`` (printed in
            the paper under other conditions, not measured here).
        note: Short remark.

    Raises:
        ValueError: If ``kind`` is unknown.
    """

    name: str
    values: Sequence[float | None]
    kind: str = "baseline"
    note: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, got {self.kind!r}")


@dataclass(frozen=True)
class Claim:
    """A statement that the run either met or did not.

    Args:
        text: The statement, with its threshold.
        met: Whether the measured numbers satisfy it.
        measured: Those numbers, as text.
    """

    text: str
    met: bool
    measured: str


@dataclass(frozen=True)
class Figure:
    """A figure that is drawn only when a page is written, so that a demo runs without matplotlib.

    Args:
        title: Heading.
        make: Function without arguments that returns a ``matplotlib.figure.Figure``.
        caption: What to see in it.
    """

    title: str
    make: Callable[[], Any]
    caption: str = ""


@dataclass(frozen=True)
class DemoResult:
    """Everything a demonstration has to say; the terminal table, the JSON and the page are all made from it.

    Args:
        method: Distribution name.
        title: The method's name.
        claim: The paper's claim in one sentence.
        paper: Citation: title or authors, venue, year, identifier.
        columns: Names of the measured quantities.
        rows: Measured rows first, the paper's figures last.
        units: Unit of the numbers, as in ``"% accuracy"``.
        claims: Checked statements; the demonstration is met if all are.
        figures: Figures, drawn lazily.
        notes: Honest remarks to print with the table.
        config: Settings needed to repeat the run.

    Raises:
        ValueError: If a row has another number of values than there are columns, or there is no claim.
    """

    method: str
    title: str
    claim: str
    paper: str
    columns: Sequence[str]
    rows: Sequence[Row]
    claims: Sequence[Claim]
    units: str = ""
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.values) != len(self.columns):
                raise ValueError(f"row {row.name!r} must have {len(self.columns)} values, one per column, got {len(row.values)}")
        if not self.claims:
            raise ValueError("claims must hold at least one checked statement, got none")

    @property
    def met(self) -> bool:
        """Whether every claim was met."""
        return all(claim.met for claim in self.claims)
