"""Metrics, figures and results as written to a run folder."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from bcd.config.compose import with_defaults
from bcd.config.schema import AugmentConfig, DataConfig
from bcd.data.catalog import Catalog
from bcd.data.load import load_catalog
from bcd.data.loading import ViewSampler, make_loader
from bcd.data.views import Augmenter, ImageViews
from bcd.evaluation.collect import collect_answers
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.predictions import Prediction, find_mistakes
from bcd.evaluation.results import Result, evaluate
from bcd.models.network import SmearNetwork
from bcd.reporting.figures import (
    draw_confusion,
    draw_curves,
    draw_mistakes,
    new_figure,
    save_png,
)
from bcd.reporting.guarantees import unsafe_line
from bcd.reporting.results import metric_rows, write_mistakes, write_results
from bcd.reporting.svg import svg_text
from tests.helpers.noise import noise, write_classes

# Each class of the noise images is strongest in a colour of its own: red, green, blue.
COLOURS = {"Benign": 4, "Lymphoma": 3, "Myeloma": 2}


class Colours(nn.Module):
    """A network for noise images whose logits are the mean of each colour."""

    def __init__(self, turn: bool = False) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight.data = torch.eye(3).flip(0) if turn else torch.eye(3)

    def embed(self, x: Tensor) -> Tensor:
        return x.float().mean((2, 3))

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.embed(x)), torch.zeros(len(x))


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    root = write_classes(tmp_path / "images", COLOURS)
    return load_catalog(with_defaults(DataConfig, root=str(root)))


def to_array(figure: Figure) -> NDArray[np.uint8]:
    """Renders a figure to pixels (height, width, 3)."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def evaluated(
    catalog: Catalog,
    indices: Sequence[int],
    network: nn.Module,
    policy: DecisionPolicy | None = None,
) -> Result:
    views = ImageViews(catalog.root, catalog.images, 32, Augmenter(with_defaults(AugmentConfig), 0))
    loader = make_loader(views, ViewSampler(indices, 0, 0), 2, 0)
    described = np.zeros((len(indices), 2), np.float32)
    answers = collect_answers(cast(SmearNetwork, network), loader, torch.device("cpu"), described)
    return evaluate(answers, policy or DecisionPolicy(), catalog, indices)


def turned_around() -> nn.Module:
    """Predicts Benign for Myeloma and Myeloma for Benign."""
    return Colours(turn=True)


def shows_something(pixels: NDArray[np.uint8]) -> bool:
    return bool((pixels != 255).any(axis=2).mean() > 0.01)


def texts(figure: Any) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_figures_do_not_touch_pyplot() -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    history = [{"train/loss": 1.0, "train/accuracy": 0.5}, {"val/loss": 0.5, "val/accuracy": 0.7}]
    for figure in (draw_confusion([[3, 1], [0, 2]], "ab", "t"), draw_curves(history)):
        pixels = to_array(figure)
        width, height = figure.get_size_inches() * figure.dpi
        assert pixels.dtype == np.uint8
        assert abs(pixels.shape[0] - height) <= 1
        assert abs(pixels.shape[1] - width) <= 1
        assert pixels.shape[2] == 3
        assert shows_something(pixels)
    assert not shows_something(to_array(new_figure(2, 2)))
    assert plt.get_fignums() == before


def test_the_confusion_matrix_shows_counts_and_shares_of_the_true_class() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a class without images is no division by zero
        figure = draw_confusion([[6, 2, 0], [0, 0, 0], [1, 0, 3]], ("x", "y", "z"), "test, n = 12")
        to_array(figure)
    (axes,) = figure.axes
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert len(cells) == 9
    assert cells[1, 0] == f"2\n{2 / 8:.1%}"  # across is predicted, down is true
    assert cells[0, 2] == f"1\n{1 / 4:.1%}"
    assert cells[1, 1] == "0"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x", "y", "z"]
    assert axes.get_title() == "test, n = 12"


def test_the_curves_show_every_epoch_of_train_and_val() -> None:
    history = [{"train/loss": 3.0 - i, "val/loss": 2.0, "val/accuracy": i / 3} for i in range(3)]
    figure = draw_curves(history)
    loss, accuracy = figure.axes
    drawn = {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in loss.lines}
    assert drawn == {"train": [3.0, 2.0, 1.0], "val": [2.0, 2.0, 2.0]}
    assert np.asarray(accuracy.lines[1].get_ydata()).tolist() == pytest.approx([0, 1 / 3, 2 / 3])
    assert np.asarray(loss.lines[0].get_xdata()).tolist() == [1, 2, 3]


def test_mistakes_are_shown_most_confident_first_and_only_they_are_read() -> None:
    sure = [0.6, 0.9, 0.8, 0.7]
    wrong = [Prediction(f"{i}.png", "a", (1 - p, p)) for i, p in enumerate(sure)]
    right = Prediction("right.png", "b", (0.0, 1.0))
    read: list[int] = []

    def pixels(index: int) -> NDArray[np.uint8]:
        read.append(index)
        return noise(index)

    assert draw_mistakes(find_mistakes([right, right], "ab"), pixels) is None
    assert read == []
    figure = draw_mistakes(find_mistakes([right, *wrong], "ab"), pixels, most=3)
    assert figure is not None
    assert shows_something(to_array(figure))
    assert read == [2, 3, 4]
    titles = [text.get_text() for text in figure.axes[0].texts]
    assert titles == [f"{i}.png\nis a\npredicted b ({sure[i]:.0%})" for i in (1, 2, 3)]


