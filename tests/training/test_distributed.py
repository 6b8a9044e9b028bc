"""Several processes train, and the first of them tests, through the real command line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bcd.errors import ConfigError
from bcd.models.checkpoint_content import read_content
from bcd.training.run import train
from tests.helpers.choosing import exhaustive_if
from tests.helpers.harness import SMALL, script, train_config, warnings

TWO = ("trainer=ddp", "trainer.devices=2")
# 103 images: 61 of them train, 11 val and 31 test, so that neither processes nor batches come out
# even; the last of the batches of 12 has one image, for two processes.
COUNT, TRAINED = 103, 61
UNEVEN = (f"data.generate.count={COUNT}", "data.batch_size=12", "split.val=0.15", "seed=1")
# Its features spread without trained weights, so that two epochs move the answers.
NETWORK = ("model=torchvision", "model.weights=null", "model.input_size=48", "optimizer.lr=0.02")
ROADS = {
    "frozen, bank": ("model.unfreeze=0", "features=bank", "model.class_weights=balanced"),
    "trained, off": (
        "model.backbone=squeezenet1_1",  # a small one
        "model.unfreeze=1",
        "features=off",
        "model.unfreeze_from=1",
        "head=mlp",
        # Larger steps send the loss of the first epoch so far up that rounding shows.
        "optimizer.lr=0.002",
    ),
}


def answers(run: Path) -> dict[str, list[float]]:
    with (run / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {row["path"]: [float(v) for n, v in row.items() if n.startswith("p_")] for row in rows}


def spread(rows: dict[str, list[float]]) -> float:
    columns = [list(column) for column in zip(*rows.values(), strict=True)]
    return float(max(max(column) - min(column) for column in columns))


def pictures(run: Path) -> list[bytes]:
    """The confusion matrix on val of each epoch, as TensorBoard shows it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), {"images": 0})
    events.Reload()
    return [event.encoded_image_string for event in events.Images("val/confusion")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("processes")
        patch.setenv("BCD_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("road", exhaustive_if("frozen, bank".__eq__, ROADS))
def test_two_processes_answer_as_one_does(road: str, folder: Path) -> None:
    name = road.replace(", ", "_")
    chosen = [*SMALL, *NETWORK, *UNEVEN, *ROADS[road], f"data.root={folder}/in"]
    one = train(train_config(folder / f"one_{name}", *chosen))
    assert one is not None
    done = script("train.py", *chosen, *TWO, f"hydra.run.dir={folder}/two_{name}")
    assert done.returncode == 0, done.stderr
    alone, shared = (answers(folder / f"{n}_{name}") for n in ("one", "two"))
    assert len(one.datamodule.split.indices("train")) == TRAINED
    assert shared.keys() == alone.keys()
    for path, expected in alone.items():
        assert shared[path] == pytest.approx(expected, abs=1e-4), path
    assert spread(alone) > 0.01
    figures = json.loads((folder / f"two_{name}" / "metrics.json").read_text())
    for part in ("val", "test"):
        assert figures[part]["n"] == one.metrics[part]["n"]
        assert figures[part]["loss"] == pytest.approx(one.metrics[part]["loss"], abs=1e-4)
    history = read_content(folder / f"two_{name}" / "checkpoints" / "last.ckpt")["history"]
    for here, there in zip(history, one.classifier.history, strict=True):
        assert here == pytest.approx(there, abs=1e-3)
    # The matrix on val is of all images, although each process has a part of them.
    drawn = [pictures(folder / f"{n}_{name}") for n in ("one", "two")]
    assert drawn[0] == drawn[1] and len(drawn[0]) == len(history)
    assert done.stderr.count(f"{TRAINED} train") == 1
    assert done.stderr.count("run folder:") == 1
    known = (
        "the loss on (?:val|train) (?:did not decrease|was never below)|[0-9]+ groups correspond to"
    )
    assert all(re.match(f"warning: ({known})", line) for line in warnings(done.stderr))
    assert "Warning" not in done.stderr


@pytest.mark.slow
@pytest.mark.exhaustive  # one that diverges is tested in test_diverged_runs.py
def test_two_processes_that_diverge_end_in_one_line(folder: Path) -> None:
    chosen = [*SMALL, *TWO, f"data.root={folder}/in", f"hydra.run.dir={folder}/diverged"]
    done = script("train.py", *chosen, "optimizer=sgd", "optimizer.lr=1e37")
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("error: ") == done.stderr.count("error: training diverged") == 1
    assert not list((folder / "diverged").rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (("trainer.devices=2",), r"trainer\.devices=2: several processes require trainer=ddp"),
        (("trainer=ddp", "trainer.devices=3", "data.batch_size=16"), r"batch_size=16.*of 3"),
        ((*TWO, "lr_find=true"), "lr_find=true runs in one process"),
        ((*TWO, "head=knn", "model.unfreeze=0"), "head=knn is fitted in one process"),
        (("trainer=ddp", "trainer.devices=8"), "val has 4 images"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(
    wrong: tuple[str, ...], line: str, tmp_path: Path
) -> None:
    cfg = train_config(tmp_path / "run", *SMALL, f"data.root={tmp_path}/in", *wrong)
    with pytest.raises(ConfigError, match=line):
        train(cfg)
    assert not (tmp_path / "run").exists()


def test_a_trial_of_a_multirun_is_one_process(tmp_path: Path) -> None:
    cfg = train_config(tmp_path / "run", *SMALL, f"data.root={tmp_path}/in", *TWO)
    with pytest.raises(ConfigError, match="a trial of a multirun is one process"):
        train(cfg, tested=False)
