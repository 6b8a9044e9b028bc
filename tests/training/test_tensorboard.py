"""What TensorBoard's event files hold, read back with TensorBoard's own code."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.utils import get_total_norm

import bcd.training.tensorboard as board
from bcd.errors import ConfigError
from bcd.reporting.raster import confusion_image
from bcd.training.run import TrainResult, train
from tests.helpers.harness import SMALL, train_config

EVERY = ("trainer.log_every_n_steps=1", "data.batch_size=8")


class Norms(pl.Callback):
    """Keeps the norm of the gradients that each step used, nothing being clipped."""

    seen: ClassVar[list[float]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object
    ) -> None:
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.seen.append(float(get_total_norm(gradients)))


def run(folder: Path, *overrides: str, tested: bool = True) -> TrainResult:
    words = [*SMALL, *EVERY, f"data.root={folder.parent / 'in'}", *overrides]
    result = train(train_config(folder, *words), tested)
    assert result is not None
    return result


def events_of(result: TrainResult) -> EventAccumulator:
    events = EventAccumulator(str(result.run_dir), {"images": 0, "scalars": 0, "tensors": 0})
    events.Reload()
    return events


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("board")


@pytest.fixture(scope="module")
def matrices() -> list[np.ndarray]:
    """The confusion matrices that were drawn, by the order of their drawing."""
    return []


@pytest.fixture(scope="module")
def mistakes() -> list[list[Any]]:
    """The misclassified images that were drawn."""
    return []


@pytest.fixture(scope="module")
def full(base: Path, matrices: list[np.ndarray], mistakes: list[list[Any]]) -> TrainResult:
    """A run with photographs, of which what is drawn is kept."""
    photograph = board._photographs

    def drawn(matrix: Any, classes: Any, title: str) -> Any:
        matrices.append(np.asarray(matrix))
        return confusion_image(matrix, classes, title)

    def photographed(found: Any, catalog: Any) -> Any:
        mistakes.append(list(found))
        return photograph(found, catalog)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(board, "confusion_image", drawn)
        patch.setattr(board, "_photographs", photographed)
        return run(base / "full", "logger.images=true", "split.val=0.3")


def test_the_confusion_matrix_of_each_epoch_is_that_of_its_figures(
    full: TrainResult, matrices: list[np.ndarray]
) -> None:
    history = full.classifier.history
    pictures = events_of(full).Images("val/confusion")
    assert len(pictures) == len(history) == len(matrices) - 1  # the last is of test
    n = len(full.datamodule.split.indices("val"))
    for matrix, figures in zip(matrices[:-1], history, strict=True):
        assert matrix.sum() == n
        assert matrix.trace() / n == pytest.approx(figures["val/accuracy"])
    assert matrices[-1].tolist() == full.metrics["test"]["confusion"]
    pixels = np.asarray(Image.open(io.BytesIO(pictures[0].encoded_image_string)))
    assert pixels.shape == (pictures[0].height, pictures[0].width, 3)
    assert (pixels < 100).any() and (pixels == 255).any()


def test_misclassified_images_of_val_are_shown_the_most_confident_first(
    full: TrainResult, matrices: list[np.ndarray], mistakes: list[list[Any]]
) -> None:
    data = full.datamodule
    wrong = [int(m.sum() - m.trace()) for m in matrices[:-1]]
    of_val = [found for found in mistakes if len(found) <= board.SHOWN][: len(wrong)]
    assert [len(found) for found in of_val] == [min(count, board.SHOWN) for count in wrong if count]
    val = set(data.split.indices("val"))
    for found in of_val:
        assert [m.probability for m in found] == sorted(m.probability for m in found)[::-1]
        for mistake in found:
            image = data.catalog.images[mistake.index]
            assert mistake.index in val and mistake.path == image.path
            assert data.catalog.classes[image.label] == mistake.label != mistake.prediction
    tags = events_of(full).Tags()["images"]
    assert {"val/mistakes", "test/mistakes", "test/confusion"} <= set(tags)


def test_each_step_has_its_rate_and_the_norm_of_the_gradients_it_uses(base: Path) -> None:
    Norms.seen.clear()
    words = ("model=mobilenetv2", "model.weights=null", "model.input_size=48", "model.unfreeze=1")
    result = run(
        base / "norms", *words, "model.unfreeze_from=1", "model.backbone_lr=0.5",
        "optimizer.lr=0.01", f"+callbacks.norms._target_={__name__}.Norms",
    )  # fmt: skip
    events = events_of(result)
    logged = [event.value for event in events.Scalars("train/grad_norm")]
    assert len(logged) == result.trainer.global_step > 2
    assert logged == pytest.approx(Norms.seen, rel=1e-4)
    rates = [event.value for event in events.Scalars("lr/head")]
    assert rates == pytest.approx([0.01] * len(logged))
    (block,) = [tag for tag in events.Tags()["scalars"] if tag.startswith("lr/block")]
    assert events.Scalars(block)[0].value == pytest.approx(0.005)


def test_curves_of_test_hold_every_image(full: TrainResult) -> None:
    from tensorboard.util.tensor_util import make_ndarray

    events, test = events_of(full), full.metrics["test"]
    for name, count in test["n_by_class"].items():
        (event,) = events.Tensors(f"test/{name}")
        true, false, true_negative, false_negative, _, recall = make_ndarray(event.tensor_proto)
        assert true[0] == count and false[0] == test["n"] - count
        np.testing.assert_array_equal(true + false_negative, count)
        np.testing.assert_array_equal(false + true_negative, test["n"] - count)
        assert recall[0] == 1


def test_the_projector_finds_features_labels_and_thumbnails(full: TrainResult) -> None:
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin

    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(full.run_dir.parent))
    multiplexer.Reload()
    folder = str(full.run_dir.parent)
    provider = MultiplexerDataProvider(multiplexer, folder)
    plugin: Any = ProjectorPlugin(TBContext(logdir=folder, data_provider=provider))
    plugin._update_configs()
    (embedding,) = plugin._configs["full"].embeddings
    n = full.metrics["test"]["n"]
    assert embedding.tensor_shape[0] == n
    rows = (full.run_dir / embedding.metadata_path).read_text().splitlines()
    assert rows[0].split("\t") == ["label", "prediction", "correct", "image"]
    with (full.run_dir / "predictions.csv").open(newline="") as stream:
        expected = [
            [row["label"], row["prediction"], row["path"]] for row in csv.DictReader(stream)
        ]
    assert [[r.split("\t")[i] for i in (0, 1, 3)] for r in rows[1:]] == expected
    side = embedding.sprite.single_image_dim[0]
    with Image.open(full.run_dir / embedding.sprite.image_path) as sprite:
        assert sprite.width == sprite.height <= 8192
        assert (sprite.width // side) ** 2 >= n > (sprite.width // side - 1) ** 2
        thumbnail = np.asarray(sprite.crop((0, 0, side, side)), np.float64)
    source = Image.open(full.datamodule.catalog.root / expected[0][2]).convert("RGB")
    assert abs(thumbnail - np.asarray(source.resize((side, side)))).mean() < 6


def test_equal_features_lie_in_one_place() -> None:
    from bcd.training.projector import _components

    rng = np.random.default_rng(0)
    features = rng.normal(size=(9, 200)).astype(np.float32)
    features[3] = features[7]
    found = _components(features)
    np.testing.assert_allclose(found[3], found[7], atol=1e-4)
    # Nothing is lost: nine points have eight dimensions.
    apart = np.linalg.norm(features[0] - features[1])
    assert np.linalg.norm(found[0] - found[1]) == pytest.approx(apart, rel=1e-4)


def test_photographs_are_logged_only_if_asked_for_and_never_in_trials(base: Path) -> None:
    default = run(base / "default", "trainer.max_epochs=1")
    trial = run(base / "trial", "trainer.max_epochs=1", "logger.images=true", tested=False)
    for result in (default, trial):
        tags = events_of(result).Tags()["images"]
        assert "val/confusion" in tags
        assert not [tag for tag in tags if "mistakes" in tag]
        assert not (result.run_dir / "projector_config.pbtxt").exists()


def test_a_fitted_head_has_one_matrix_and_no_rate(base: Path) -> None:
    words = ("model=mobilenetv2", "model.weights=null", "model.input_size=48")
    events = events_of(run(base / "fitted", "head=logreg", *words))
    assert len(events.Images("val/confusion")) == 1
    assert not [tag for tag in events.Tags()["scalars"] if tag.startswith(("lr/", "train/grad"))]


def test_without_a_logger_nothing_is_written(base: Path) -> None:
    result = run(base / "none", "logger=none", "logger.images=true", "trainer.max_epochs=1")
    assert not list(result.run_dir.glob("events.*"))
    assert not (result.run_dir / "projector").exists()


@pytest.mark.parametrize(
    ("word", "needs"),
    [
        ("logger.images=5", "logger.images=5: needs true or false"),
        ("logger.tensorboard=5", "logger.tensorboard=5: needs the _target_ of a logger, or null"),
    ],
)
def test_a_wrong_logger_is_refused(tmp_path: Path, word: str, needs: str) -> None:
    with pytest.raises(ConfigError) as caught:
        train_config(tmp_path, *SMALL, word)
    assert str(caught.value) == needs
