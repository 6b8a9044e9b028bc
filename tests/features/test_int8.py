"""Features in int8: only what is trained on, close to exact, and never another run's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bcd.data.views import PLAIN
from bcd.errors import BcdError
from bcd.features import int8
from bcd.features.bank import all_banks
from bcd.features.engines import export_onnx, without_batchnorm
from bcd.features.extract import Extractor
from bcd.inference.evaluate import evaluate_checkpoint
from bcd.training.run import train
from tests.helpers.banking import SIZE, fill, list_images, make_source, small_network
from tests.helpers.harness import SMALL, eval_config, train_config
from tests.helpers.noise import write_image

KEYS = [(index, view) for index in range(6) for view in range(3)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):  # which differ in colour and texture, as noise alone would not
        pixels = rng.uniform(0, 60, (SIZE, SIZE, 3)) * rng.uniform(0, 1) + rng.uniform(0, 190, 3)
        write_image(tmp_path / "in" / f"{i:03}.png", pixels.astype(np.uint8))
    return tmp_path / "in"


def rows(source: Any, keys: list[tuple[int, int]]) -> torch.Tensor:
    return torch.stack([source[key][0] for key in keys])


@pytest.mark.parametrize("unfreeze", [0, 1])
def test_only_what_is_trained_on_is_approximate(folder: Path, unfreeze: int) -> None:
    network, model = small_network(unfreeze)
    source = make_source(folder, list_images(folder))
    exact = fill(source, network, model, engine="onnxruntime")
    rough = fill(source, network, model, engine="int8", training=True)
    plain = [(index, PLAIN) for index in range(6, 12)]
    assert rows(rough, plain).equal(rows(exact, plain))
    given, wanted = rows(rough, KEYS).flatten(1), rows(exact, KEYS).flatten(1)
    assert not given.equal(wanted)
    spread = (wanted - wanted.mean(0)).square().sum()
    assert (given - wanted).square().sum() < 0.3 * spread
    assert exact.approximation == ""

    found = [f for bank in all_banks() if (f := int8.Agreement.read(bank.folder))]
    (agreement,) = found
    assert (agreement.calibrated, agreement.compared) == (3, 3)
    assert f"{agreement.cosine:.4f}" in rough.approximation
    first = KEYS[0::3]  # all images of train; those that were compared are every other one
    a, b = rows(rough, first[1::2]).flatten(1), rows(exact, first[1::2]).flatten(1)
    cosine = torch.cosine_similarity(a.double(), b.double())
    assert agreement.cosine == pytest.approx(float(cosine.mean()), abs=1e-6)
    assert agreement.lowest == pytest.approx(float(cosine.min()), abs=1e-6)

    evaluated = fill(source, network, model, engine="int8")  # as by bcd eval
    assert rows(evaluated, KEYS).equal(rows(exact, KEYS))
    assert evaluated.approximation == ""


def test_the_same_images_give_the_same_features_and_others_their_own_bank(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, model = small_network()
    source = make_source(folder, list_images(folder))
    first = fill(source, network, model, engine="int8", training=True)
    for bank in all_banks():
        (bank.folder / int8.FILE).unlink(missing_ok=True)
    with monkeypatch.context() as patch:  # what is known of the agreement alone is missing
        patch.setattr(Extractor, "run", lambda *_: pytest.fail("computed again"))
        again = fill(source, network, model, engine="int8", training=True)
    assert again.approximation == first.approximation
    assert rows(again, KEYS).equal(rows(first, KEYS))

    images = list_images(folder)
    turned = make_source(folder, [*images[6:], *images[:6]])  # train and the rest exchanged
    other = fill(turned, network, model, engine="int8", training=True)
    engines = [json.loads((b.folder / "cache_key.json").read_text())["engine"] for b in all_banks()]
    assert sum("int8" in engine for engine in engines) == 2
    assert other.approximation != first.approximation


def test_features_that_differ_too_much_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, model = small_network()
    source = make_source(folder, list_images(folder))
    other, _ = small_network(seed=1)
    wrong = export_onnx(without_batchnorm(other.prefix), SIZE)
    monkeypatch.setattr(int8, "quantize_onnx", lambda *_: wrong)
    with pytest.raises(BcdError, match=r"differ too much.*variance.*features\.engine=auto"):
        fill(source, network, model, engine="int8", training=True)
    monkeypatch.setattr(int8, "quantize_onnx", lambda *_: b"nothing")
    with pytest.raises(BcdError, match=r"cannot be quantized \(.*features\.engine=auto"):
        fill(source, network, model, engine="int8", training=True)
    assert not list(all_banks())


def test_all_figures_of_a_run_are_those_of_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "cache"))
    cfg = train_config(
        tmp_path / "run", *SMALL, "model.unfreeze=0", "features.engine=int8", "augment.views=2",
        "model.views=[plain,grey]",
    )  # fmt: skip
    trained = train(cfg)
    assert trained is not None
    told = json.loads((tmp_path / "run" / "run.json").read_text())["warnings"]
    (line,) = [line for line in told if "int8" in line]
    report = (tmp_path / "run" / "report.html").read_text()
    assert line.split(";")[0] in report
    file = tmp_path / "run" / "checkpoints" / "best.ckpt"
    asked = eval_config(tmp_path / "eval", f"ckpt={file}", "features.bank=false")
    again = evaluate_checkpoint(asked)[
        "test"
    ].metrics  # the network itself, without any cached feature
    for name in ("accuracy", "loss", "referred"):
        assert again[name] == pytest.approx(trained.metrics["test"][name], abs=1e-5)
    assert np.isfinite(again["loss"])
