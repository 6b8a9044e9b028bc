"""Exported files answer as the network does, whatever its head, region, views and members."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from bcd.config.compose import with_defaults
from bcd.config.schema import ModelConfig
from bcd.data.reading import fit
from bcd.data.synthetic.smears import CLASS_NAMES
from bcd.errors import BcdError
from bcd.evaluation.decision import LOW_CONFIDENCE, UNDECIDED, DecisionPolicy
from bcd.export.build import Exported, build
from bcd.export.parity import Reference, compare
from bcd.export.policy import OUTPUTS, REASONS
from bcd.export.resize import resize
from bcd.inference.checkpoint import Card
from bcd.inference.self_test import TOLERANCE
from bcd.models.backbones.build import BACKBONES, build_backbone
from bcd.models.network import SmearNetwork
from tests.export.making import smears, with_card
from tests.helpers.choosing import LARGE, exhaustive_if
from tests.helpers.explaining import ensembles, lively, made, small

HEADS = ("linear", "mlp", "svm", "logreg", "knn", "forest")
ROIS = {
    "mask": small(roi="mask"),
    "background": small(roi="background"),
    **{pooling: small(roi="cells", cell_pooling=pooling, input_size=128)
       for pooling in ("mean", "noisy_or", "attention")},
}  # fmt: skip


def checked(network: SmearNetwork, card: Card, form: str = "onnx") -> Exported:
    """The exported file, after comparing it on other images than those that it was checked on."""
    exported = build(network, card, form)
    images = smears(card.input_size, 8) + smears(card.input_size + 31, 4)
    found = compare(exported.answer, Reference(network, card), images, not exported.in_graph)
    found.check()
    assert found.decided >= len(images) / 2
    return exported


@pytest.mark.parametrize("head", HEADS)
def test_every_head_answers_the_same(head: str) -> None:
    checked(*with_card(made(small(), head), small(), head))


@pytest.mark.parametrize("name", list(ensembles()))
def test_views_members_and_test_time_answer_the_same(name: str) -> None:
    cfg, more = ensembles()[name]
    exported = checked(*with_card(made(cfg, **more), cfg))
    assert exported.in_graph == (len(cfg.input_views()) == 1)


@pytest.fixture(scope="module")
def program() -> Exported:
    cfg = small()
    return checked(*with_card(made(cfg, "forest", members=2), cfg, "forest"), "program")


def test_a_program_answers_the_same(program: Exported) -> None:
    assert "disagreement_limit" in program.thresholds
    assert program.in_graph


def of_region(cfg: ModelConfig) -> tuple[SmearNetwork, Card]:
    torch.manual_seed(0)
    return with_card(SmearNetwork(build_backbone(cfg), 4, cfg), cfg)


@pytest.mark.parametrize("name", list(ROIS))
def test_regions_are_cut_before_the_graph_and_answer_the_same(name: str) -> None:
    exported = checked(*of_region(ROIS[name]))
    assert not exported.in_graph


def test_an_image_without_cells_is_referred() -> None:
    network, card = of_region(ROIS["mean"])
    exported = build(network, card, "onnx")
    empty = np.full((128, 128, 3), 230, np.uint8)
    found = exported.answer(Reference(network, card).pack(empty)[None])
    assert UNDECIDED in [
        name for name, given in zip(REASONS, found["reasons"][0], strict=True) if given
    ]
    np.testing.assert_allclose(found["probabilities"], 1 / len(CLASS_NAMES), atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"priors": (0.1, 0.2, 0.3, 0.4), "temperature": 2.0},
        {"subspace": None},
        {"malignant_threshold": None},
        {"mask_scale_bar": True},
    ],
    ids=lambda given: next(iter(given)),
)
def test_policies_answer_the_same(settings: dict[str, Any]) -> None:
    exported = checked(*with_card(made(small()), small(), **settings))
    assert ("ood_limit" in exported.thresholds) == ("subspace" not in settings)
    assert ("malignant_threshold" in exported.thresholds) == ("malignant_threshold" not in settings)


@pytest.mark.parametrize("backbone", exhaustive_if(LARGE.__contains__, BACKBONES))
def test_every_network_of_the_zoo_answers_the_same(backbone: str) -> None:
    side = 128 if backbone == "inception_v3" else 64
    cfg = with_defaults(ModelConfig, backbone=backbone, weights=None, input_size=side)
    torch.manual_seed(0)
    network = SmearNetwork(build_backbone(cfg), 4, cfg)
    lively(network, cfg)
    exported = build(*with_card(network, cfg), "onnx")  # which compares the answers
    assert exported.parity.decided >= exported.parity.images / 2


def test_a_network_that_onnx_cannot_hold_is_refused_in_one_line() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = torch.linalg.qr(
                x.mean((2, 3), keepdim=True).expand(-1, -1, 4, 4)
            )[1]
            return found

    network, card = with_card(made(small()), small())
    network.prefix.blocks.append(Odd())
    with pytest.raises(BcdError, match=r"^this network cannot be exported to ONNX \([^\n]*qr"):
        build(network, card, "onnx")


@pytest.fixture(scope="module")
def plain() -> tuple[SmearNetwork, Card, Exported]:
    network, card = with_card(made(small()), small())
    return network, card, build(network, card, "onnx")


def test_outputs_that_are_not_finite_are_no_answer() -> None:
    network, card = with_card(made(small()), small())
    exported = build(network, card, "onnx")
    with torch.no_grad():
        network.head.get_parameter("bias")[1] = torch.nan
    broken = build(network, card, "onnx")
    image = smears(64, 1)[0][None]
    assert np.isfinite(exported.answer(image)["probabilities"]).all()
    found = broken.answer(image)
    assert np.isnan(found["probabilities"]).all()
    assert REASONS[int(found["reasons"][0].argmax())] == "not finite"
    assert found["refer"][0]
    assert not found["malignant"][0]
    assert not found["prediction_set"].any()


def test_a_file_that_answers_differently_is_refused(
    plain: tuple[SmearNetwork, Card, Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, given, _ = plain
    card = replace(given)
    policy = DecisionPolicy.from_plain(card.policy)
    card.policy = {**policy.to_plain(), "temperature": policy.temperature * 1.5}
    other = build(network, card, "onnx")
    card.policy = policy.to_plain()
    found = compare(other.answer, Reference(network, card), smears(64, 8), False)
    assert found.largest > TOLERANCE
    with pytest.raises(BcdError, match="does not answer as the checkpoint"):
        found.check()
    monkeypatch.setattr(
        "bcd.export.module._scripted", lambda: lambda x, side: resize(255 - x, side)
    )
    with pytest.raises(BcdError, match="does not answer as the checkpoint"):
        build(network, card, "onnx")


def test_thresholds_can_be_changed_after_export(
    plain: tuple[SmearNetwork, Card, Exported],
) -> None:
    _, _, exported = plain
    session = onnxruntime.InferenceSession(exported.data)
    images = np.stack(smears(64, 8))
    before = exported.answer(images)
    (given,) = session.get_inputs()
    free = {one.name for one in session.get_overridable_initializers()}
    assert free == set(exported.thresholds)
    for threshold, chosen in ((1.1, False), (-0.1, True)):
        changed = {given.name: images, "malignant_threshold": np.float64(threshold)}
        feeds = {name: np.asarray(value) for name, value in changed.items()}
        (malignant,) = session.run(["malignant"], feeds)
        assert (malignant == chosen).all()
    for name in ("confidence_threshold", "malignant_threshold", "ood_limit"):
        feeds = {given.name: images, name: np.asarray(np.nan)}
        (malignant, refer) = session.run(["malignant", "refer"], feeds)
        assert malignant.all() if name == "malignant_threshold" else refer.all()
    feeds = {given.name: images, "confidence_threshold": np.asarray(1.1)}
    reasons, probabilities = session.run(["reasons", "probabilities"], feeds)
    assert reasons[:, REASONS.index(LOW_CONFIDENCE)].all()
    np.testing.assert_array_equal(probabilities, before["probabilities"])
    assert not before["reasons"][:, REASONS.index(LOW_CONFIDENCE)].all()


def test_a_batch_is_answered_as_its_images_are(
    plain: tuple[SmearNetwork, Card, Exported],
) -> None:
    _, _, exported = plain
    images = np.stack(smears(90, 5))
    together = exported.answer(images)
    for number in range(5):
        alone = exported.answer(images[number : number + 1])
        for name in OUTPUTS:
            np.testing.assert_allclose(together[name][number], alone[name][0], atol=1e-5)


def test_the_file_says_what_it_is(
    plain: tuple[SmearNetwork, Card, Exported], program: Exported
) -> None:
    model = onnx.load_from_string(plain[2].data)
    found = {entry.key: entry.value for entry in model.metadata_props}
    facts, own = json.loads(found["bcd"]), json.loads(found["card"])
    assert facts["classes"] == list(CLASS_NAMES) == own["classes"]
    assert facts["thresholds"] == plain[2].thresholds
    assert facts["views"] == [["plain", 64, "image", None]]
    assert facts["card_sha256"] == hashlib.sha256(found["card"].encode()).hexdigest()
    assert "split" not in own
    assert "subspace" not in own["policy"]


def test_a_program_takes_thresholds_in_the_order_of_its_metadata(program: Exported) -> None:
    files: dict[str, Any] = {"bcd": "", "card": ""}
    answer: Any = torch.export.load(io.BytesIO(program.data), extra_files=files).module()
    limits = json.loads(files["bcd"])["thresholds"].values()
    images = np.stack(smears(64, 6))
    found = answer(
        torch.from_numpy(images), *(torch.tensor(x, dtype=torch.float64) for x in limits)
    )
    for name, value in zip(OUTPUTS, found, strict=True):
        np.testing.assert_array_equal(value.numpy(), program.answer(images)[name])


@pytest.mark.parametrize("height", [1, 2, 31, 64, 65, 100, 127, 128, 129, 192, 500])
@pytest.mark.parametrize("width", [1, 63, 64, 128, 333])
def test_resizing_in_a_graph_is_resizing_outside(height: int, width: int) -> None:
    rng = np.random.default_rng(height * width)
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    own = resize(torch.from_numpy(noise)[None], 64)[0].numpy().astype(int)
    gaps = np.abs(own - fit(noise, 64))
    assert gaps.max() <= 1
    assert (gaps > 0).mean() < 0.01
