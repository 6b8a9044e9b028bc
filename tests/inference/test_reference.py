"""bcd reference: a frozen set, and its page about another model version."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray

from bcd.cli.paths import quote_paths
from bcd.commands.reference import main
from bcd.config import check
from bcd.config.compose import with_defaults
from bcd.config.reference import ReferenceConfig, ReferenceDataConfig
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.decision import Decisions
from bcd.evaluation.model_change import MET, TRAINED, Check, ModelChange
from bcd.evaluation.reference_set import read_set
from bcd.inference import reference
from bcd.inference.model import Model
from bcd.reporting.reference import PAGE
from bcd.reporting.reference_words import check_text
from tests.helpers.harness import CONF
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


@pytest.mark.parametrize("absolute", [False, True])
def test_a_set_from_a_csv_may_be_moved(
    images: Path, tmp_path: Path, load: Any, absolute: bool
) -> None:
    """The CSV lies beside its images, or names them by absolute paths from elsewhere."""
    import shutil

    old, new = (shutil.copytree(images, tmp_path / name) for name in ("old", "new"))
    for place, lists in ((old, tmp_path), (new, tmp_path / "c")):
        lists = lists if absolute else place
        lists.mkdir(exist_ok=True)
        rows = [
            f"{f if absolute else f.relative_to(place)},{f.parent.name}"
            for f in place.rglob("*.png")
        ]
        (lists / "l.csv").write_text("\n".join(["path,class", *rows]))
    lists = tmp_path if absolute else old
    file = load(StubModel(), "old.onnx")
    frozen = reference.freeze(asked(tmp_path / "a", file, data={"root": str(lists / "l.csv")}))
    victim = next(new.glob("Benign/*.png"))
    victim.write_bytes(victim.read_bytes() + b"\0")
    moved = tmp_path / "c" if absolute else new
    for root in (moved / "l.csv", new):
        with pytest.raises(BcdError, match=rf"{victim}: is not the image that was frozen"):
            rerun(tmp_path, frozen, file, data={"root": str(root)})
    assert rerun(tmp_path, frozen, file).n == 12


def test_images_that_a_model_was_trained_on_are_counted(
    images: Path, frozen: Path, tmp_path: Path, load: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint knows them; of an export, the page says that nobody knows."""
    rerun(tmp_path, frozen, load(StubModel(), "new.onnx"))
    assert "is not known: an exported file does not hold" in "".join(capsys.readouterr())
    model: Any = StubModel()
    seen = {image.sha256 for image in read_set(frozen).images[:5]}
    model.card = SimpleNamespace(seen=lambda: seen)
    change = rerun(tmp_path, frozen, load(model, "new.onnx"))
    assert {one.name: one.found for one in change.checks}[TRAINED] == 5
    assert f"{TRAINED}: 5 (limit 0): exceeded" in (tmp_path / "b" / PAGE).read_text("utf-8")
    capsys.readouterr()
    own = reference.freeze(asked(tmp_path / "c", load(model, "c.onnx"), data={"root": str(images)}))
    assert "warning: 5 of 12 images were trained or chosen on" in "".join(capsys.readouterr())
    assert read_set(own).model.trained == 5


def test_a_set_without_malignant_images_is_said_to_be_of_no_use(
    tmp_path: Path, load: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        pixels = draw_smear(CLASS_NAMES[0], slide=0, index=number, size=SIDE)
        write_image(tmp_path / "in" / CLASS_NAMES[0] / f"{number}.png", pixels)
    file = load(StubModel(), "old.onnx")
    frozen = reference.freeze(asked(tmp_path / "a", file, data={"root": str(tmp_path / "in")}))
    told = "".join(capsys.readouterr())
    assert (
        "no version can meet the limit of loss of sensitivity: the set has no malignant image"
        in told
    )
    assert "loss of accuracy: 2.00 points need 189 images, the set is worth 3" in told
    rerun(tmp_path, frozen, file)
    told = "".join(capsys.readouterr())
    text = (tmp_path / "b" / "change.json").read_text()
    facts = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    checks = {one["name"]: one for one in facts["checks"]}
    assert checks["loss of sensitivity"]["found"] is checks["loss of sensitivity"]["worst"] is None
    assert "loss of sensitivity: unknown, as the set has no malignant image (limit 2.00)" in told
    assert " nan " not in told


def test_a_limit_of_one_is_a_share() -> None:
    share = Check("loss of accuracy", 1, 0.7153, 0.75, MET, 310)
    assert check_text(share).startswith("loss of accuracy: 71.53 points, with 95 % confidence less")
    better = Check("loss of accuracy", 0.02, -0.6731, -0.6108, MET, 310)
    assert "none, but a gain of 67.31 points, with 95 % confidence a gain of more than 61.08" in (
        check_text(better)
    )
    assert "a loss of less than 1.00" in check_text(replace(better, worst=0.01))
    assert check_text(Check("newly unsafe", 1, 1, 1, MET)) == "newly unsafe: 1 (limit 1): met"


def test_groups_are_counted_on_the_page(frozen: Path, tmp_path: Path, load: Any) -> None:
    rerun(tmp_path, frozen, load(StubModel(), "new.onnx"))
    page = (tmp_path / "b" / PAGE).read_text("utf-8")
    assert "3 groups, which are worth 3.0 groups of equal size" in page
    assert "2.00 points need 189 groups of equal size, the set is worth 3.0" in page


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


@pytest.mark.parametrize(
    "given",
    ["limits.newly_unsafe=1", "data.benign=x", "data.group_pattern=x", "data.variant=segmented"],
)
def test_what_is_frozen_is_not_taken_again(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = given.partition("=")[0]
    every = [given, "set=s.json", "model=m.onnx", f"run_dir={tmp_path}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("reference", overrides=quote_paths(every, "reference"))
    monkeypatch.setattr(check, "command_line", lambda: dict.fromkeys([key, "set", "model"], ""))
    with pytest.raises(
        ConfigError, match=rf"^{key}: (is frozen with|has no effect on) .*: leave it out"
    ):
        main(cfg)
