"""Exports in int8: what is rounded and fitted again, and when nothing is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from bcd.config.compose import read_defaults
from bcd.config.export import ExportConfig, ExportDataConfig
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.answers import Answers
from bcd.evaluation.bootstrap import fill_group_names
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.ood import fit_detector
from bcd.export import int8
from bcd.export.build import onnx_answer
from bcd.export.detection import CHANGES, refit_detector
from bcd.export.int8 import check_quantizable, refit
from bcd.export.measure import Measured, check_loss
from bcd.export.onnx_file import DESCRIPTORS
from bcd.export.parity import Reference
from bcd.export.policy import OUTPUTS
from bcd.export.run import export
from bcd.export.run_images import RunImages
from bcd.inference.checkpoint import Card, load_checkpoint
from bcd.inference.signature import read_verified, signature_of
from bcd.run_folder import find_checkpoint
from bcd.training.run import train
from tests.export.making import smears, tensors
from tests.helpers.harness import SMALL, train_config
from tests.inference.test_signature import write_pair


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("precision")
    split = ("split.kind=grouped", "split.val=0.4", "data.generate.slides=12")
    train(train_config(folder / "run", *SMALL, *split, f"data.root={folder / 'images'}"))
    return folder / "run"


@pytest.fixture(scope="module")
def written(run: Path) -> Path:
    """The run in int8, whatever that costs in accuracy."""
    return export(configured(run, precision="int8", output=str(run / "int8.onnx"), max_loss=100.0))


def configured(run: Path, **settings: Any) -> ExportConfig:
    given = {**read_defaults("export"), "ckpt": str(run), "data": ExportDataConfig(None, 0)}
    given |= settings
    return ExportConfig(**{field.name: given[field.name] for field in fields(ExportConfig)})


def facts(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metadata `bcd` and `card` of a file."""
    kept = onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map
    return json.loads(kept["bcd"]), json.loads(kept["card"])


def of_run(run: Path) -> tuple[Card, RunImages]:
    card = load_checkpoint(find_checkpoint(str(run)))[1]
    return card, RunImages(configured(run, precision="int8"), card)


def answered(run: Path, subset: str) -> tuple[Answers, list[str]]:
    """Answers of the checkpoint for a subset, and groups of its images."""
    network, card = load_checkpoint(find_checkpoint(str(run)))
    images = RunImages(configured(run, precision="int8"), card)
    indices = images.indices(subset, all_of=True)
    packed = np.concatenate(list(images.read(indices)))
    logits, descriptors, _ = Reference(network, card).model.outputs(packed)
    return Answers(logits, descriptors, images.labels(indices)), images.groups(indices)


def test_the_policy_of_the_run_is_fitted_again_to_its_own_answers(run: Path) -> None:
    card, _ = of_run(run)
    policy = DecisionPolicy.from_plain(card.policy)
    (train, train_groups), (val, val_groups) = (answered(run, name) for name in ("train", "val"))
    assert policy.by_groups
    assert policy.subspace is not None
    again = refit(card, policy, train, val, train_groups, val_groups)
    for name, value in vars(policy).items():
        if name not in ("subspace", "expectation"):
            new = getattr(again, name)
            assert new == (pytest.approx(value, rel=1e-3) if isinstance(value, float) else value)
    assert policy.expectation is not None
    assert again.expectation is not None
    for name, value in policy.expectation.items():
        assert again.expectation[name] == pytest.approx(value, rel=1e-2)
    assert again.subspace is not None
    assert again.subspace.limit == pytest.approx(policy.subspace.limit, rel=1e-3)
    expected, found = (s.distance(val.descriptors) for s in (policy.subspace, again.subspace))
    np.testing.assert_allclose(expected, found, rtol=1e-2)
    alone = refit(card, policy, train, val, [""] * len(train_groups), [""] * len(val_groups))
    assert alone.subspace is not None
    assert alone.subspace.limit != again.subspace.limit  # groups count
    louder = replace(val, logits=val.logits * 100, descriptors=val.descriptors * 2)
    other = refit(
        card,
        policy,
        replace(train, descriptors=train.descriptors * 2),
        louder,
        train_groups,
        val_groups,
    )
    assert other.temperature > 2 * policy.temperature
    assert other.subspace is not None
    assert other.subspace.limit == pytest.approx(2 * policy.subspace.limit, rel=1e-2)
    with pytest.raises(BcdError, match="fitted to other images"):
        refit(card, policy, train[:4], val[:4], train_groups[:4], val_groups[:4])


