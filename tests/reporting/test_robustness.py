"""The figure of accuracy over the strength of corruptions."""

from __future__ import annotations

import numpy as np

from bcd.evaluation.corruption_suites import corruption_suite
from bcd.reporting.robustness import draw_robustness

STANDARD = corruption_suite("standard")


def test_the_figure_has_one_panel_per_kind_with_the_uncorrupted_accuracy_dashed() -> None:
    rows = [{"kind": "none", "strength": "", "accuracy": 0.9}]
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
