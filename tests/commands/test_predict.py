"""Predicting images of unknown class with a checkpoint."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bcd.config.compose import with_defaults
from bcd.config.programs import PredictConfig
from bcd.data.items import Wanted
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.predictions import Prediction
from bcd.inference.checkpoint_model import CheckpointModel
from bcd.inference.predictor import Predictor
from bcd.training.run import train
from tests.helpers.harness import (
    SMALL,
    error_lines,
    predict_config,
    predicted,
    script,
    train_config,
)
from tests.helpers.noise import noise, write_image


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, of which nothing but the checkpoint and the reported rows is left."""
    folder = tmp_path_factory.mktemp("trained")
    # Many small batches, for a network that does not say the same of every image.
    settings: tuple[str, ...] = (*SMALL, "data.batch_size=4", "data.mask_scale_bar=true")
    settings = (*settings, f"data.root={folder / 'images'}")
    train(train_config(folder / "run", *settings))
    for name in ("config.yaml", "run.json", "split.csv", "metrics.json"):
        (folder / "run" / name).unlink()
    return folder


@pytest.fixture
def unknown(tmp_path: Path) -> Path:
    """Images of any size without classes, in a folder whose name Hydra's grammar chokes on."""
    folder = tmp_path / "smears [2], new"
    for i in range(4):
        write_image(folder / ("deep er" * (i % 2)) / f"{i}.png", noise(i, i, size=40 + 20 * i))
    (folder / "notes.txt").write_text("no image\n")
    return folder


def asked(trained: Path, run_dir: Path, **settings: Any) -> PredictConfig:
    given: dict[str, Any] = {"ckpt": str(trained / "run" / "checkpoints" / "best.ckpt")}
    given |= {"device": "cpu", "num_workers": 0, "run_dir": str(run_dir), **settings}
    return with_defaults(PredictConfig, **given)


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def probabilities(row: dict[str, str]) -> list[float]:
    return [float(value) for name, value in row.items() if name.startswith("p_")]


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_the_test_set_is_predicted_as_the_run_reported_it(
    batch_size: int, trained: Path, tmp_path: Path
) -> None:
    reported = read(trained / "run" / "predictions.csv")
    files = [str(trained / "images" / row["path"]) for row in reported]
    made = predicted(asked(trained, tmp_path, input=files, batch_size=batch_size))
    assert len(made) == len(reported) > 10
    for row, expected in zip(read(tmp_path / "predictions.csv"), reported, strict=True):
        assert Path(row["path"]).as_posix().endswith(expected["path"])
        assert probabilities(row) == pytest.approx(probabilities(expected), abs=1.1e-6)
        assert row["prediction"] == expected["prediction"]
        assert row["malignant"] == expected["malignant"]
        assert (row["refer"], row["reason"]) == (expected["refer"], expected["reason"])
        assert row["label"] == row["error"] == ""
    for prediction in made:
        assert sum(prediction.probabilities) == pytest.approx(1, abs=1e-9)


def test_the_scale_bar_is_masked_as_in_training(trained: Path, tmp_path: Path) -> None:
    image = noise(3, 1, size=48)
    marked = image.copy()
    marked[-5:, -8:] = 255
    files = [write_image(tmp_path / f"{n}.png", p) for n, p in (("a", image), ("b", marked))]
    one, other = predicted(asked(trained, tmp_path, input=[str(file) for file in files]))
    assert one.probabilities == other.probabilities
    marked[:5, :8] = 255
    write_image(files[1], marked)
    _, other = predicted(asked(trained, tmp_path, input=[str(file) for file in files]))
    assert one.probabilities != other.probabilities


