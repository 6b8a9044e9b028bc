"""bcd reference: a frozen set, and its page about another model version."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.config.compose import with_defaults
from bcd.config.reference import ReferenceConfig, ReferenceDataConfig
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.decision import Decisions
from bcd.evaluation.model_change import ModelChange
from bcd.evaluation.reference_set import read_set
from bcd.inference import reference
from bcd.inference.model import Model
from bcd.reporting.reference import PAGE
from tests.helpers.noise import write_image
from tests.serving.making import SIDE, StubModel


class OtherModel(StubModel):
    """A version that calls every image benign, for certain, and refers none."""

    facts = replace(StubModel.facts, card_sha256="d" * 64)

    def answer(self, packed: NDArray[np.uint8]) -> Decisions:
        n, k = len(packed), len(CLASS_NAMES)
        sure = np.eye(k)[np.zeros(n, int)]
        return Decisions(sure, [False] * n, [()] * n, sure > 0, np.zeros(n))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    for number in range(12):
        name = CLASS_NAMES[number % 4]
        pixels = draw_smear(name, slide=number, index=number, size=SIDE)
        write_image(folder / name / f"slide{number // 4}-{number}.png", pixels)
    return folder


def asked(
    run_dir: Path, file: Path, data: dict[str, Any] | None = None, **settings: Any
) -> ReferenceConfig:
    given: dict[str, Any] = {"model": str(file), "device": "cpu", "num_workers": 0}
    given["data"] = with_defaults(ReferenceDataConfig, **(data or {}))
    return with_defaults(ReferenceConfig, **given, run_dir=str(run_dir), **settings)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Has a model loaded as the content of a file; returns the file."""

    def prepare(model: Model, name: str) -> Path:
        monkeypatch.setattr(reference, "load_model", lambda **_: model)
        file = tmp_path / name
        file.write_text(name)
        return file

    return prepare


@pytest.fixture
def frozen(images: Path, tmp_path: Path, load: Any) -> Path:
    root = {"root": str(images), "group_pattern": r"(slide\d+)-"}
    return reference.freeze(asked(tmp_path / "a", load(StubModel(), "old.onnx"), data=root))


def rerun(tmp_path: Path, frozen: Path, file: Path, **settings: Any) -> ModelChange:
    return reference.rerun(asked(tmp_path / "b", file, set=str(frozen), **settings))


def test_the_set_holds_what_the_model_said(frozen: Path, images: Path, tmp_path: Path) -> None:
    found = read_set(frozen)
    assert [image.class_name for image in found.images] == sorted(CLASS_NAMES * 3, key=str.lower)
    assert {image.group for image in found.images} == {"slide0", "slide1", "slide2"}
    assert found.benign == "Benign"
    assert found.model.name == "old.onnx"
    for image in found.images:
        assert sum(image.answer.probabilities) == pytest.approx(1)


def test_the_same_version_changes_nothing(frozen: Path, tmp_path: Path, load: Any) -> None:
    change = rerun(tmp_path, frozen, load(StubModel(), "new.onnx"))
    assert change.changed == []
    assert change.largest == 0
    assert not change.go_on  # twelve images exclude nothing
    assert "No image changed." in (tmp_path / "b" / PAGE).read_text("utf-8")


def test_the_page_says_what_changed_and_whether_to_go_on(
    frozen: Path, tmp_path: Path, load: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    change = rerun(tmp_path, frozen, load(OtherModel(), "new.onnx"))
    told = "".join(capsys.readouterr())
    page = (tmp_path / "b" / PAGE).read_text("utf-8")
    facts = json.loads((tmp_path / "b" / "change.json").read_text())
    rows = list(csv.DictReader((tmp_path / "b" / "changes.csv").open()))
    assert facts["go_on"] is change.go_on is False
    assert "decision: do not go on: the new version exceeds a limit" in told
    assert "Do not go on" in page
    assert len(rows) == len(change.changed) > 0
    assert {row["new"] for row in rows} == {"Benign"}
    set_ = read_set(frozen)
    malignant = [i for i, image in enumerate(set_.images) if image.class_name != "Benign"]
    missed = [
        i for i in malignant if set_.images[i].answer.refer or set_.images[i].answer.malignant
    ]
    assert change.newly_unsafe == missed
    assert [row["path"] for row in rows][: len(missed)] == [set_.images[i].path for i in missed]
    for name in ("old.onnx", "new.onnx", set_.sha256, "For research only. Not a diagnosis."):
        assert name in page


def test_images_may_be_moved_but_not_changed(
    frozen: Path, images: Path, tmp_path: Path, load: Any
) -> None:
    import shutil

    moved = tmp_path / "moved"
    shutil.copytree(images, moved)
    file = load(StubModel(), "new.onnx")
    assert rerun(tmp_path, frozen, file, data={"root": str(moved)}).n == 12
    victim = next(moved.glob("Benign/*.png"))
    data = victim.read_bytes()
    victim.write_bytes(data + b"\0")
    with pytest.raises(BcdError, match=r"is not the image that was frozen"):
        rerun(tmp_path, frozen, file, data={"root": str(moved)})
    victim.unlink()
    with pytest.raises(BcdError, match=r"cannot be read"):
        rerun(tmp_path, frozen, file, data={"root": str(moved)})


@pytest.mark.parametrize("key", ["limits", "images", "benign"])
def test_an_edited_set_is_refused(frozen: Path, tmp_path: Path, load: Any, key: str) -> None:
    content = json.loads(frozen.read_text())
    if key == "limits":
        content["limits"]["newly_unsafe"] = 100
    elif key == "images":
        content["images"].pop()
    else:
        content["benign"] = "Pro-B"
    frozen.write_text(json.dumps(content))
    with pytest.raises(BcdError, match="was changed since it was frozen"):
        rerun(tmp_path, frozen, load(StubModel(), "new.onnx"))


def test_no_set_is_said_in_one_line(tmp_path: Path, load: Any) -> None:
    (tmp_path / "other.json").write_text('{"format": 1}')
    file = load(StubModel(), "new.onnx")
    with pytest.raises(BcdError, match="not a reference set"):
        rerun(tmp_path, tmp_path / "other.json", file)
    with pytest.raises(BcdError, match="cannot be read"):
        rerun(tmp_path, tmp_path / "none.json", file)


def test_an_unreadable_image_is_not_frozen(tmp_path: Path, load: Any) -> None:
    for name in CLASS_NAMES[:2]:
        write_image(tmp_path / "in" / name / "1.png", draw_smear(name, slide=0, index=0, size=SIDE))
    (tmp_path / "in" / CLASS_NAMES[0] / "2.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(BcdError, match=r"2\.png: .*must be read"):
        root = {"root": str(tmp_path / "in")}
        reference.freeze(asked(tmp_path / "a", load(StubModel(), "old.onnx"), data=root))


def test_other_classes_cannot_be_compared(frozen: Path, tmp_path: Path, load: Any) -> None:
    model = StubModel()
    model.facts = replace(model.facts, classes=["Benign", "Other"])
    with pytest.raises(BcdError, match="only versions with the same classes"):
        rerun(tmp_path, frozen, load(model, "new.onnx"))


def test_what_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.root=.*or set="):
        asked(tmp_path, tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match="one of both"):
        asked(tmp_path, tmp_path / "m.onnx", ckpt="x", set="y")
