"""Charts: what they show, and how they are written as SVG."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch
from numpy.typing import NDArray

from bcd.evaluation.calibration import reliability
from bcd.evaluation.chart_data import GroupErrors, errors_by_group
from bcd.evaluation.metrics import compute_metrics
from bcd.reporting.curves import draw_reliability, draw_risk_coverage
from bcd.reporting.figures import draw_confusion, draw_curves
from bcd.reporting.interval_figures import draw_group_errors, draw_intervals
from bcd.reporting.ranking_figures import draw_precision_recall, draw_roc, draw_scores
from bcd.reporting.svg import save_svg, series, svg_text

CLASSES = ("Benign", "Early & <Pre>", "$Pro$")
SVG = "{http://www.w3.org/2000/svg}"


def answers(n: int = 90, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities that are right more often than not, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(CLASSES)
    logits = rng.normal(size=(n, len(CLASSES)))
    logits[np.arange(n), labels] += 1.5
    raised = np.exp(logits)
    return raised / raised.sum(axis=1, keepdims=True), labels


def metrics_of(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, Any]:
    return compute_metrics(probabilities, labels, CLASSES, 0)


def with_intervals() -> dict[str, Any]:
    metrics = metrics_of(*answers())
    for name in ("accuracy", "balanced_accuracy", "precision", "recall", "f1"):
        metrics[f"{name}_ci"] = [metrics[name] - 0.1, metrics[name] + 0.05]
    metrics["sensitivity_by_class"] |= {"$Pro$": None}  # a class without images
    limits = [[0.5, 0.9], [0.4, 1.0], None]
    metrics["sensitivity_by_class_ci"] = dict(zip(CLASSES, limits, strict=True))
    return metrics


def drawn() -> dict[str, Figure]:
    probabilities, labels = answers()
    metrics = metrics_of(probabilities, labels)
    before = reliability(probabilities, labels)
    intervals = draw_intervals(with_intervals(), "test, n = 90")
    assert intervals is not None
    return {
        "confusion": draw_confusion(metrics["confusion"], CLASSES, "test, n = 90"),
        "curves": draw_curves([{"train/loss": 1.0, "val/loss": 2.0}]),
        "reliability": draw_reliability(before, before, "test, n = 90"),
        "risk_coverage": draw_risk_coverage(np.array([0.5, 1]), np.array([0, 0.1]), "test"),
        "intervals": intervals,
        "precision_recall": draw_precision_recall(probabilities, labels, metrics, "test, n = 90"),
        "roc": draw_roc(probabilities, labels, metrics, "test, n = 90"),
        "scores": draw_scores(1 - probabilities[:, 0], labels > 0, 0.4, "test, n = 90"),
        "group_errors": draw_group_errors([GroupErrors("a", 4, 3)], 1, "test, n = 90"),
    }


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return {name: svg_text(figure, name) for name, figure in drawn().items()}


def words(text: str) -> list[str]:
    return ["".join(node.itertext()) for node in ET.fromstring(text).iter(f"{SVG}text")]


def test_charts_are_xml_whose_text_is_text(texts: dict[str, str]) -> None:
    for name, text in texts.items():
        root = ET.fromstring(text)
        assert root.tag == f"{SVG}svg", name
        assert len(words(text)) > 3, name
    assert "test, n = 90" in words(texts["confusion"])
    assert set(CLASSES) <= set(words(texts["confusion"]))  # neither markup nor formulas


def test_every_colour_can_be_set_by_the_page(texts: dict[str, str]) -> None:
    for name, text in texts.items():
        colours = re.findall(r"(?:fill|stroke): ([^;\"]+)", text)
        assert colours
        wrong = [c for c in colours if c != "none" and not re.fullmatch(r"var\(--\w+, #\w+\)", c)]
        assert wrong == [], name
        # Anything else would change the page around it, or be different in each run.
        assert not re.search(r"<style|<image|<metadata|<!DOCTYPE|<script|20\d\d-\d\d", text), name


def test_ids_of_charts_on_one_page_do_not_clash(texts: dict[str, str]) -> None:
    found = [re.findall(r' id="([^"]+)"', text) for text in texts.values()]
    every = [one for ids in found for one in ids]
    assert len(every) == len(set(every)) > 0
    for ids, text in zip(found, texts.values(), strict=True):
        asked = {a or b for a, b in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)}
        assert asked == set(ids)
    same = draw_confusion([[1, 0], [0, 1]], "ab", "t")
    assert not set(re.findall(r' id="([^"]+)"', svg_text(same, "a"))) & set(
        re.findall(r' id="([^"]+)"', svg_text(same, "b"))
    )


def test_the_same_chart_is_the_same_file(texts: dict[str, str], tmp_path: Path) -> None:
    for name, figure in drawn().items():
        save_svg(figure, tmp_path / f"{name}.svg")
        assert (tmp_path / f"{name}.svg").read_text(encoding="utf-8") == texts[name]


def test_series_differ_without_colour() -> None:
    looks = [series(number) for number in range(10)]
    marks = [(look["marker"], look["linestyle"]) for look in looks]
    assert len(set(marks)) == len(marks)
    assert len({look["color"] for look in looks[:6]}) == 6


def ends(line: Line2D) -> list[float]:
    return [float(value) for value in np.asarray(line.get_xdata(), float)]


def test_intervals_are_drawn_where_there_are_some() -> None:
    metrics = with_intervals()
    figure = draw_intervals(metrics, "test, n = 90")
    assert figure is not None
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[:2] == ["accuracy", "balanced accuracy"]
    assert names[5:] == ["sensitivity Benign", "sensitivity Early & <Pre>"]
    whiskers, dots = axes.lines[::2], axes.lines[1::2]
    assert ends(whiskers[0]) == metrics["accuracy_ci"]
    assert ends(dots[0]) == [metrics["accuracy"]]
    assert ends(whiskers[5]) == [0.5, 0.9]
    assert draw_intervals(metrics_of(*answers()), "val") is None


@pytest.mark.parametrize(
    ("draw", "name", "word"),
    [
        (draw_roc, "auroc_by_class", "AUROC"),
        (draw_precision_recall, "average_precision_by_class", "AP"),
    ],
)
def test_the_area_below_a_curve_is_that_of_its_legend(
    draw: Callable[..., Figure], name: str, word: str
) -> None:
    probabilities, labels = answers()
    figure = draw(probabilities, labels, metrics_of(probabilities, labels), "test")
    curves = [line for line in figure.axes[0].lines if word in str(line.get_label())]
    areas = metrics_of(probabilities, labels)[name]
    assert len(curves) == len(CLASSES)
    for line, label in zip(curves, CLASSES, strict=True):
        x, y = (np.asarray(values, float) for values in (line.get_xdata(), line.get_ydata()))
        heights = y[1:] if word == "AP" else (y[1:] + y[:-1]) / 2  # steps, or straight lines
        assert (np.diff(x) * heights).sum() == pytest.approx(areas[label])
        assert line.get_label() == f"{label}, {word} {areas[label]:.3f}"


def test_a_class_without_images_has_no_curve() -> None:
    probabilities, labels = answers()
    labels = np.where(labels == 2, 0, labels)
    figure = draw_roc(probabilities, labels, metrics_of(probabilities, labels), "test")
    assert [str(line.get_label()).partition(",")[0] for line in figure.axes[0].lines[1:]] == [
        "Benign", "Early & <Pre>",
    ]  # fmt: skip


def test_every_image_is_in_a_histogram() -> None:
    p, malignant = np.array([0.0, 0.2, 0.2, 1.0, 0.9]), np.array([0, 0, 1, 1, 1], bool)
    (axes,) = draw_scores(p, malignant, 0.3, "test").axes
    stairs = [patch for patch in axes.patches if isinstance(patch, StepPatch)]
    drawn_counts = [np.sum(patch.get_data()[0]) for patch in stairs]
    assert drawn_counts == [2, 2, 3, 3]  # each is filled and outlined
    assert ends(axes.lines[0]) == [0.3, 0.3]
    assert draw_scores(p, malignant, None, "test").axes[0].lines[:] == []


def test_groups_are_ranked_by_their_share_of_errors() -> None:
    groups = ["a", "b", "b", "a", "c", "", "c", "c"]
    wrong = np.array([1, 0, 1, 0, 1, 1, 1, 1], bool)
    found = errors_by_group(groups, wrong)
    assert found == [GroupErrors("c", 3, 3), GroupErrors("a", 2, 1), GroupErrors("b", 2, 1)]
    assert errors_by_group(["", ""], np.array([True, False])) == []
    figure = draw_group_errors(found[:2], len(found), "test, n = 8")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["3 of 3", "1 of 2"]
    assert axes.get_xlabel() == "share of errors, the worst 2 of 3 groups"
