"""Decisions with a site's own threshold are those of a policy with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.site_threshold import at_threshold


def test_it_decides_as_a_policy_with_that_threshold() -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(scale=2, size=(200, 4))
    logits[0], logits[1] = np.nan, 0.0  # not finite; all classes equally probable
    given = logits, draw.normal(size=(200, 3)), draw.random(200)
    policy = DecisionPolicy(
        temperature=1.3, benign=2, malignant_threshold=0.4, confidence_threshold=0.5,
        disagreement_limit=0.9,
    )  # fmt: skip
    ours = policy.answer(*given)
    changed = 0
    for threshold in (0.05, 0.4, 0.6, 0.95):
        theirs = replace(policy, malignant_threshold=threshold).answer(*given)
        for index in range(len(logits)):
            found = at_threshold(ours.probabilities[index], ours.reasons[index], threshold, 2)
            assert found == (theirs.malignant[index], theirs.reasons[index])
            changed += found != (ours.malignant[index], ours.reasons[index])
    assert changed > 20  # so that the comparison says something