def test_files_folders_and_globs_are_predicted_in_order(
    trained: Path, unknown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(unknown)
    inputs: dict[str, tuple[Any, list[str]]] = {
        "file": ("2.png", ["2.png"]),
        "folder": (".", ["0.png", "2.png", "deep er/1.png", "deep er/3.png"]),
        "glob": ("**/[13].png", ["deep er/1.png", "deep er/3.png"]),
        "several": (["2.png", "deep er", "*.png"], ["2.png", "deep er/1.png", "deep er/3.png",
                                                    "0.png"]),
    }  # fmt: skip
    seen: dict[str, Prediction] = {}
    for kind, (value, expected) in inputs.items():
        made = predicted(asked(trained, tmp_path / kind, input=value))
        assert [Path(p.path).as_posix() for p in made] == expected
        rows = read(tmp_path / kind / "predictions.csv")
        assert [row["path"] for row in rows] == [p.path for p in made]
        for prediction in made:  # whatever else is asked for, an image is predicted alike
            same = seen.setdefault(prediction.path, prediction)
            assert prediction.probabilities == pytest.approx(same.probabilities, abs=1e-6)
    assert len({p.probabilities for p in seen.values()}) == 4
    # The folder's brackets stand as such, those of the name are a pattern.
    made = predicted(asked(trained, tmp_path / "under", input=str(unknown / "[02].png")))
    assert [Path(p.path) for p in made] == [unknown / "0.png", unknown / "2.png"]


def test_bad_images_are_rows_with_their_reason_among_the_others(
    trained: Path, unknown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = predicted(asked(trained, tmp_path, input=str(unknown)))
    (unknown / "1 empty.png").touch()
    (unknown / "3 text.jpg").write_text("no image\n")
    whole = (unknown / "0.png").read_bytes()
    (unknown / "4 cut.png").write_bytes(whole[: len(whole) // 2])
    capsys.readouterr()
    made = predicted(asked(trained, tmp_path, input=str(unknown), batch_size=3))
    good = [prediction for prediction in made if not prediction.error]
    assert [p.path for p in good] == [p.path for p in alone]
    for prediction, before in zip(good, alone, strict=True):
        assert prediction.probabilities == pytest.approx(before.probabilities, abs=1e-6)
    bad = {Path(row["path"]).name: row for row in read(tmp_path / "predictions.csv")
           if row["error"]}  # fmt: skip
    assert list(bad) == ["1 empty.png", "3 text.jpg", "4 cut.png"]
    assert bad["1 empty.png"]["error"] == "empty file"
    assert "not an image" in bad["3 text.jpg"]["error"]
    assert all(row["refer"] == "true" and row["prediction"] == "" for row in bad.values())
    shown = capsys.readouterr().err
    assert all(f"{name}: {row['error']}" in shown for name, row in bad.items())


def test_a_given_file_that_is_not_an_image_is_a_row(
    trained: Path, unknown: Path, tmp_path: Path
) -> None:
    (unknown / "notes.md").write_text("no image\n")
    (made,) = predicted(asked(trained, tmp_path, input=str(unknown / "notes.md")))
    assert made.error == "not an image file (type '.md')"
    assert made.probabilities == ()


def test_the_command_line_predicts_from_anywhere_and_ends_with_3(
    trained: Path, unknown: Path, tmp_path: Path
) -> None:
    (unknown / "empty.png").touch()
    run_dir = tmp_path / "out"
    done = script("predict.py", f"ckpt={os.path.relpath(trained / 'run', tmp_path)}",
                  f"input={unknown.name}", f"hydra.run.dir={run_dir}", "device=cpu",
                  cwd=tmp_path)  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert error_lines(done) == []
    assert done.stdout == ""
    rows = {Path(row["path"]).name: row for row in read(run_dir / "predictions.csv")}
    assert rows.keys() == {"0.png", "1.png", "2.png", "3.png", "empty.png"}
    assert [name for name, row in rows.items() if row["error"]] == ["empty.png"]
    assert f"{run_dir / 'predictions.csv'}" in done.stderr
    assert [file.name for file in run_dir.iterdir()] == ["predictions.csv"]


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (3, 3), (99, 4)])
def test_a_limit_takes_the_first(
    limit: int, count: int, trained: Path, unknown: Path, tmp_path: Path
) -> None:
    everything = predicted(asked(trained, tmp_path, input=str(unknown)))
    made = predicted(asked(trained, tmp_path, input=str(unknown), limit=limit))
    assert [p.path for p in made] == [p.path for p in everything[:count]]
    assert len(read(tmp_path / "predictions.csv")) == count


def test_the_format_and_the_output_decide_what_is_written(
    trained: Path, unknown: Path, tmp_path: Path
) -> None:
    predicted(asked(trained, tmp_path, input=str(unknown)))
    rows = read(tmp_path / "predictions.csv")
    predicted(asked(trained, tmp_path / "json", input=str(unknown), format="json"))
    outputs = [tmp_path / "new" / "given.json", tmp_path / "new" / "GIVEN.JSON"]
    for output in outputs:
        predicted(asked(trained, tmp_path / "unused", input=str(unknown), output=str(output)))
    for file in (tmp_path / "json" / "predictions.json", *outputs):
        records = json.loads(file.read_text(encoding="utf-8"))
        assert [list(record) for record in records] == [list(row) for row in rows]
        assert [record["prediction"] for record in records] == [r["prediction"] for r in rows]
    predicted(asked(trained, tmp_path, input=str(unknown), output=str(tmp_path / "a.csv")))
    assert read(tmp_path / "a.csv") == rows
    assert not (tmp_path / "unused").exists()


def test_an_output_that_cannot_be_written_is_an_error_before_predicting(
    trained: Path, unknown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []
    monkeypatch.setattr(Wanted, "read", lambda self, path: looked.append(path))
    for output in ("rows.txt", "rows.csv.gz"):
        with pytest.raises(ConfigError, match=rf"output=.*{output}: must end in \.csv or \.json"):
            predicted(asked(trained, tmp_path, input=str(unknown), output=str(tmp_path / output)))
    assert looked == []
    assert list(tmp_path.iterdir()) == [unknown]


@pytest.mark.parametrize("value", ["no/such.png", "no/*.png", ["2.png", "nosuch"], "empty"])
def test_an_input_without_images_is_named(
    value: Any, trained: Path, unknown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(unknown)
    (unknown / "empty").mkdir()
    named = value[-1] if isinstance(value, list) else value
    with pytest.raises(BcdError, match="no image there") as caught:
        predicted(asked(trained, unknown / "out", input=value))
    assert str(caught.value).startswith(f"input={named}:")
    assert not (unknown / "out").exists()


@pytest.mark.parametrize("value", [None, [], 7, ["a.png", 7]])
def test_an_invalid_input_is_wrong_usage(value: Any, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="input is missing: give input="):
        predicted(asked(trained, tmp_path, input=value))


def test_a_run_folder_means_its_best_checkpoint_and_a_folder_of_runs_the_newest(
    trained: Path, unknown: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    for name, age in (("b", 0), ("a", 100)):
        shutil.copytree(trained / "run" / "checkpoints", runs / name / "checkpoints")
        best = runs / name / "checkpoints" / "best.ckpt"
        os.utime(best, (best.stat().st_mtime - age,) * 2)
    (runs / "a" / "checkpoints" / "best.ckpt").write_text("damaged\n")
    os.utime(runs / "a" / "checkpoints" / "best.ckpt", (1, 1))
    (runs / "b" / "checkpoints" / "last.ckpt").write_text("damaged, and newer\n")
    expected = predicted(asked(trained, tmp_path, input=str(unknown)))
    for ckpt in (runs, runs / "b"):
        assert predicted(asked(trained, tmp_path, input=str(unknown), ckpt=str(ckpt))) == expected


def test_probabilities_are_those_of_logits_divided_by_the_temperature(
    trained: Path, unknown: Path
) -> None:
    model = CheckpointModel.load(trained / "run", False, "cpu")
    predictor, card = Predictor(model), model.card
    files = sorted(unknown.glob("*.png"))
    wanted = Wanted(card.input_views, card.mask_scale_bar)
    read = [torch.from_numpy(np.asarray(wanted.read(file))) for file in files]
    pixels = torch.stack(read)
    logits = model.network(pixels.permute(0, 3, 1, 2)).detach()
    for temperature in (None, 2.5):
        plain = None if temperature is None else DecisionPolicy(temperature).to_plain()
        model.policy = DecisionPolicy.from_plain(plain)
        made = predictor.batches(files, 2, 0)
        expected = (logits.double() / (temperature or 1)).softmax(dim=1).numpy()
        given = np.array([p.probabilities for batch in made for p in batch])
        np.testing.assert_allclose(given, expected, atol=1e-6)


def test_the_composed_configuration_has_the_defaults(trained: Path, tmp_path: Path) -> None:
    cfg = predict_config(tmp_path, f"ckpt={trained}", "input=[a.png,b]")
    assert cfg == with_defaults(
        PredictConfig, ckpt=str(trained), input=["a.png", "b"], run_dir=str(tmp_path)
    )
