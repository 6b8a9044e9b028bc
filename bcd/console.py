"""What the person at the terminal sees: progress bars, tables and plain lines."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")


def _is_first() -> bool:
    """Whether of the processes that run together on this machine this is the first."""
    return os.environ.get("LOCAL_RANK", "0") in ("", "0")  # set by Lightning and by torchrun


def console() -> Console:
    """Returns a console on standard error; standard output stays free for results in a pipe.

    Of several processes the first alone speaks.
    """
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, quiet=not _is_first())


def printable(name: str) -> str:
    """A file's name on one line: what would break it or steer the terminal is escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def short(path: Path) -> str:
    """A path as a person would type it from where the program was started."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def command(script: str, *words: str) -> str:
    """The line that starts another program of the project, whatever characters are in it.

    Args:
        script: Its file, which stands beside train.py.
        words: Its arguments.
    """
    own = Path(sys.argv[0])
    place = own.with_name(script) if own.name == "train.py" else Path(script)
    return shlex.join(["python", str(place), *words])


def say(line: str) -> None:
    """Prints one line to the person, if this is the first of the processes that run together."""
    if _is_first():
        print(line, file=sys.stderr, flush=True)  # noqa: T201


def track(
    items: Iterable[T], description: str, total: int, weigh: Callable[[T], int] = lambda _: 1
) -> Iterator[T]:
    """Yields the items while a bar shows how much is done, how fast, and the time left.

    Args:
        items: What is worked through.
        description: Stands before the bar.
        total: Sum of the items' weights.
        weigh: How much an item counts.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(), transient=False) as progress:
        task = progress.add_task(description, total=total, rate="")
        for item in items:
            yield item
            speed = progress.tasks[task].speed
            progress.update(task, advance=weigh(item), rate=f"{speed:.0f}/s" if speed else "")


def show_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table; the first column is text, the others are right-aligned."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table)
