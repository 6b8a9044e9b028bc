"""Figures of corruptions: accuracy against strength, and the sheet of examples."""

from __future__ import annotations

import numpy as np

from bcd.data.synthetic.smears import draw_smear
from bcd.evaluation.corruption_suites import corruption_suite
from bcd.reporting.robustness import draw_examples, draw_robustness

STANDARD = corruption_suite("standard")


def test_the_figure_has_a_panel_a_kind_with_the_plain_accuracy_dashed() -> None:
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


def test_the_sheet_shows_the_image_under_every_corruption() -> None:
    suite = STANDARD[:3]
    image = draw_smear("Pre-B", slide=2, index=5)
    figure = draw_examples(image, suite, "aa", columns=2)
    (axes,) = figure.axes
    titles = [text.get_text() for text in axes.texts]
    assert titles[0] == "as it is"
    assert titles[1:] == [f"{s.kind}\n{s.strength_label}" for s in suite]
    canvas = np.asarray(axes.images[0].get_array())
    for text, shown in zip(
        axes.texts, [image, *(s.apply(image, "aa") for s in suite)], strict=True
    ):
        x, y = text.get_position()
        left, top = round(x) - 112, round(y) + 4
        np.testing.assert_array_equal(canvas[top : top + 224, left : left + 224], shown)
