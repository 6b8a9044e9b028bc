"""Files that are no export, that are damaged, or that this version or machine cannot use."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
import pytest

import bcd
from bcd.config.input_views import InputView
from bcd.data.input_views import definition
from bcd.errors import BcdError, ConfigError
from bcd.inference import exported
from tests.helpers.exported import MODEL, Change, asked, changed
from tests.helpers.harness import error_lines, predicted, verb

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
    whole = (made / MODEL).read_bytes()
    foreign = onnx.load(str(made / MODEL))
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
    both = {"ckpt": str(made / "run"), "model": str(made / MODEL)}
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


@pytest.mark.parametrize("device", ["mps", "tpu", "cuda"])
def test_other_devices_are_refused(device: str, made: Path) -> None:
    import onnxruntime

    if device == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(BcdError, match=f"device={device}: "):
        bcd.load(made / MODEL, device=device)


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
    with pytest.raises(BcdError, match="damaged"):
        check(several, "graph")


def test_a_signature_is_checked_before_the_file_is_used(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"verify=key\.pem: needs"):
        bcd.load(made / "run", verify="key.pem")
    with pytest.raises(ConfigError, match=r"verify=key\.pem: needs"):
        asked(made, tmp_path, ckpt=str(made / "run"), verify="key.pem")
    checked: list[tuple[Path, Path]] = []

    def checking(file: Path, key: Path) -> bytes:
        checked.append((file, key))
        return file.read_bytes()

    monkeypatch.setattr(exported, "read_verified", checking)
    assert predicted(asked(made, tmp_path, model=str(made / MODEL), verify="key.pem"))
    assert checked == [(made / MODEL, Path("key.pem"))]
    monkeypatch.undo()
    monkeypatch.setattr(exported, "_start", lambda *_: pytest.fail("was used"))
    with pytest.raises(BcdError, match=r"verify=key\.pem: .*model\.onnx"):  # it has no signature
        bcd.load(made / MODEL, verify="key.pem")


def test_a_checkpoint_without_torch_names_what_is_missing(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "bcd.inference.checkpoint_model", raising=False)
    with pytest.raises(BcdError, match=r"needs the package torch: .*or give model="):
        bcd.load(made / "run")
