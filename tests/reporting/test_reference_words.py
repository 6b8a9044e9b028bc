"""What is said of a change that no limit, or a limit only in part, is about."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from bcd.config.compose import with_defaults
from bcd.config.reference import ChangeLimits
from bcd.evaluation.model_change import Answers, compare_versions
from bcd.evaluation.reference_set import FrozenModel, FrozenSettings
from bcd.reporting.reference_words import findings

N = 2000
MALIGNANT = np.arange(N) >= N // 2
MODEL = FrozenModel("m", "a" * 64, "c" * 64, FrozenSettings("", False, "none", None), 0)
SET: Any = SimpleNamespace(model=MODEL, images=[None] * N)


def answers(called: int = 0, referred: int = 0) -> Answers:
    """Right but for so many benign images that are called malignant; so many are referred."""
    malignant = MALIGNANT.copy()
    malignant[:called] = True
    names = np.where(malignant, "Pro-B", "Benign").tolist()
    refer = np.arange(N) >= N - referred
    return Answers(names, malignant == MALIGNANT, malignant, refer, np.zeros((N, 2)))


def told(old: Answers, new: Answers) -> tuple[bool, str]:
    change = compare_versions(old, new, MALIGNANT, None, with_defaults(ChangeLimits), 0)
    return change.go_on, "\n".join(findings(SET, MODEL, change))


def test_fewer_referred_images_are_said_although_the_limit_is_met() -> None:
    for before, after in ((60, 0), (5, 0), (90, 40), (60, 58), (600, 599)):
        go_on, text = told(answers(referred=before), answers(referred=after))
        assert go_on
        assert f"fewer images are referred ({100 * before / N:.2f} % before" in text
    for before, after in ((60, 60), (0, 0), (40, 90)):
        assert "fewer images are referred" not in told(
            answers(referred=before), answers(referred=after)
        )[1]  # fmt: skip


def test_worse_answers_for_benign_images_are_said_although_no_limit_covers_them() -> None:
    go_on, text = told(answers(), answers(called=20))
    assert go_on
    assert "specificity: 100.00 % before, 98.00 % now; no limit covers this" in text
    assert "unsafe, benign: 0.00 % before, 2.00 % now; no limit covers this" in text
    assert "no limit covers" not in told(answers(called=20), answers())[1]
