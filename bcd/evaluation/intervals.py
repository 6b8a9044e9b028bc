"""Wilson's interval of a proportion, and confidence limits from a cluster bootstrap.

The limits are those of Student's t on the logit scale, with the standard error of the cluster
bootstrap in `bootstrap`. The degrees of freedom are the effective number of groups minus 1, where
the effective number is (sum of sizes)^2 / sum of squared sizes (Kish, "Survey Sampling", 1965), so
that a few large groups count as few. If the errors are concentrated in one or two groups, these
alone determine the standard error, and the degrees of freedom are Satterthwaite's
(`bootstrap.degrees_of_freedom`) if these are fewer.

Percentiles of the bootstrap samples are not used as limits: their coverage is too low when there
are few groups or few errors. docs/promises.md tabulates the coverage of both by the number of
groups and by how much groups differ, and the worst case that a search found. With fewer than 15
effective groups, 95 % intervals can be too narrow, and reports warn of it.

If there is no error at all, or if all bootstrap samples agree, the data cannot show how similar
the images of a group are. The limit is then Wilson's with the effective number of groups as the
number of trials. This is the worst case, in which all images of a group are correct or all wrong.
With the number of images instead, the intervals of accuracy and sensitivity covered the true value
in as few as 78 to 85 per cent of simulations with 15 groups of similar images. A perfect result on
few groups can therefore have a wider interval than a result with one error.

`confusion_intervals` and `probability_intervals` apply these limits to metrics.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from bcd.evaluation.bootstrap import Clusters, Floats, standard_error

Interval = tuple[float, float]

FEW_GROUPS = 15  # effective groups; with fewer, reports warn that intervals can be too narrow
WORST_COVERAGE_FEW_GROUPS = 0.8  # lowest coverage that a search found; see docs/promises.md
_ROUNDING = 1e-12  # a standard error below it counts as 0


def wilson(successes: float, n: float, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion.

    Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    Args:
        successes: Out of n; need not be an integer.
        n: Number of independent trials; with 0 the interval is 0 to 1.
        level: Confidence level, between 0 and 1.
    """
    if n <= 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, shrinkage = successes / n, z * z / n
    middle = share + shrinkage / 2
    half = z * np.sqrt(share * (1 - share) / n + shrinkage / (4 * n))
    low, high = (middle - half) / (1 + shrinkage), (middle + half) / (1 + shrinkage)
    return (
        0.0 if successes <= 0 else max(float(low), 0.0),
        1.0 if successes >= n else min(float(high), 1.0),
    )


def tango(gained: float, lost: float, n: float, level: float = 0.95) -> Interval:
    """Tango's score interval of the difference of two shares of the same n images.

    Tango, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", 1998. It is never a point: if no image changes, it is that of no change
    in n trials.

    Args:
        gained: Number of images that only the second share counts; need not be an integer.
        lost: Number of images that only the first share counts; need not be an integer.
        n: Number of independent images.
        level: Confidence level, between 0 and 1.

    Returns:
        Limits of the second share minus the first.
    """
    from scipy.optimize import brentq

    z = NormalDist().inv_cdf((1 + level) / 2)

    def score(difference: float) -> float:
        """The standardized distance of a difference from the observed one."""
        slope = -gained - lost + (2 * n - gained + lost) * difference
        constant = -lost * difference * (1 - difference)
        root = np.sqrt(max(slope * slope - 8 * n * constant, 0.0))
        share = (root - slope) / (4 * n)  # most likely share of images that are lost
        variance = n * (2 * share + difference * (1 - difference))
        distance = gained - lost - n * difference
        return 0.0 if distance == 0 else float(distance / np.sqrt(max(variance, 1e-300)))

    value = (gained - lost) / n
    edge = 1 - 1e-9
    low = -1.0 if score(-edge) <= z else brentq(lambda d: score(d) - z, -edge, value)
    high = 1.0 if score(edge) >= -z else brentq(lambda d: score(d) + z, value, edge)
    return float(low), float(high)


def limits(
    clusters: Clusters,
    value: Floats,
    samples: Floats,
    sizes: Floats,
    df: Floats,
    level: float = 0.95,
    span: Interval = (0.0, 1.0),
) -> tuple[Floats, Floats]:
    """Confidence limits (...) of metrics, as described at the top of the module.

    Args:
        clusters: The clusters that were resampled.
        value: (...), the metrics.
        samples: (draws, ...), from `bootstrap`.
        sizes: As for `bootstrap`: (u, ...), or (u, ..., classes) for means over classes.
        df: (...), from `degrees_of_freedom`.
        level: Confidence level, between 0 and 1.
        span: Lowest and highest possible value of the metrics.
    """
    from scipy.special import stdtrit

    width = span[1] - span[0]
    share = np.asarray((value - span[0]) / width)
    means = sizes.ndim > share.ndim + 1
    trials = clusters.effective(sizes)
    effective = clusters.effective(sizes.sum(axis=-1)) if means else trials
    error = standard_error(clusters, samples, sizes) / width
    quantile = stdtrit(np.maximum(np.minimum(effective - 1, df), 1), (1 + level) / 2)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        half = quantile * error / (share * (1 - share))
        odds = np.log(share / (1 - share))
        low, high = 1 / (1 + np.exp(half - odds)), 1 / (1 + np.exp(-half - odds))
    low, high = np.where(np.isnan(low), 0.0, low), np.where(np.isnan(high), 1.0, high)
    degenerate = (error <= _ROUNDING) | (share <= 0) | (share >= 1)
    if degenerate.any():
        lowest, highest = _worst(share[..., None] if means else share, trials, level)
        if means:
            counted = trials > 0
            lowest, highest = (np.average(x, axis=-1, weights=counted) for x in (lowest, highest))
        low, high = np.where(degenerate, lowest, low), np.where(degenerate, highest, high)
    return span[0] + width * low, span[0] + width * high


def _worst(share: Floats, trials: Floats, level: float) -> tuple[Floats, Floats]:
    """Wilson's limits if all images of an effective group are correct or all wrong."""
    low, high = np.vectorize(wilson, otypes=[float, float])(share * trials, trials, level)
    return low, high
