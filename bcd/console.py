"""Output in the terminal: progress bars, tables and plain lines."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
_HAS_RICH = find_spec("rich") is not None


def _is_first() -> bool:
    """Whether this is the first of the processes that run together on this machine."""
    return os.environ.get("LOCAL_RANK", "0") in ("", "0")  # set by Lightning and by torchrun


def console() -> Console:
    """Returns a console on standard error; standard output stays free for results in a pipe.

    Of several processes that run together, only the first prints.
    """
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, quiet=not _is_first())


def printable(name: str) -> str:
    """A file name for the terminal, with line breaks and control characters escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def short(path: Path) -> str:
    """A path relative to the working folder if it is inside it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def command(verb: str, *arguments: str) -> str:
    """A `bcd` command to copy, with its arguments quoted for the shell."""
    return shlex.join(["bcd", verb, *arguments])


def say(line: str) -> None:
    """Prints one line to standard error; of several processes, only the first prints."""
    if _is_first():
        print(line, file=sys.stderr, flush=True)  # noqa: T201


def track(
    items: Iterable[T],
    description: str,
    total: int | None,
    weigh: Callable[[T], int] = lambda _: 1,
) -> Iterator[T]:
    """Yields the items while a bar shows the progress, the speed and the time left.

    Where standard error is no terminal, lines show them: one for each tenth, but none within two
    seconds of another, and one at the end. If the total is not known, there is one a minute.

    Args:
        items: The items to process.
        description: Text in front of the bar.
        total: Sum of the items' weights, or more; None if it is not known.
        weigh: Returns the weight of an item.
    """
    if not _HAS_RICH or not (shown := console()).is_terminal:
        yield from _track_in_lines(items, description, total, weigh)
        return
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
    with Progress(*columns, console=shown, transient=False) as progress:
        task = progress.add_task(description, total=total, rate="")
        for item in items:
            yield item
            speed = progress.tasks[task].speed
            progress.update(task, advance=weigh(item), rate=f"{speed:.0f}/s" if speed else "")
        progress.update(task, total=progress.tasks[task].completed)


_PAUSE = 2.0  # seconds between lines of `track`
_PAUSE_WITHOUT_TOTAL = 60.0


def _track_in_lines(
    items: Iterable[T], description: str, total: int | None, weigh: Callable[[T], int]
) -> Iterator[T]:
    started = last = time.monotonic()
    done = tenth = 0
    for item in items:
        yield item
        done += weigh(item)
        now = time.monotonic()
        rate = done / max(now - started, 1e-3)
        if total is None:
            if now - last >= _PAUSE_WITHOUT_TOTAL:
                last = now
                say(f"{description}: {done}, {_rate(rate)}")
            continue
        if done >= total or done * 10 // total == tenth or now - last < _PAUSE:
            continue
        last, tenth = now, done * 10 // total
        left = (total - done) / rate
        say(f"{description}: {done}/{total} ({done / total:.0%}), {_rate(rate)}, {left:.0f} s left")
    seconds = time.monotonic() - started
    say(f"{description}: {done}/{done}, {_rate(done / max(seconds, 1e-3))}, {seconds:.1f} s")


def _rate(rate: float) -> str:
    return f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s"


def show_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table; the first column is text, the others are right-aligned."""
    if not _HAS_RICH:
        for line in _plain_table(title, [header, *rows]):
            say(line)
        return
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table)


def _plain_table(title: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table without rich, which predicting with an exported model does not need."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [title]
    for first, *rest in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines
