"""Predicting with an exported file: the same rows as with its checkpoint, and no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import bcd
from bcd.config.compose import with_defaults
from bcd.config.input_views import InputView
from bcd.config.programs import PredictConfig, SiteMatchConfig, SiteProfileConfig
from bcd.data.input_views import definition
from bcd.data.items import Item
from bcd.data.site_profile import profile_site
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.predictions import NOT_FINITE, UNCALIBRATED, Prediction
from bcd.inference import exported
from bcd.inference.exported import ExportedModel
from bcd.inference.predictor import Predictor
from bcd.storage import digest
from bcd.training.run import train
from tests.helpers.harness import ROOT, SMALL, error_lines, predicted, train_config, verb
from tests.helpers.noise import write_image

SIDE = 112  # red cells can be measured


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, its exported file, and images of which one is torn."""
    folder = tmp_path_factory.mktemp("made")
    size = (f"data.generate.size={SIDE}", f"model.input_size={SIDE}", "data.batch_size=4")
    train(train_config(folder / "run", *SMALL, *size, f"data.root={folder / 'images'}"))
    done = verb("export", f"ckpt={folder / 'run'}", f"output={folder / 'model.onnx'}")
    assert done.returncode == 0, done.stderr
    for number in range(14):
        name = CLASS_NAMES[number % 4]
        image = draw_smear(name, slide=number % 5, index=number, seed=9, size=90 + 9 * number)
        write_image(folder / "new" / f"{number:02d}.png", image)
    (folder / "new" / "05 torn.png").write_bytes(b"\x89PNG\r\n")
    return folder


def asked(made: Path, run_dir: Path, **settings: Any) -> PredictConfig:
    given: dict[str, Any] = {"input": str(made / "new"), "device": "cpu", "run_dir": str(run_dir)}
    given |= {"num_workers": 0, "ckpt": None, "model": None, **settings}
    return with_defaults(PredictConfig, **given)


def assert_same(given: list[Prediction], expected: list[Prediction]) -> None:
    assert [p.path for p in given] == [p.path for p in expected]
    for one, other in zip(given, expected, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
        assert (one.refer, one.malignant, one.error) == (other.refer, other.malignant, other.error)


def test_rows_are_those_of_the_checkpoint_in_any_batch(made: Path, tmp_path: Path) -> None:
    expected = predicted(asked(made, tmp_path / "ckpt", ckpt=str(made / "run")))
    assert len({p.probabilities for p in expected}) == len(expected) == 15
    assert len({p.refer for p in expected}) > 2 and sum(bool(p.error) for p in expected) == 1
    file = str(made / "model.onnx")
    for batch_size, workers in ((1, 0), (4, 2), (32, None)):
        settings = {"batch_size": batch_size, "num_workers": workers}
        assert_same(predicted(asked(made, tmp_path / "model", model=file, **settings)), expected)
    headers = [(tmp_path / name / "predictions.csv").read_text().splitlines()[0]
               for name in ("ckpt", "model")]  # fmt: skip
    assert headers[0] == headers[1]


def test_python_gives_the_same_dicts(made: Path) -> None:
    rows = bcd.load(made / "model.onnx", device="cpu").predict(made / "new")
    expected = bcd.load(made / "run", device="cpu").predict(made / "new")
    assert [list(row) for row in rows] == [list(row) for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert {k: v for k, v in row.items() if not isinstance(v, float)} == {
            k: v for k, v in other.items() if not isinstance(v, float)
        }


def test_a_profile_matches_images_as_for_the_checkpoint(made: Path, tmp_path: Path) -> None:
    profile = tmp_path / "site.json"
    site = {"root": str(made / "new"), "output": str(profile), "run_dir": str(tmp_path)}
    profile_site(with_defaults(SiteProfileConfig, **site, num_workers=0))
    match = with_defaults(SiteMatchConfig, profile=str(profile), scale=False, colour="reinhard")
    plain, expected, given = (
        predicted(asked(made, tmp_path, **settings))
        for settings in (
            {"ckpt": str(made / "run")},
            {"ckpt": str(made / "run"), "site": match},
            {"model": str(made / "model.onnx"), "site": match},
        )
    )
    assert_same(given, expected)
    assert [p.probabilities for p in expected] != [p.probabilities for p in plain]

    def mask(content: dict[str, Any], card: dict[str, Any]) -> None:
        content["mask_scale_bar"] = card["mask_scale_bar"] = True

    masking = changed(
        made, tmp_path, lambda *both: [one.update(mask_scale_bar=True) for one in both]
    )
    with pytest.raises(BcdError, match=r"site\.profile: model=.* covers the scale bar itself"):
        predicted(asked(made, tmp_path, model=str(masking), site=match))


Change = Callable[[dict[str, Any], dict[str, Any]], object]


def changed(made: Path, folder: Path, change: Change) -> Path:
    """A copy of the exported file with other metadata, and the checksum of its card."""
    model = onnx.load(str(made / "model.onnx"))
    entries = {entry.key: entry for entry in model.metadata_props}
    content, card = (json.loads(entries[name].value) for name in ("bcd", "card"))
    change(content, card)
    entries["card"].value = json.dumps(card)
    content["card_sha256"] = content.get("card_sha256") and digest(entries["card"].value)
    entries["bcd"].value = json.dumps(content)
    file = folder / "changed.onnx"
    onnx.save(model, str(file))
    return file


DAMAGED: dict[str, tuple[Change, str]] = {
    "newer": (lambda c, _: c.update(format=2, bcd_version="9.9"), r"format 2, written by bcd 9\.9"),
    "another card": (lambda c, _: c.update(card_sha256=None), "damaged"),
    "no classes": (lambda c, _: c.pop("classes"), "damaged"),
    "a class less": (lambda c, _: c["classes"].pop(), "damaged"),
    "not as calibrated": (lambda c, _: c.update(calibrated=False), "damaged"),
    "another side": (lambda c, _: c["views"][0].__setitem__(1, 64), "views were made as"),
    "several views": (lambda c, _: c["views"].append(["plain", 64, "image", None]), "views"),
    "another constant": (lambda _, card: card["views"][0].update(white=1), "views were made as"),
    "another input": (lambda c, _: c.update(preprocessing="predictor"), "damaged"),
    "no preprocessing": (lambda c, _: c.update(preprocessing="magic"), "damaged"),
    "a text": (lambda c, _: c.update(views="plain"), "damaged"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_metadata_that_does_not_fit_is_refused(kind: str, made: Path, tmp_path: Path) -> None:
    change, said = DAMAGED[kind]
    file = changed(made, tmp_path, change)
    with pytest.raises(BcdError, match=said) as caught:
        bcd.load(file)
    assert str(caught.value).startswith(f"model={file}: ") and "\n" not in str(caught.value)
    assert caught.value.status == 1


def test_files_that_are_no_export_are_refused(made: Path, tmp_path: Path) -> None:
    whole = (made / "model.onnx").read_bytes()
    foreign = onnx.load(str(made / "model.onnx"))
    del foreign.metadata_props[:]
    contents = {
        "cut": (whole[: len(whole) // 2], "damaged, or not an ONNX file"),
        "empty": (b"", "damaged, or not an ONNX file"),
        "text": (b"no model\n", "damaged, or not an ONNX file"),
        "foreign": (foreign.SerializeToString(), "not a model that bcd export wrote"),
    }
    for name, (data, said) in contents.items():
        (tmp_path / f"{name}.onnx").write_bytes(data)
        with pytest.raises(BcdError, match=said) as caught:
            bcd.load(tmp_path / f"{name}.onnx")
        assert "\n" not in str(caught.value)
    with pytest.raises(BcdError, match="cannot be read"):
        bcd.load(tmp_path / "missing.onnx")
    checkpoint = made / "run" / "checkpoints" / "best.ckpt"
    with pytest.raises(BcdError, match=r"best\.ckpt: not an exported model .*ckpt="):
        predicted(asked(made, tmp_path, model=str(checkpoint)))


def test_one_model_is_given_and_a_checkpoint_where_it_is_needed(made: Path, tmp_path: Path) -> None:
    both = {"ckpt": str(made / "run"), "model": str(made / "model.onnx")}
    for settings in ({}, both):
        with pytest.raises(ConfigError, match=r"give ckpt=.* or model="):
            asked(made, tmp_path, **settings)
    with pytest.raises(ConfigError, match="explain=True: needs the model's checkpoint"):
        asked(made, tmp_path, model=both["model"], explain=True)
    wrong = {
        "predict": [f"ckpt={both['model']}", f"input={made / 'new'}"],
        "eval": [f"ckpt={both['model']}"],
        "compare": [f"ckpts=[{both['model']},{both['ckpt']}]"],
    }
    for name, arguments in wrong.items():
        done = verb(name, *arguments, f"hydra.run.dir={tmp_path / name}")
        assert done.returncode == 1
        (line,) = error_lines(done)
        assert "an exported model" in line and "give the checkpoint" in line


def test_an_uncalibrated_file_refers_everything_or_is_refused(made: Path, tmp_path: Path) -> None:
    def forget(content: dict[str, Any], card: dict[str, Any]) -> None:
        content["calibrated"], card["policy"] = False, None

    file = changed(made, tmp_path, forget)
    with pytest.raises(BcdError, match="uncalibrated: it has no decision policy"):
        bcd.load(file)
    rows = bcd.load(file, uncalibrated=True).predict(made / "new", num_workers=0)
    assert all(row["refer"] and row["reason"].endswith(UNCALIBRATED) for row in rows)


@pytest.mark.parametrize("device", ["mps", "tpu", "cuda"])
def test_other_devices_are_refused(device: str, made: Path) -> None:
    import onnxruntime

    if device == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(BcdError, match=f"device={device}: "):
        bcd.load(made / "model.onnx", device=device)


def test_answers_that_contradict_themselves_are_none(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ExportedModel(made / "model.onnx", False, "cpu")
    images = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    probabilities, malignant, refer, reasons = model.forward(images)
    names = ["not finite", *("x" for _ in range(reasons.shape[1] - 1))]
    lost = np.where([[True] * 4, [False] * 4], np.nan, probabilities)
    odd = np.zeros_like(reasons)
    odd[:, names.index(NOT_FINITE)] = [True, False]
    monkeypatch.setattr(model, "forward", lambda _: [lost, malignant, odd.any(1), odd])
    first, second = (model.answer(images).prediction(i, "a") for i in range(2))
    assert (first.probabilities, first.malignant, first.refer) == ((), None, (NOT_FINITE,))
    assert second.probabilities and second.refer == () and second.malignant is not None
    for wrong in (
        [lost, malignant, refer, reasons],  # NaN without its reason
        [probabilities / 2, malignant, refer, reasons],
        [probabilities, malignant, ~reasons.any(1), reasons],
        [probabilities[:1], malignant, refer, reasons],
    ):
        monkeypatch.setattr(model, "forward", lambda _, wrong=wrong: wrong)
        with pytest.raises(BcdError, match="gives no answers"):
            model.answer(images)


def test_what_was_read_before_a_failure_is_answered(made: Path) -> None:
    data = (made / "new" / "00.png").read_bytes()

    def items() -> Any:
        for number in range(5):
            yield Item(f"archive/{number}", data=data)
        raise KeyboardInterrupt

    predictor = Predictor(ExportedModel(made / "model.onnx", False, "cpu"))
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        for batch in predictor.batches(items(), 2, 0):
            told += [prediction.path for prediction in batch]
    assert told == [f"archive/{number}" for number in range(4)]


def test_views_that_cannot_be_made_or_sent_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(views: tuple[InputView, ...], preprocessing: str) -> None:
        made = json.loads(json.dumps([definition(view) for view in views]))
        exported._check_views("model=a.onnx", views, made, preprocessing)

    cells = (InputView("plain", 96, "cells", 224),)
    check(cells, "predictor")
    monkeypatch.setattr(exported, "find_spec", lambda name: None if name == "skimage" else name)
    with pytest.raises(BcdError, match="pip install scikit-image scipy"):
        check(cells, "predictor")
    several = (InputView("plain", 224), InputView("plain", 320))
    check(several, "predictor")
    with pytest.raises(BcdError, match="several input views"):
        check(several, "graph")


# Everything that training needs and predicting with an exported file does not.
BLOCKED = [
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "sklearn",
    "scipy",
    "skimage",
    "rich",
    "matplotlib",
    "albumentations",
    "tensorboard",
    "captum",
    "onnx",
    "kagglehub",
    "filelock",
    "threadpoolctl",
    "timm",
    "pandas",
    "tqdm",
    "optuna",
    "joblib",
    "huggingface_hub",
    "pyarrow",
    "tiffslide",
    "ray",
    "model_signing",
    "openvino",
]
_PROGRAM = """
import sys
sys.modules.update(dict.fromkeys(sys.argv.pop(1).split()))
from bcd.__main__ import main
main("predict")
"""


def test_predicting_needs_six_packages(made: Path, tmp_path: Path) -> None:
    """In reading processes too: files that need more would be rows with an error."""
    profile = tmp_path / "site.json"
    site = {"root": str(made / "new"), "output": str(profile), "run_dir": str(tmp_path)}
    profile_site(with_defaults(SiteProfileConfig, **site, num_workers=0))
    words = [f"model={made / 'model.onnx'}", f"input={made / 'new'}", f"output={tmp_path}/rows.csv"]
    words += [f"site.profile={profile}", "site.colour=macenko", "site.scale=false"]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, " ".join(BLOCKED), *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr  # an image is torn
    match = with_defaults(SiteMatchConfig, profile=str(profile), scale=False, colour="macenko")
    expected = predicted(asked(made, tmp_path, ckpt=str(made / "run"), site=match))
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["path"] for row in rows] == [p.path for p in expected]
    for row, prediction in zip(rows, expected, strict=True):
        assert row["reason"] == "; ".join(prediction.refer)
        given = [float(value) for name, value in row.items() if name.startswith("p_") and value]
        assert given == pytest.approx(prediction.probabilities, abs=1e-5)
    assert f"could not be read   {sum(bool(p.error) for p in expected)}" in done.stderr
    assert "Predicting: 15/15" in done.stderr