def test_names_that_look_like_formulas_are_drawn_literally(tmp_path: Path) -> None:
    odd = "$a_$_{$.png"
    mistakes = find_mistakes([Prediction(odd, "$x$", (0.0, 1.0))], ("$x$", "$\\y$"))
    wrong = draw_mistakes(mistakes, lambda _: noise(0))
    matrix = draw_confusion([[1, 0], [0, 1]], ("$x$", "$\\y$"), "$\\t$")
    assert wrong is not None
    save_png(wrong, tmp_path / "figure.png")
    assert any(odd in text for text in texts(wrong))
    drawn = svg_text(matrix, "matrix")
    assert all(f">{name}</text>" in drawn for name in ("$x$", "$\\y$", "$\\t$"))


def test_a_figure_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    file = tmp_path / "figures" / "a.png"
    save_png(draw_confusion([[1, 0], [0, 1]], "ab", "t"), file)
    assert shows_something(np.array(Image.open(file).convert("RGB")))
    before = file.read_bytes()

    def broken(_: Figure, target: Any, **__: object) -> None:
        with target.open("wb") if isinstance(target, Path) else target as stream:
            stream.write(b"half")
            raise OSError("no space left on device")

    monkeypatch.setattr(Figure, "savefig", broken)
    with pytest.raises(OSError, match="no space left"):
        save_png(new_figure(2, 2), file)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("indices", [list(range(9)), [8, 0, 4, 3]])
def test_each_prediction_is_of_the_image_it_names(catalog: Catalog, indices: list[int]) -> None:
    result = evaluated(catalog, indices, Colours())
    assert result.metrics["accuracy"] == 1.0
    assert result.metrics["n"] == len(indices)
    assert [p.path for p in result.predictions] == [catalog.images[i].path for i in indices]
    for prediction in result.predictions:
        assert prediction.path.startswith(prediction.label)
        assert int(np.argmax(prediction.probabilities)) == list(COLOURS).index(prediction.label)
        assert sum(prediction.probabilities) == pytest.approx(1)


def test_predictions_and_figures_of_the_last_set_are_written(
    catalog: Catalog, tmp_path: Path
) -> None:
    results = {
        "val": evaluated(catalog, [0, 4, 7], Colours()),
        "test": evaluated(catalog, [1, 2, 5, 8], turned_around()),
    }
    write_results(tmp_path / "run", catalog, results)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert list(metrics) == ["val", "test"]
    assert metrics["val"] == results["val"].metrics
    assert metrics["test"] == results["test"].metrics
    assert metrics["test"]["accuracy"] == pytest.approx(1 / 4)
    with (tmp_path / "run" / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["path"] for row in rows] == [catalog.images[i].path for i in (1, 2, 5, 8)]
    assert [row["prediction"] for row in rows] == ["Myeloma", "Myeloma", "Lymphoma", "Benign"]
    figures = {file.name for file in (tmp_path / "run" / "figures").iterdir()}
    assert figures == {
        f"{name}.svg" for name in ("confusion_matrix", "intervals", "reliability", "risk_coverage")
    }
    write_mistakes(tmp_path / "run", catalog, results["test"])
    assert (tmp_path / "run" / "figures" / "mistakes.png").is_file()


def test_predictive_values_lie_in_intervals_for_the_same_prevalence(catalog: Catalog) -> None:
    policy = DecisionPolicy(prevalence=0.01)
    found = evaluated(catalog, range(len(catalog.images)), turned_around(), policy).metrics
    low, high = found["malignant_ppv_ci"]
    assert 0 < low < found["malignant_ppv"] < high < 0.1


def test_without_mistakes_no_figure_of_mistakes_is_written(
    catalog: Catalog, tmp_path: Path
) -> None:
    write_mistakes(tmp_path, catalog, evaluated(catalog, [0, 5], Colours()))
    assert not (tmp_path / "figures").exists()


def test_unsafe_answers_are_in_the_metrics_if_there_is_a_benign_class(catalog: Catalog) -> None:
    everything = range(len(catalog.images))
    result = evaluated(catalog, everything, turned_around())
    assert result.metrics["unsafe_malignant"] == pytest.approx(2 / 5)  # Myeloma is called Benign
    assert result.metrics["unsafe_benign"] == 1.0
    assert result.unsafe is not None and result.unsafe.sum() == 6
    titles = [row[0] for row in metric_rows({"test": result})]
    assert titles[1:3] == ["unsafe, of malignant images", "unsafe, of benign images"]
    assert "2 of 5 malignant images are called benign" in unsafe_line(result.metrics)
    # If everything is referred, nothing is unsafe.
    referred = evaluated(catalog, everything, turned_around(), DecisionPolicy(calibrated=False))
    assert referred.metrics["unsafe_malignant"] == referred.metrics["unsafe_benign"] == 0.0
    without = evaluated(replace(catalog, benign=None), everything, turned_around())
    assert without.unsafe is None and unsafe_line(without.metrics) == ""
    assert not any("unsafe" in name for name in without.metrics)
    assert not any("unsafe" in row[0] for row in metric_rows({"test": without}))
