"""Quantizes an exported network to int8 and fits its decision policy again.

The layers of the network are quantized. Resizing, normalization, the first convolution, the head,
the out-of-distribution descriptor and the policy compute as in float32. Temperature and thresholds
are fitted to the quantized network's answers for val, of which it has seen no image: so the
guarantees are those of the file that is written, and the images to calibrate on are from train.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bcd.config.decision import DecisionConfig
from bcd.config.export import ExportConfig
from bcd.errors import BcdError
from bcd.evaluation.answers import Answers, check_finite
from bcd.evaluation.bootstrap import fill_group_names
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.policy_fitting import fit_policy
from bcd.evaluation.thresholds import Scope
from bcd.export.build import Exported, build, onnx_answer
from bcd.export.float16 import store_float16
from bcd.export.measure import Measured, measure, show_measured
from bcd.export.metadata import describe
from bcd.export.module import ExportModule
from bcd.export.onnx_file import LOGITS, remove_logits, set_metadata, set_policy, to_onnx
from bcd.export.parity import FLOAT16_TOLERANCE, Answer, parity_images
from bcd.export.policy import thresholds
from bcd.export.run_images import RunImages
from bcd.features.quantize import first_layers, quantize_onnx
from bcd.inference.checkpoint import Card
from bcd.models.network import SmearNetwork

_LEAST = 8  # images to calibrate on

_EXACT = ("/descriptor", "/policy", "/head")  # parts of the graph that stay exact


def check_quantizable(card: Card) -> None:
    """Checks that a checkpoint can be quantized, before anything is computed.

    Raises:
        BcdError: It has no val set of its own to fit the policy on.
    """
    instead = "use precision=float16"
    if card.release is not None:
        raise BcdError(
            "precision=int8: a release has no val set, on which the loss is measured and the "
            f"policy fitted: {instead}"
        )
    if card.recalibration is not None:
        raise BcdError(
            f"precision=int8: the policy was fitted to images of {card.recalibration['site']}, not "
            f"to val, and cannot be fitted again: {instead}, or give the run's own checkpoint"
        )


def exact_nodes(graph: Any) -> set[str]:
    """Names of the nodes of an exported graph, an `onnx.GraphProto`, that are not quantized.

    These are the parts around the network and its first layers. What normalizes the pixels would be
    slow if the graph were rearranged for integers.
    """
    around = {node.name for node in graph.node if node.name.startswith(_EXACT)}
    return around | first_layers(graph, around)


def build_int8(network: SmearNetwork, card: Card, cfg: ExportConfig) -> Exported:
    """Exports a network in int8, and prints what that changes on val and test.

    Args:
        network: In eval mode.
        card: Of its checkpoint.
        cfg: Checked configuration.

    Raises:
        BcdError: The network or the run's images cannot be used, or the accuracy on val falls by
            more than `max_loss`.
    """
    exact = build(network, card, "onnx")
    images = RunImages(cfg.data, card)
    val = images.indices("val", all_of=True)
    before = DecisionPolicy.from_plain(card.policy)
    module = ExportModule(network, before, card.input_views, card.mask_scale_bar, "onnx")
    model, used = quantized(module, card, images, cfg.calibration_images)
    policy = refit(card, before, _answers(model, images, val), images.groups(val))
    module.defaults = thresholds(policy, 1)
    set_policy(model, policy.temperature, module.defaults)
    remove_logits(model)
    answer = onnx_answer(model.SerializeToString())
    _check_rest(exact.answer, answer, max(card.sides), exact.in_graph)
    parts = {"val": val, "test": images.indices("test")}
    found = {
        name: measure([exact.answer, answer], images, indices, before)
        for name, indices in parts.items()
        if indices
    }
    facts = _facts(images, used, before, policy, found)
    set_metadata(model, describe(replace(card, policy=policy.to_plain()), module, "int8", facts))
    show_measured(found, images.catalog.classes, before, policy)
    check_loss(found["val"], cfg.max_loss)
    data: bytes = model.SerializeToString()
    return replace(exact, data=data, answer=answer, thresholds=module.defaults)


def _answers(model: Any, images: RunImages, indices: Sequence[int]) -> Answers:
    """The logits of a quantized model for images; it has no use for their descriptors."""
    answer = onnx_answer(model.SerializeToString(), (LOGITS,))
    logits = np.concatenate([answer(image)[LOGITS] for image in images.read(indices)])
    found = Answers(logits, np.empty((len(logits), 0), np.float32), images.labels(indices))
    check_finite(found, [images.catalog.images[i].path for i in indices])
    return found


def refit(card: Card, policy: DecisionPolicy, val: Answers, groups: list[str]) -> DecisionPolicy:
    """Fits a policy as the training run did, to other answers for val.

    Args:
        card: Of the checkpoint.
        policy: That of the run; its out-of-distribution detector is kept.
        val: The answers.
        groups: Recorded group of each image of val; empty if there is none.
    """
    config = DecisionConfig(**card.config["decision"])
    named = fill_group_names(groups) if policy.by_groups else None
    scope = Scope(named, policy.population, policy.by_overlaps)
    return fit_policy(config, val, policy.subspace, policy.benign, scope, policy.priors or ())


def _check_rest(exact: Answer, answer: Answer, side: int, in_graph: bool) -> None:
    """Checks that what is not quantized answers as before: resizing and the descriptor."""
    if not in_graph:
        return
    for image in parity_images(side):
        one, other = (float(a(image[None])["ood_score"][0]) for a in (exact, answer))
        if not abs(one - other) <= FLOAT16_TOLERANCE * max(one, 1.0):
            raise BcdError(
                f"precision=int8: quantizing changed the out-of-distribution score from {one:.4f} "
                f"to {other:.4f}: nothing was written"
            )


def check_loss(val: Sequence[Measured], most: float) -> None:
    """Checks that the accuracy on val does not fall by more than `most` points.

    Raises:
        BcdError: It does.
    """
    loss = 100 * (val[0].accuracy - val[1].accuracy)
    if loss > most:
        raise BcdError(
            f"precision=int8: accuracy on val falls by {loss:.2f} points, more than "
            f"max_loss={most:g}: nothing was written; use precision=float16, or raise "
            "calibration_images or max_loss"
        )


def _facts(
    images: RunImages,
    used: Sequence[int],
    before: DecisionPolicy,
    after: DecisionPolicy,
    found: Mapping[str, Sequence[Measured]],
) -> dict[str, Any]:
    """What the file says of how it was quantized."""
    return {
        "calibration_images": len(used),
        "temperature": [before.temperature, after.temperature],
        "malignant_threshold": [before.malignant_threshold, after.malignant_threshold],
        "measured": {name: [one.to_plain() for one in pair] for name, pair in found.items()},
    }


def quantized(
    module: ExportModule, card: Card, images: RunImages, count: int
) -> tuple[Any, list[int]]:
    """A module as an ONNX model whose layers are quantized; `logits` is a last output.

    Args:
        module: What is exported.
        card: Of the checkpoint.
        images: Of the run.
        count: Training images to calibrate on.

    Returns:
        The model, and the indices of these images.

    Raises:
        BcdError: The network has no layer to quantize, or there are too few images.
    """
    import onnx

    train = images.indices("train")
    if len(train) < _LEAST:
        raise BcdError(
            f"precision=int8: only {len(train)} of the run's training images are in "
            f"{images.catalog.root}: give data.root=<where they are>"
        )
    places = np.unique(np.linspace(0, len(train) - 1, min(count, len(train))).round().astype(int))
    chosen = [train[place] for place in places]
    module.tells_logits = True
    data: bytes = to_onnx(module).SerializeToString()
    found = quantize_onnx(data, ({module.names[0]: i} for i in images.read(chosen)), exact_nodes)
    model = onnx.load_from_string(found)
    store_float16(model)  # what is not quantized
    return model, chosen
