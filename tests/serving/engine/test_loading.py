"""Loading the server's model: what is served, and what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from bcd.config.compose import with_defaults
from bcd.config.input_views import CELLS, WHOLE
from bcd.config.schema import ModelConfig
from bcd.data.items import Item
from bcd.errors import BcdError, ConfigError
from bcd.export.build import build
from bcd.inference.checkpoint import Card
from bcd.inference.predictor import Predictor, load_any
from bcd.models.backbones.build import build_backbone
from bcd.models.network import SmearNetwork
from bcd.serving.engine import demo
from bcd.serving.engine.loading import load_engine, load_model
from bcd.storage import digest
from tests.export.making import with_card
from tests.helpers.harness import ROOT
from tests.serving.making import no_smear, serve_config, smear

SIDE = 64


@dataclass
class Made:
    """A checkpoint and its exported file."""

    folder: Path
    card: Card

    @property
    def checkpoint(self) -> Path:
        return self.folder / "best.ckpt"

    @property
    def exported(self) -> Path:
        return self.folder / "small.onnx"


def make(folder: Path, roi: str = WHOLE) -> Made:
    cfg = with_defaults(ModelConfig, backbone="cnn", weights=None, input_size=SIDE, roi=roi)
    torch.manual_seed(0)
    network, card = with_card(SmearNetwork(build_backbone(cfg), 4, cfg), cfg)
    made = Made(folder, card)
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"card": card.to_dict(), "state_dict": state}, made.checkpoint)
    made.exported.write_bytes(build(network, card, "onnx").data)
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made"))


def changed(
    made: Made, folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]
) -> Path:
    """A copy of the exported file with other metadata."""
    model = onnx.load(str(made.exported))
    entries = {entry.key: entry for entry in model.metadata_props}
    content, card = (json.loads(entries[name].value) for name in ("bcd", "card"))
    change(content, card)
    entries["card"].value = json.dumps(card)
    content["card_sha256"] = digest(entries["card"].value)
    entries["bcd"].value = json.dumps(content)
    onnx.save(model, str(folder / "changed.onnx"))
    return folder / "changed.onnx"


@pytest.mark.parametrize("kind", ["export", "checkpoint"])
def test_answers_are_those_of_predict(kind: str, made: Made, tmp_path: Path) -> None:
    file = made.exported if kind == "export" else made.checkpoint
    engine = load_engine(serve_config(tmp_path, f"model={file}", "device=cpu"))
    images = [*(smear(n, size=50 + 13 * n) for n in range(5)), no_smear(), b"no image"]

    async def ask() -> Any:
        found = await engine.answer(images), await engine.explain(images[1])
        await engine.close()
        return found

    answers, explanation = asyncio.run(ask())
    predictor = Predictor(load_any(file, False, "cpu", None))
    items = [Item(str(number), data=data) for number, data in enumerate(images)]
    (expected,) = predictor.batches(items, len(items), 0)
    for answer, own in zip(answers, expected, strict=True):
        assert answer.probabilities == pytest.approx(own.probabilities, abs=1e-6)
        assert answer.predicted == (None if own.best is None else made.card.classes[own.best])
        assert (answer.malignant, answer.reasons) == (own.malignant, own.refer)
        assert (answer.error, answer.refer) == (own.error, bool(own.refer))
    assert len({answer.predicted for answer in answers}) > 1
    assert explanation.target == answers[1].predicted
    assert explanation.method == ("occlusion" if kind == "export" else "gradcam")
    identity = engine.identity
    assert (identity.kind, identity.name) == (kind, file.name)
    assert identity.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert {answer.model_sha256 for answer in answers} == {identity.sha256}
    assert identity.card_sha256 == digest(made.card.text())


def test_a_model_of_single_white_cells_is_served_and_explained(tmp_path: Path) -> None:
    own = make(tmp_path, CELLS)
    engine = load_engine(serve_config(tmp_path, f"model={own.exported}", "device=cpu"))
    data = smear(3, size=160)

    async def ask() -> Any:
        found = await engine.answer([data]), await engine.explain(data)
        await engine.close()
        return found

    (answer,), explanation = asyncio.run(ask())
    predictor = Predictor(load_any(own.exported, False, "cpu", None))
    ((expected,),) = predictor.batches([Item("", data=data)], 1, 0)
    assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
    assert answer.reasons == expected.refer
    assert (explanation.method, explanation.target) == ("occlusion", answer.predicted)


def test_the_expected_sha256_is_that_of_the_file(made: Made, tmp_path: Path) -> None:
    for file in (made.exported, made.checkpoint):
        right = hashlib.sha256(file.read_bytes()).hexdigest()
        model, identity = load_model(serve_config(tmp_path, f"model={file}", f"sha256={right}"))
        assert identity.sha256 == right and not model.facts.released
        wrong = right[:-1] + ("0" if right[-1] != "0" else "1")
        with pytest.raises(BcdError, match=f"its sha256 is {right}, not the one"):
            load_model(serve_config(tmp_path, f"model={file}", f"sha256={wrong}"))


def test_what_cannot_be_vouched_for_is_not_served(made: Made, tmp_path: Path) -> None:
    def uncalibrate(content: dict[str, Any], card: dict[str, Any]) -> None:
        content["calibrated"], card["policy"] = False, None

    def differ(content: dict[str, Any], _: dict[str, Any]) -> None:
        tested = content["self_test"]
        tested["images"][2]["probabilities"][0] += 2 * tested["tolerance"]

    def forget(content: dict[str, Any], _: dict[str, Any]) -> None:
        del content["self_test"]

    def damage(content: dict[str, Any], _: dict[str, Any]) -> None:
        content["self_test"]["images"] = []

    def allow_all(content: dict[str, Any], _: dict[str, Any]) -> None:
        content["self_test"]["tolerance"] = 0.99

    def draw(content: dict[str, Any], key: str, value: object) -> None:
        content["self_test"]["images"][1]["drawn"][key] = value

    def no_numbers(content: dict[str, Any], _: dict[str, Any]) -> None:
        content["self_test"]["images"][0]["probabilities"] = ["a", "b", "c", "d"]

    for change, why in (
        (allow_all, "model=.*: its self-test is damaged"),
        (lambda content, _: draw(content, "size", 10**6), "model=.*: its self-test is damaged"),
        (lambda content, _: draw(content, "class_name", "?"), "model=.*: its self-test is damaged"),
        (no_numbers, "model=.*: its self-test is damaged"),
        (uncalibrate, "uncalibrated: it has no decision policy"),
        (differ, r"failed parity: on this machine an answer differs by 0\.002"),
        (forget, "export it again"),
        (damage, "its self-test is damaged"),
    ):
        file = changed(made, tmp_path, change)
        with pytest.raises(BcdError, match=why):
            load_model(serve_config(tmp_path, f"model={file}"))
    for text, why in (
        (tmp_path / "none.onnx", "cannot be read"),
        (tmp_path / "none.ckpt", "model=.*none.ckpt: cannot be read"),
        (made.folder, "not the folder of one run"),
        (ROOT / "README.md", "model=.*not a checkpoint that train.py wrote"),
    ):
        with pytest.raises(BcdError, match=why):
            load_model(serve_config(tmp_path, f"model={text}"))
    with pytest.raises(BcdError, match="cannot be read"):
        load_model(serve_config(tmp_path, f"model={made.exported}", "verify=key.pem"))
    with pytest.raises(ConfigError, match="needs an exported model"):
        load_model(serve_config(tmp_path, f"model={made.checkpoint}", "verify=key.pem"))


def test_a_model_knows_that_it_is_a_release(made: Made, tmp_path: Path) -> None:
    record: dict[str, dict[str, str]] = {"recipe": {}}
    content = torch.load(made.checkpoint, weights_only=True)
    torch.save(content | {"card": content["card"] | {"release": record}}, tmp_path / "one.ckpt")
    exported = changed(made, tmp_path, lambda _, card: card.update(release=record))
    for file in (tmp_path / "one.ckpt", exported):
        model, _ = load_model(serve_config(tmp_path, f"model={file}", "device=cpu"))
        assert model.facts.released


def test_a_folder_is_that_of_one_run(made: Made, tmp_path: Path) -> None:
    file = tmp_path / "tried" / "checkpoints" / "best.ckpt"
    file.parent.mkdir(parents=True)
    file.write_bytes(made.checkpoint.read_bytes())
    _, identity = load_model(serve_config(tmp_path, f"model={tmp_path / 'tried'}", "device=cpu"))
    assert identity.name == "tried"
    for folder in (tmp_path, file.parent):
        with pytest.raises(BcdError, match="not the folder of one run") as failure:
            load_model(serve_config(tmp_path, f"model={folder}"))
        assert "\n" not in str(failure.value)


def test_a_checkpoint_without_policy_or_with_weights_that_are_no_numbers_is_refused(
    made: Made, tmp_path: Path
) -> None:
    content = torch.load(made.checkpoint, weights_only=True)
    file = tmp_path / "spoilt.ckpt"
    torch.save(content | {"card": content["card"] | {"policy": None}}, file)
    with pytest.raises(BcdError, match="uncalibrated: it has no decision policy"):
        load_model(serve_config(tmp_path, f"model={file}"))
    name = next(n for n in reversed(content["state_dict"]) if n.endswith("weight"))
    content["state_dict"][name] = torch.full_like(content["state_dict"][name], torch.nan)
    torch.save(content, file)
    with pytest.raises(BcdError, match="failed the self-test"):
        load_model(serve_config(tmp_path, f"model={file}", "device=cpu"))


def test_a_graph_that_computes_otherwise_fails_parity(made: Made, tmp_path: Path) -> None:
    model = onnx.load(str(made.exported))
    tensor = next(one for one in model.graph.initializer if "head" in one.name)
    weights = onnx.numpy_helper.to_array(tensor)
    moved = onnx.numpy_helper.from_array(
        (weights * np.float32(1.05)).astype(weights.dtype), tensor.name
    )
    tensor.CopyFrom(moved)
    onnx.save(model, str(tmp_path / "other.onnx"))
    with pytest.raises(BcdError, match="failed parity"):
        load_model(serve_config(tmp_path, f"model={tmp_path / 'other.onnx'}"))


def test_without_a_model_a_demo_is_trained_once(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def run(verb: str, *arguments: str) -> None:
        asked.append(verb)
        if verb == "export":
            (output,) = (one.partition("=")[2] for one in arguments if one.startswith("output="))
            Path(output).parent.mkdir(parents=True)
            Path(output).write_bytes(made.exported.read_bytes())

    monkeypatch.setattr(demo, "_bcd", run)
    for _ in range(2):
        _, identity = load_model(serve_config(tmp_path))
        assert identity.name == demo.DEMO_NAME
        assert "drawn smears" in capsys.readouterr().err
    assert asked == ["train", "export"]
    with pytest.raises(ConfigError, match="the demo model has no expected sha256"):
        load_model(serve_config(tmp_path, f"sha256={identity.sha256}"))


def test_a_demo_that_cannot_be_trained_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_TRAINING", ("no_such_key=1",))
    with pytest.raises(BcdError, match="the demo model cannot be made") as failure:
        load_model(serve_config(tmp_path))
    assert "\n" not in str(failure.value)
