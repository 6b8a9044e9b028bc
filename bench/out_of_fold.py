"""Simulates how far reported metrics are from the truth: a single split against a release.

Each simulated data set has slides with effects of their own, in the space of features. A single
70:30 split trains on one part, fits its decision policy to val and reports its test set. A release
trains five folds and reports out-of-fold answers. The truth is measured on many new slides, with
the model that each of them ships.

python -m bench.out_of_fold [--sets 20]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bcd.config.compose import with_defaults
from bcd.config.decision import DecisionConfig
from bcd.config.head import HeadConfig
from bcd.data.splits.grouping import part_groups
from bcd.evaluation.answers import Answers
from bcd.evaluation.calibration import debiased_calibration_error
from bcd.evaluation.decision import DecisionPolicy, referred
from bcd.evaluation.ood import fit_detector
from bcd.evaluation.out_of_fold import MemberAnswers, fit_release
from bcd.evaluation.policy_fitting import fit_policy
from bcd.evaluation.thresholds import Scope
from bcd.models.heads.averaged import AveragedHeads
from bcd.models.heads.base import FittedHead
from bcd.models.heads.factory import make_head

CLASSES, LENGTH, FOLDS, REFER = 4, 32, 5, 0.05
SLIDES, IMAGES = 60, 25  # of a data set, and of a slide
NEW_SLIDES = 600
_SHARES = np.array([0.15, 0.3, 0.3, 0.25])

Floats = NDArray[np.float64]


class Images(NamedTuple):
    """Features (n, LENGTH), classes (n,) and slides (n,) of images."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    slides: NDArray[np.int64]

    def at(self, rows: NDArray[np.int64]) -> Images:
        """Some of the images."""
        return Images(self.features[rows], self.labels[rows], self.slides[rows])


class Shown(NamedTuple):
    """Metrics of answers: calibration error (debiased), coverage of sets, share referred."""

    ece: float
    coverage: float
    referred: float


class Compared(NamedTuple):
    """What was reported, and what is true of new slides."""

    reported: Shown
    true: Shown


class World:
    """A distribution of slides.

    Args:
        seed: Of the means of the classes.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._means = self._rng.normal(size=(CLASSES, LENGTH))

    def draw(self, slides: int) -> Images:
        """Draws slides, each with images of one class and an effect and a blur of its own."""
        kinds = self._rng.choice(CLASSES, size=slides, p=_SHARES)
        kinds[: 3 * CLASSES] = np.arange(3 * CLASSES) % CLASSES  # several of each class
        effect = self._rng.normal(size=(slides, LENGTH)) * 0.7
        noise = self._rng.uniform(0.8, 1.8, slides)
        owners = np.repeat(np.arange(slides), IMAGES)
        centres = self._means[kinds[owners]] + effect[owners]
        values = centres + noise[owners, None] * self._rng.normal(size=centres.shape)
        return Images(values.astype(np.float32), kinds[owners], owners)


def main() -> None:
    """Prints the table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.out_of_fold", description=__doc__)
    parser.add_argument("--sets", type=int, default=20, help="number of data sets")
    found = simulate(parser.parse_args().sets)
    print("| | " + " | ".join(found) + " |\n|---|" + "---:|" * len(found))
    for name in Shown._fields:
        for kind, values in (
            ("reported", [[getattr(c.reported, name) for c in row] for row in found.values()]),
            ("on new slides", [[getattr(c.true, name) for c in row] for row in found.values()]),
            ("distance", [errors(row, name) for row in found.values()]),
        ):
            cells = [f"{statistics.mean(v):.3f} ± {statistics.stdev(v):.3f}" for v in values]
            print(f"| {name}, {kind} | {' | '.join(cells)} |")


def errors(compared: Sequence[Compared], name: str) -> list[float]:
    """Distances of what was reported from the truth."""
    return [abs(getattr(c.reported, name) - getattr(c.true, name)) for c in compared]


def simulate(sets: int) -> dict[str, list[Compared]]:
    """What a single split and a release report of as many data sets, and the truth."""
    found: dict[str, list[Compared]] = {"single split": [], "release": []}
    cfg = with_defaults(DecisionConfig)
    for seed in range(sets):
        world = World(seed)
        own, new = world.draw(SLIDES), world.draw(NEW_SLIDES)
        found["single split"].append(_single(cfg, own, new, seed))
        found["release"].append(_release(cfg, own, new, seed))
    return found


def _single(cfg: DecisionConfig, own: Images, new: Images, seed: int) -> Compared:
    """A 70:30 split; what val decides refers as large a share as in a release."""
    everything = np.arange(len(own.labels))
    rest, test = part_groups(everything, own.labels, own.slides, 0.3, seed)
    train, val = part_groups(rest, own.labels, own.slides, 0.1, seed)
    head = _fitted(own.at(train))
    cfg = replace(cfg, low_confidence=REFER / 2, ood=REFER / 2)
    seen = own.at(np.concatenate([train, val]))
    detector = fit_detector(seen.features, cfg.ood, _names(seen))
    policy = fit_policy(cfg, _answers(head, own.at(val)), detector, 0, _scope(own.at(val)))
    parts = (own.at(test), new)
    return Compared(*(_shown(_answers(head, part), policy) for part in parts))


def _release(cfg: DecisionConfig, own: Images, new: Images, seed: int) -> Compared:
    """Five folds of whole slides, whose members are averaged."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = np.empty(len(own.labels), np.int64)
    divided = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for fold, (_, rows) in enumerate(divided.split(own.features, own.labels, own.slides)):
        folds[rows] = fold
    heads, validated = [], np.zeros((FOLDS, len(folds)), bool)
    for fold in range(FOLDS):
        train, val = part_groups(np.flatnonzero(folds != fold), own.labels, own.slides, 0.1, seed)
        heads.append(_fitted(own.at(train)))
        validated[fold, val] = True
    averaged = AveragedHeads(heads, shared=True)
    each = averaged.each(torch.from_numpy(own.features)).numpy()
    given = MemberAnswers(each, folds, own.features, own.labels, validated)
    policy, crossed = fit_release(cfg, REFER, given, 0, _scope(own))
    reported = _shown(given.cross_fitted(crossed), crossed)
    averaged.temperature.fill_(policy.temperature)
    logits, spread = averaged.combine(averaged.each(torch.from_numpy(new.features)))
    answers = Answers(logits.numpy(), new.features, new.labels, spread.numpy())
    return Compared(reported, _shown(answers, replace(policy, temperature=1.0)))


@torch.no_grad()
def _fitted(train: Images) -> FittedHead:
    head = make_head(LENGTH, CLASSES, with_defaults(HeadConfig, kind="logreg", C=0.03))
    assert isinstance(head, FittedHead)
    head.fit(train.features, train.labels, False, 0)
    return head


@torch.no_grad()
def _answers(head: FittedHead, part: Images) -> Answers:
    logits = head(torch.from_numpy(part.features)).numpy()
    return Answers(logits, part.features, part.labels)


def _names(part: Images) -> list[str]:
    return [str(slide) for slide in part.slides]


def _scope(part: Images) -> Scope:
    return Scope(_names(part), "an image of a new slide")


def _shown(answers: Answers, policy: DecisionPolicy) -> Shown:
    decisions = policy.answer(answers.logits, answers.descriptors, answers.disagreement)
    p, labels = decisions.probabilities, answers.labels
    sets = policy.sets(p)
    return Shown(
        debiased_calibration_error(p, labels),
        float(sets[np.arange(len(labels)), labels].mean()),
        float(referred(decisions.reasons).mean()),
    )


if __name__ == "__main__":
    main()