def test_int8_quantizes_network_and_descriptor(run: Path, written: Path) -> None:
    exact = export(configured(run, output=str(run / "float32.onnx")))
    graph = onnx.load(written).graph
    rounded = {t.name for t in graph.initializer if t.data_type == TensorProto.INT8 and t.dims}
    assert any(name.startswith("network.") for name in rounded)
    assert not [name for name in rounded if "head" in name or "policy" in name]
    quantizers = {n.output[0]: n for n in graph.node if n.op_type == "QuantizeLinear"}
    assert [n for n in quantizers if n.startswith("/descriptor")]
    assert not [n for n in quantizers if n.startswith("/policy")]
    assert [output.name for output in graph.output] == list(OUTPUTS)
    one, other = (onnx_answer(file.read_bytes()) for file in (exact, written))
    for image in [*smears(48, 4), *smears(61, 4)]:
        before, after = one(image[None]), other(image[None])
        assert not np.array_equal(before["probabilities"], after["probabilities"])
        np.testing.assert_allclose(before["probabilities"], after["probabilities"], atol=0.1)
        assert before["ood_score"] != after["ood_score"]
        np.testing.assert_allclose(before["ood_score"], after["ood_score"], rtol=0.1)


def test_int8_says_what_was_fitted_again_and_what_it_costs(run: Path, written: Path) -> None:
    said, card = facts(written)
    images = of_run(run)[1]
    assert said["precision"] == "int8"
    inner = tensors(written.read_bytes())
    for name, value in said["thresholds"].items():
        assert numpy_helper.to_array(inner[name]) == value
    assert said["thresholds"]["malignant_threshold"] == card["policy"]["malignant_threshold"]
    assert numpy_helper.to_array(inner["policy.temperature"]) == card["policy"]["temperature"]
    assert said["int8"]["temperature"][1] == card["policy"]["temperature"]
    answer = onnx_answer(written.read_bytes())
    for subset in ("val", "test"):
        indices = images.indices(subset)
        labels = images.labels(indices)
        given = [answer(image) for image in images.read(indices)]
        right = np.array([one["probabilities"][0].argmax() for one in given]) == labels
        refer = np.array([one["refer"][0] for one in given])
        flagged = np.array([one["ood_score"][0] > 1 for one in given])
        called = np.array([one["malignant"][0] for one in given])
        figures = said["int8"]["measured"][subset][1]
        assert figures["n"] == len(indices)
        assert figures["accuracy"] == right.mean()
        assert figures["referred"] == refer.mean()
        assert figures["out_of_distribution"] == flagged.mean()
        assert figures["n_unsafe"] == ((called != (labels != 0)) & ~refer).sum()


def test_the_detector_of_int8_is_fitted_to_its_own_descriptors(run: Path, written: Path) -> None:
    card, images = of_run(run)
    said, _ = facts(written)
    indices = [i for name in ("train", "val") for i in images.indices(name)]
    model = onnx.load(written)
    model.graph.output.append(onnx.ValueInfoProto(name=DESCRIPTORS))
    answer = onnx_answer(model.SerializeToString(), (DESCRIPTORS, "ood_score"))
    rows = [answer(image) for image in images.read(indices)]
    given, scores = (np.concatenate([row[n] for row in rows]) for n in (DESCRIPTORS, "ood_score"))
    share = card.config["decision"]["ood"]
    fitted = fit_detector(given, share, fill_group_names(images.groups(indices)))
    assert fitted is not None
    assert said["int8"]["ood_limit"][1] == said["thresholds"]["ood_limit"]
    assert fitted.limit == pytest.approx(said["thresholds"]["ood_limit"], rel=1e-6)
    np.testing.assert_allclose(scores, fitted.distance(given) / fitted.limit, rtol=1e-4)


