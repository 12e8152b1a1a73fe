"""Progress bar and lines of text for the recipes' command lines."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["reporting"]


@contextmanager
def reporting(description: str) -> Iterator[tuple[Callable[[int, int, str], None], Callable[[str], None]]]:
    """``progress(step, steps, message)`` and ``say(text)`` of the first process; the others are silent."""
    if int(os.environ.get("RANK", "0")) != 0:
        yield (lambda step, steps, text: None), (lambda text: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(width=140)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[message]}"), console=console) as bar:
        task = bar.add_task(description, total=None, message="")
        yield (lambda step, steps, text: bar.update(task, completed=step, total=steps, message=text)), console.print
