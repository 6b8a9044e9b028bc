"""What a training run says at its start and at its end."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bcd.audit.run import verdict_line
from bcd.console import command, say, short, show_table
from bcd.data.splits.split import far_from_share
from bcd.reporting.guarantees import guarantee_lines
from bcd.reporting.results import few_groups_warning, metric_rows
from bcd.training.finalize import Outcome, Run


def describe_run(run: Run) -> None:
    """Says what the run is about to use."""
    catalog, split = run.catalog, run.split
    sizes = ", ".join(f"{len(split.indices(part))} {part}" for part in ("train", "val", "test"))
    counts = ", ".join(f"{name} {count}" for name, count in catalog.counts().items())
    say(f"{len(catalog.images)} images ({counts}): {sizes}")
    for line in far_from_share(catalog, split, run.cfg.split):
        say(f"warning: {line}; groups and neighbours are kept whole")
    reasons = Counter(item.reason for item in catalog.rejected)
    for reason, count in reasons.most_common():
        say(f"rejected: {count} ({reason}); listed in {run.folder / 'report.html'}")


def tell_run(folder: Path, outcome: Outcome, best: Path | None, warnings: Sequence[str]) -> None:
    """Ends with the figures, the audit's verdict, the worst corruption and the exact next commands.

    Args:
        folder: The run folder.
        outcome: What came of the run.
        best: Its checkpoint; None where none was kept.
        warnings: That only its end could give.
    """
    results = outcome.results
    show_table("Results, with 95 % intervals", ["figure", *results], metric_rows(results))
    if line := few_groups_warning(results["test"].metrics):
        say(f"warning: {line}")
    for line in guarantee_lines(outcome.policy):
        say(line)
    say(verdict_line(outcome.checks))
    hardest = min(outcome.corruptions[1:], key=lambda row: float(row["accuracy"]))
    say(
        f"corruption: accuracy {hardest['accuracy']:.3f} under {hardest['kind']} "
        f"{hardest['strength']}, "
        f"{outcome.corruptions[0]['accuracy']:.3f} as they are (n = {hardest['n']})"
    )
    for line in warnings:
        say(f"warning: {line}")
    say(f"run folder: {short(folder)}  (open report.html)")
    if best is None:
        say("checkpoint: none was kept, so there is nothing to evaluate or predict with")
    else:
        ckpt = f"ckpt={short(best)}"
        say(f"evaluate:   {command('eval', ckpt)}")
        say(f"predict:    {command('predict', ckpt)} input=<images or folder>")
    if any(folder.glob("events.out.tfevents.*")):
        say(f"curves:     tensorboard --logdir {shlex.quote(short(folder))}")