def test_int8_says_how_many_changed_images_it_flags(run: Path, written: Path) -> None:
    _, images = of_run(run)
    val = images.indices("val")
    told = facts(written)[0]["int8"]["changed"]
    assert set(told) == set(CHANGES)
    answer = onnx_answer(written.read_bytes())
    inverted = [answer(255 - image)["ood_score"][0] > 1 for image in images.read(val)]
    assert told["inverted"] == {"n": len(val), "flagged": [len(val), sum(inverted)]}
    assert told[CHANGES[-1]]["n"] > len(val)


def test_int8_writes_nothing_where_the_detector_is_blind(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(*given: Any) -> Any:
        found = refit_detector(*given)
        return replace(found, limit=1e6 * found.limit)

    monkeypatch.setattr(int8, "refit_detector", blind)
    told = refused(
        configured(run, precision="int8", output=str(tmp_path / "x.onnx"), max_loss=100.0)
    )
    assert "0 are out of distribution instead of" in told


def refused(config: ExportConfig) -> str:
    """The line with which an export is refused; nothing is written."""
    assert config.output is not None
    with pytest.raises(BcdError) as caught:
        export(config)
    assert not Path(config.output).exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def moved(run: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """One image of the requested subset, which is away."""
    _, images = of_run(run)
    file = images.catalog.root / images.catalog.images[images.indices(request.param)[0]].path
    file.rename(run / "away.png")
    yield request.param
    (run / "away.png").rename(file)


@pytest.mark.parametrize("moved", ["train", "val"], indirect=True)
def test_int8_needs_every_image_of_train_and_val(run: Path, moved: str, tmp_path: Path) -> None:
    config = configured(run, precision="int8", output=str(tmp_path / "x.onnx"))
    told = refused(config)
    n = len(of_run(run)[0].split[moved])
    assert f"only {n - 1} of the run's {n} {moved} images" in told
    assert "data.root=" in told
    config.data.root = str(tmp_path / "nowhere")
    assert "not at" in refused(config)


def test_an_export_is_refused_where_val_falls(run: Path, tmp_path: Path) -> None:
    def measured(*correct: bool) -> Measured:
        n = len(correct)
        none = np.zeros(n, bool)
        return Measured(np.zeros(n, np.int64), np.array(correct), none, none, None)

    def at_most(loss: float) -> ExportConfig:
        return configured(run, precision="float16", max_loss=loss, output=str(tmp_path / "x.onnx"))

    falling = [measured(True, True, True, False), measured(True, True, False, False)]
    check_loss(falling, at_most(25))
    check_loss([measured(True, False), measured(True, True)], at_most(0))
    with pytest.raises(BcdError, match=r"falls by 25\.00 points, more than max_loss=24"):
        check_loss(falling, at_most(24))


def test_float16_is_compared_on_the_runs_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(run, precision="float16", output=str(tmp_path / "x.onnx"))
    export(config)
    told = capsys.readouterr().err
    assert "float32 -> float16 on val" in told
    assert "float32 -> float16 on test" in told
    (tmp_path / "x.onnx").unlink()
    config.data.root = str(tmp_path / "nowhere")
    assert "not at" in refused(config)


def test_int8_is_refused_without_a_val_set_of_the_model(run: Path) -> None:
    _, card = load_checkpoint(find_checkpoint(str(run)))
    check_quantizable(card)
    with pytest.raises(BcdError, match="a release has no val set"):
        check_quantizable(replace(card, release={"recipe": "x"}))
    with pytest.raises(BcdError, match="fitted to images of north, not to val"):
        check_quantizable(replace(card, recalibration={"site": "north"}))


def test_a_signed_export_can_be_verified_and_a_wrong_key_writes_nothing(
    run: Path, tmp_path: Path
) -> None:
    private, public = write_pair(tmp_path / "keys")
    file = tmp_path / "model.onnx"
    told = refused(configured(run, sign=str(public), output=str(file)))
    assert told.startswith(f"sign={public}: not a private key")
    assert export(configured(run, sign=str(private), output=str(file))) == file
    read_verified(file, public)
    model = onnx.load(file)
    model.metadata_props[0].value += " "
    onnx.save(model, file)
    with pytest.raises(BcdError, match="the file was changed"):
        read_verified(file, public)
    assert signature_of(file).is_file()


def test_a_program_is_float32() -> None:
    with pytest.raises(ConfigError, match="needs format=onnx"):
        configured(Path("run"), precision="int8", format="program")
