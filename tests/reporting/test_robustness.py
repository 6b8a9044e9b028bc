"""The figure of accuracy over the strength of corruptions."""

from __future__ import annotations

import numpy as np

from bcd.evaluation.corruption_suites import corruption_suite
from bcd.reporting.robustness import draw_robustness, worst_unsafe_line

STANDARD = corruption_suite("standard")


def test_the_figure_has_one_panel_per_kind_with_the_uncorrupted_accuracy_dashed() -> None:
    rows = [{"kind": "none", "strength": "", "accuracy": 0.9, "n": 40}]
    rows += [
        {"kind": s.kind, "strength": s.strength_label, "accuracy": 0.4 + i / 100}
        for i, s in enumerate(STANDARD)
    ]
    figure = draw_robustness(rows)
    figure.canvas.draw()
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert list(panels) == list(dict.fromkeys(s.kind for s in STANDARD))
    hue = panels["hue"]
    points, dashed = hue.lines
    first = next(i for i, s in enumerate(STANDARD) if s.kind == "hue")
    assert np.asarray(points.get_ydata()).tolist() == [
        0.4 + i / 100 for i in range(first, first + 4)
    ]
    assert dashed.get_linestyle() == "--"
    assert np.asarray(dashed.get_ydata()).tolist() == [0.9, 0.9]
    assert [label.get_text() for label in hue.get_xticklabels()] == ["-30°", "-10°", "+10°", "+30°"]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    low, high = hue.get_ylim()
    assert low < 0.4
    assert high > 1


def test_the_worst_corruption_is_named_beside_the_uncorrupted_images() -> None:
    name = "unsafe_malignant"
    rows = [
        {"kind": kind, "strength": strength, name: p, f"{name}_low": 0.0, f"{name}_high": 0.1}
        for kind, strength, p in (("none", "", 0.036), ("jpeg", "30", 0.024), ("hue", "-30", 0.0))
    ]
    assert worst_unsafe_line(rows) == (
        "unsafe answers, of malignant images: highest under corruption 0.024 [0.000, 0.100] "
        "(jpeg 30); uncorrupted 0.036 [0.000, 0.100]"
    )
