"""Which images make a reference set, and what is known of those that a model was trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bcd.config.compose import with_defaults
from bcd.config.reference import ReferenceConfig, ReferenceDataConfig
from bcd.data.layouts import Entry
from bcd.data.synthetic.smears import CLASS_NAMES
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.model_change import TRAINED
from bcd.evaluation.reference_set import read_set
from bcd.inference import reference
from bcd.inference.reference_images import check_groups
from tests.helpers.dicom import make_dicom
from tests.serving.making import StubModel, smear

Asked = Callable[..., ReferenceConfig]
N = 8


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> StubModel:
    made = StubModel()
    monkeypatch.setattr(reference, "load_model", lambda **_: made)
    return made


@pytest.fixture
def asked(tmp_path: Path, model: StubModel) -> Asked:
    """Two images of each class, and a model's file."""
    for i in range(N):
        file = tmp_path / "in" / CLASS_NAMES[i % 4] / f"p{i % 3}-{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(smear(i))
    (tmp_path / "m.onnx").write_text("model")

    def make(root: Path | None = None, folder: str = "out", **more: Any) -> ReferenceConfig:
        data = {"root": str(root or tmp_path / "in"), **more.pop("data", {})}
        return with_defaults(
            ReferenceConfig, model=str(tmp_path / "m.onnx"), num_workers=0,
            data=with_defaults(ReferenceDataConfig, **data), run_dir=str(tmp_path / folder), **more,
        )  # fmt: skip

    return make


def test_an_exported_file_was_trained_on_what_its_checkpoint_was(
    asked: Asked, model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The set knows, by the hash of the card; also that it was on none."""
    images = [image.sha256 for image in read_set(reference.freeze(asked())).images]
    for seen in (images[:3], []):
        model.card = SimpleNamespace(seen=lambda seen=seen: set(seen))
        set_ = reference.freeze(asked(folder=f"frozen{len(seen)}"))
        del model.card
        change = reference.rerun(asked(set=str(set_)))
        told = "".join(capsys.readouterr())
        assert {one.name: one.found for one in change.checks}[TRAINED] == len(seen)
        assert "is not known" not in told
        assert ("the old version was trained or chosen on 3 of 8 images" in told) is bool(seen)
    model.facts = model.facts.__class__(**{**vars(model.facts), "card_sha256": "d" * 64})
    reference.rerun(asked(set=str(set_)))
    assert "is not known" in "".join(capsys.readouterr())


def test_a_pattern_must_match_every_path(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"group_pattern=patient\(x\): matches none of 8 paths"):
        reference.freeze(asked(data={"group_pattern": "patient(x)"}))
    with pytest.raises(BcdError, match=r"^5 of 8 images have no group"):
        reference.freeze(asked(data={"group_pattern": "(p1)-"}))
    reference.freeze(asked(data={"group_pattern": r"(p\d)-"}))
    assert "reference set: 8 images of 3 groups" in "".join(capsys.readouterr())


def test_a_csv_names_all_groups_or_none(asked: Asked, tmp_path: Path) -> None:
    files = sorted((tmp_path / "in").rglob("*.png"))
    lines = [f"{file},{file.parent.name},{'a' if i else ''}" for i, file in enumerate(files)]
    (tmp_path / "l.csv").write_text("\n".join(["path,class,group", *lines]))
    with pytest.raises(BcdError, match=r"^1 of 8 images have no group"):
        reference.freeze(asked(tmp_path / "l.csv"))


def test_copies_count_once_and_have_one_class_and_group(
    asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "in" / "Benign" / "p0-0.png"
    copy = first.with_name("p9-copy.png")
    copy.write_bytes(first.read_bytes())
    assert len(read_set(reference.freeze(asked())).images) == N
    assert "1 of 9 images are copies of others" in "".join(capsys.readouterr())
    with pytest.raises(BcdError, match=r"the same image .* with the groups 'p0' and 'p9'"):
        reference.freeze(asked(folder="b", data={"group_pattern": r"(p\d)-"}))
    copy.rename(tmp_path / "in" / "Pro-B" / copy.name)
    with pytest.raises(BcdError, match=r"the same image .* with the classes 'Benign' and 'Pro-B'"):
        reference.freeze(asked(folder="b"))


def test_copies_of_a_file_of_several_pictures_are_left_out(
    asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each file is the group of its pictures, which nobody gave."""
    frames = np.stack([np.full((32, 32, 3), value, np.uint8) for value in (90, 200)])
    data = make_dicom(frames).data
    for name in ("p1.dcm", "copy.dcm"):
        (tmp_path / "in" / "Benign" / name).write_bytes(data)
    assert len(read_set(reference.freeze(asked())).images) == N + len(frames)
    assert "2 of 12 images are copies of others" in "".join(capsys.readouterr())


def test_a_frozen_set_is_not_replaced(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    set_ = reference.freeze(asked())
    before = set_.read_bytes()
    assert f"its sha256: {json.loads(before)['sha256']}" in "".join(capsys.readouterr())
    with pytest.raises(BcdError, match="is a frozen set, which stays as it is"):
        reference.freeze(asked())
    assert set_.read_bytes() == before


def test_pictures_of_one_file_need_no_group_but_a_pattern_must_find_one(tmp_path: Path) -> None:
    """Their file is their group; a pattern that finds none would make each file a patient."""
    (tmp_path / "p1.dcm").touch()
    entries = [Entry(tmp_path / name, "Benign") for name in ("p1.dcm#1", "p1.dcm#2", "p2.png")]
    check_groups(entries, tmp_path, None)
    check_groups(entries, tmp_path, r"(p\d)\.[a-z]+$")
    with pytest.raises(ConfigError, match="matches none of 3 paths"):
        check_groups(entries, tmp_path, "#")
    with pytest.raises(BcdError, match=r"^1 of 3 images have no group"):
        check_groups(entries, tmp_path, "p1")
