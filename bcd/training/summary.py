"""What a training run prints at its start and at its end."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bcd.audit.brief import verdict_line
from bcd.console import command, say, short, show_table
from bcd.data.splits.split import far_from_share
from bcd.reporting.guarantees import guarantee_lines, prior_correction_line
from bcd.reporting.results import few_groups_warning, metric_rows
from bcd.reporting.robustness import worst_unsafe_line
from bcd.training.build import Run
from bcd.training.finalize import Outcome


def describe_run(run: Run) -> None:
    """Prints what the run is about to use."""
    catalog, split = run.catalog, run.split
    sizes = ", ".join(f"{len(split.indices(part))} {part}" for part in ("train", "val", "test"))
    counts = ", ".join(f"{name} {count}" for name, count in catalog.counts().items())
    say(f"{len(catalog.images)} images ({counts}): {sizes}")
    for line in far_from_share(catalog, split, run.cfg.split):
        say(f"warning: {line}; groups and overlapping images are kept together")
    reasons = Counter(item.reason for item in catalog.rejected)
    for reason, count in reasons.most_common():
        say(f"rejected: {count} ({reason}); listed in {run.folder / 'report.html'}")


def print_results(
    folder: Path, classes: Sequence[str], outcome: Outcome, best: Path | None
) -> None:
    """Prints the figures, the audit's verdict, the worst corruption and the next commands.

    Args:
        folder: The run folder.
        classes: Names of the classes.
        outcome: The run's results.
        best: Its checkpoint; None where none was kept.
    """
    results = outcome.results
    show_table("Results, with 95 % intervals", ["metric", *results], metric_rows(results))
    if line := few_groups_warning(results["test"].metrics):
        say(f"warning: {line}")
    for line in guarantee_lines(outcome.policy):
        say(line)
    if line := prior_correction_line(outcome.policy, classes, results["test"].metrics):
        say(line)
    say(verdict_line(outcome.checks))
    hardest = min(outcome.corruptions[1:], key=lambda row: float(row["accuracy"]))
    say(
        f"corruption: accuracy {hardest['accuracy']:.3f} under {hardest['kind']} "
        f"{hardest['strength']}, "
        f"{outcome.corruptions[0]['accuracy']:.3f} as they are (n = {hardest['n']})"
    )
    if line := worst_unsafe_line(outcome.corruptions):
        say(line)
    say(f"run folder: {short(folder)}  (open report.html)")
    if best is None:
        say("checkpoint: none was kept, so bcd eval and bcd predict have none to use")
    else:
        ckpt = f"ckpt={short(best)}"
        say(f"evaluate:   {command('eval', ckpt)}")
        say(f"predict:    {command('predict', ckpt)} input=<images or folder>")
    if any(folder.glob("events.out.tfevents.*")):
        say(f"curves:     tensorboard --logdir {shlex.quote(short(folder))}")


def print_warnings(lines: Sequence[str]) -> None:
    """Prints a warning per line."""
    for line in lines:
        say(f"warning: {line}")
