"""What a release prints at its end."""

from __future__ import annotations

from pathlib import Path

from bcd.audit.brief import verdict_line
from bcd.audit.checks import PASS, worst
from bcd.console import command, say, short, show_table
from bcd.release.facts import ReleaseFacts
from bcd.release.options import budget_note, gain_text, gate_line
from bcd.reporting.guarantees import OUT_OF_FOLD_ANSWERS, sets_guarantee, threshold_guarantee
from bcd.reporting.results import metric_rows


def print_release(folder: Path, facts: ReleaseFacts) -> None:
    """Prints the figures, the audit's verdict and the next commands."""
    rows = metric_rows({"out of fold": facts.result})
    show_table("Release, with 95 % intervals", ["metric", "out of fold"], rows)
    for line in (
        threshold_guarantee(facts.policy, OUT_OF_FOLD_ANSWERS),
        sets_guarantee(facts.policy, OUT_OF_FOLD_ANSWERS),
        f"warning: {note}" if (note := budget_note(facts)) else "",
        verdict_line(facts.checks),
        *([gain_text(facts)] if facts.gain else []),
        *([f"gate: {gate_line(facts)}"] if facts.gate else []),
    ):
        if line:
            say(line)
    ckpt = f"ckpt={short(folder / 'checkpoints' / 'best.ckpt')}"
    say(f"release:    {short(folder)}  (open report.html)")
    say(f"predict:    {command('predict', ckpt)} input=<images or folder>")
    say(f"evaluate:   {command('eval', ckpt)} data.root=<images of another site>")
    if worst(facts.checks) != PASS:
        say("see the audit in report.html before using it")
