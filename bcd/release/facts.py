"""What a release's report is written from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bcd.audit.checks import Check
from bcd.config.release import ReleaseConfig
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.results import Result
from bcd.evaluation.robustness_table import Rows
from bcd.release.answers import Images
from bcd.release.gate import Gate
from bcd.release.members import Member
from bcd.release.views import Gain


@dataclass(frozen=True)
class ReleaseFacts:
    """The facts that a release's report presents.

    Attributes:
        settings: Of the release.
        images: All images.
        members: Of the folds.
        whole: The model trained on all images, if it is shipped in place of the members.
        result: Out of fold, in the order of `images.indices`.
        policy: As shipped.
        temperature: Fitted to the out-of-fold answers.
        checks: Of the audit of the first fold's split.
        corruptions: From `corrupted_rows`.
        gain: Of test-time views; None if none were tried.
        curve: From `measure_curve`; None if it was not asked for.
        gate: The comparison with an earlier release; None if there is none.
    """

    settings: ReleaseConfig
    images: Images
    members: Sequence[Member]
    whole: Member | None
    result: Result
    policy: DecisionPolicy
    temperature: float
    checks: Sequence[Check]
    corruptions: Rows
    gain: Gain | None = None
    curve: dict[str, Any] | None = None
    gate: Gate | None = None

    @property
    def metrics(self) -> dict[str, Any]:
        """Out-of-fold metrics."""
        return self.result.metrics

    @property
    def shipped(self) -> Sequence[Member]:
        """The members of the checkpoint."""
        return self.members if self.whole is None else [self.whole]

    def record(self) -> dict[str, Any]:
        """What the checkpoint's card says of the release, ready for JSON."""
        return {
            "recipe": self.settings.recipe,
            "protocol": self.protocol(),
            "members": [
                {"fold": m.fold, "epoch": m.epoch, "sha256": m.sha256} for m in self.shipped
            ],
            "judged_members": [m.sha256 for m in self.members],
            "temperature": self.temperature,
            "refer": self.settings.refer,
            "out_of_fold": self.metrics,
            "corruptions": self.corruptions,
            "test_time": None if self.gain is None else vars(self.gain),
            "curve": self.curve,
            "gate": None if self.gate is None else self.gate.to_plain(),
        }

    def protocol(self) -> str:
        """How images were divided and judged, in words."""
        cfg, folds = self.images.cfg.split, len(self.members)
        in_files = any(image.frame is not None for image in self.images.catalog.images)
        drawn = "files drawn one by one" if in_files else "images drawn one by one"
        separated = {
            "grouped": f"{_GROUPS[cfg.groups]} and overlapping images are kept in one fold",
            "kfold": f"{drawn}, so images of one slide are in several folds",
            "blocked": f"blocks of neighbouring files, {cfg.embargo} files left out between them",
        }[cfg.kind]
        return (
            f"{folds} folds, {separated}, split.seed {cfg.seed}. Each image was answered by the "
            "member trained without its fold, and decided with temperature, thresholds and "
            "referral limits fitted to the answers for the other folds."
        )


_GROUPS = {
    "given": "images of one slide or patient (groups as given)",
    "auto": "images of one estimated slide",
    "blocks": "blocks of neighbouring files",
}


def fold_rows(facts: ReleaseFacts) -> list[dict[str, Any]]:
    """Accuracy, numbers of images and epochs of each fold's member, ready for JSON."""
    images, result = facts.images, facts.result
    right = result.probabilities.argmax(axis=1) == result.labels
    rows = []
    for member in facts.members:
        own = images.folds == member.fold
        rows.append(
            {
                "fold": member.fold,
                "trained": len(member.card.split["train"]),
                "left_out": int(own.sum()),
                "accuracy": float(right[own].mean()),
                "epoch": member.epoch,
                "sha256": member.sha256,
            }
        )
    return rows
