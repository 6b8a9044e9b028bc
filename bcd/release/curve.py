"""The learning curve of a release: out-of-fold accuracy against the number of slides trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.data.splits.split import sha256_of
from bcd.evaluation.bootstrap import fill_group_names, group_ids
from bcd.evaluation.out_of_fold import MemberAnswers, fit_release
from bcd.evaluation.results import Result, evaluate
from bcd.evaluation.thresholds import Scope
from bcd.evaluation.unsafe import UNSAFE_SHARES
from bcd.release.answers import Images, collect_own
from bcd.release.members import CURVE_SHARES, Member, find_trial, load_member

_DRAWS = 500


@dataclass(frozen=True)
class Fit:
    """Error as a power of the number of groups, `error = scale * groups ** -exponent`.

    Attributes:
        exponent: How fast the error falls.
        at_double: Accuracy to expect with twice the groups.
        at_double_ci: Its 95 % interval, by a bootstrap over groups.
    """

    exponent: float
    at_double: float
    at_double_ci: tuple[float, float]


def measure_curve(
    images: Images,
    folder: Path,
    words: Sequence[str],
    full: MemberAnswers,
    scope: Scope,
    refer: float,
) -> dict[str, Any]:
    """Accuracy and unsafe answers of members trained on fewer slides, and a fit of the error.

    Args:
        images: All images.
        folder: Of the release.
        words: From `member_words`.
        full: Answers of the members trained on all slides.
        scope: As for `fit_release`.
        refer: As for `fit_release`.

    Returns:
        Ready for JSON: `points`, from few to all slides, and `fit`.
    """
    folds = len(np.unique(images.folds))
    points, wrong = [], []
    for share in (*CURVE_SHARES, 1.0):
        trials = [find_trial(folder, words, fold, share) for fold in range(folds)]
        members = [load_member(folder, trial) for trial in trials]
        logits = collect_own(images, [member.network for member in members])
        answers = MemberAnswers(logits[None], full.folds, full.descriptors, full.labels)
        result = _judged(images, answers, scope, refer)
        points.append({"share": share, **_sizes(members), **_kept(result.metrics)})
        wrong.append(result.probabilities.argmax(axis=1) != result.labels)
    groups = np.array([point["groups"] for point in points])
    fit = fit_power(groups, np.stack(wrong), fill_group_names(images.clusters))
    return {"points": points, "fit": None if fit is None else vars(fit)}


def _judged(images: Images, answers: MemberAnswers, scope: Scope, refer: float) -> Result:
    """Cross-fitted decisions of members that are not compared with each other."""
    _, policy = fit_release(images.cfg.decision, refer, answers, images.catalog.benign, scope)
    own = answers.cross_fitted(policy)
    return evaluate(own, policy, images.catalog, images.indices, images.clusters)


def _sizes(members: Sequence[Member]) -> dict[str, float]:
    """Mean number of groups and of images that members were trained on."""
    trained = [(member.card.split["train"], member.card.groups) for member in members]
    groups = [_groups(recorded, clusters) for recorded, clusters in trained]
    images = [len(recorded) for recorded, _ in trained]
    return {"groups": float(np.mean(groups)), "images": float(np.mean(images))}


def _kept(metrics: Mapping[str, Any]) -> dict[str, Any]:
    found = [name for name in ("accuracy", *UNSAFE_SHARES) if name in metrics]
    return {key: metrics[key] for name in found for key in (name, f"{name}_ci")}


def _groups(recorded: Sequence[str], clusters: dict[str, str]) -> int:
    """Number of groups of some images; an image without one is its own."""
    hashes = map(sha256_of, recorded)
    return len({clusters.get(sha256, sha256) for sha256 in hashes})


def fit_power(
    groups: NDArray[np.float64], wrong: NDArray[np.bool_], clusters: Sequence[str] | None
) -> Fit | None:
    """Fits the error as a power of the number of groups.

    Args:
        groups: Number of groups trained on, ascending, (k,).
        wrong: Which of n images are answered wrongly, (k, n).
        clusters: Cluster of each image, (n,); None if images are independent.

    Returns:
        None if the numbers of groups do not differ.
    """
    if len(np.unique(groups)) < 2:
        return None
    n = wrong.shape[1]
    numbers = group_ids(clusters, n)
    sizes = np.bincount(numbers)
    counts = np.stack([np.bincount(numbers, row, len(sizes)) for row in wrong.astype(float)])
    exponent, double = _power(groups, counts.sum(axis=1), n)
    generator, drawn = np.random.default_rng(0), []
    for _ in range(_DRAWS):
        picked = generator.integers(0, len(sizes), len(sizes))
        drawn.append(_power(groups, counts[:, picked].sum(axis=1), int(sizes[picked].sum()))[1])
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Fit(exponent, double, (float(low), float(high)))


def _power(groups: NDArray[np.float64], errors: NDArray[np.float64], n: int) -> tuple[float, float]:
    """Exponent, and accuracy at twice the largest number of groups."""
    rate = (errors + 0.5) / (n + 1)  # finite without errors
    slope, offset = np.polyfit(np.log(groups), np.log(rate), 1)
    double = np.exp(offset + slope * np.log(2 * groups[-1]))
    return float(-slope), float(1 - min(double, 1.0))
