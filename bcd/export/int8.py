"""Quantizes an exported network to int8 and fits its decision policy again.

The layers of the network and of the out-of-distribution descriptor are quantized. Resizing,
normalization, their first layers, the head and the policy compute as in float32. Temperature and
thresholds are fitted to the quantized network's answers for val, of which it has seen no image: so
the guarantees are those of the file that is written, and the images to calibrate on are from train.
The detector is fitted to the quantized descriptors of train and val, as in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bcd.config.decision import DecisionConfig
from bcd.config.export import ExportConfig
from bcd.data.reading import fit
from bcd.errors import BcdError
from bcd.evaluation.answers import Answers, check_finite
from bcd.evaluation.bootstrap import fill_group_names
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.ood import thinned
from bcd.evaluation.policy_fitting import fit_policy
from bcd.evaluation.thresholds import Scope
from bcd.export.build import Exported, build, onnx_answer, reference_answers
from bcd.export.detection import (
    Flagged,
    check_detection,
    count_flagged,
    refit_detector,
    show_flagged,
)
from bcd.export.float16 import store_float16
from bcd.export.measure import Measured, check_loss, measure, show_measured, tell_fitted
from bcd.export.metadata import describe
from bcd.export.module import ExportModule
from bcd.export.onnx_file import (
    DESCRIPTORS,
    LOGITS,
    remove_outputs,
    set_metadata,
    set_policy,
    to_onnx,
)
from bcd.export.parity import Answer, parity_images
from bcd.export.policy import thresholds
from bcd.export.run_images import RunImages
from bcd.features.quantize import first_layers, quantize_onnx
from bcd.inference.checkpoint import Card
from bcd.inference.self_test import FLOAT16_TOLERANCE
from bcd.models.network import SmearNetwork

_LEAST = 8  # images to calibrate on

_EXACT = ("/policy", "/head")  # parts of the graph that stay exact
_DESCRIPTOR = "/descriptor"


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

    These are the parts around the network, and the first layers of network and descriptor. What
    normalizes the pixels would be slow if the graph were rearranged for integers.
    """
    around = {node.name for node in graph.node if node.name.startswith(_EXACT)}
    described = {node.name for node in graph.node if node.name.startswith(_DESCRIPTOR)}
    rest = {node.name for node in graph.node} - described
    return around | first_layers(graph, around | described) | first_layers(graph, rest)


def build_int8(network: SmearNetwork, card: Card, cfg: ExportConfig) -> Exported:
    """Exports a network in int8, and prints what that changes on val and test.

    Args:
        network: In eval mode.
        card: Of its checkpoint.
        cfg: Checked configuration.

    Raises:
        BcdError: The network or the run's images cannot be used, the accuracy on val falls by more
            than `max_loss`, or fewer changed images are out of distribution.
    """
    images = RunImages(cfg, card)
    train, val = (images.indices(name, all_of=True) for name in ("train", "val"))
    exact = build(network, card, "onnx")
    before = DecisionPolicy.from_plain(card.policy)
    module = ExportModule(network, before, card.input_views, card.mask_scale_bar, "onnx")
    model, used = quantized(module, images, train, cfg.calibration_images)
    policy = refit(card, before, *_answers(model, images, thinned(train), val))
    module.defaults = thresholds(policy, 1)
    set_policy(model, policy, module.defaults)
    remove_outputs(model)
    answer = onnx_answer(model.SerializeToString())
    _check_resizing(answer, max(card.sides), exact.in_graph)
    pair = [exact.answer, answer]
    parts = {"val": val, "test": images.indices("test")}
    found = {name: measure(pair, images, i, before) for name, i in parts.items() if i}
    flagged = {} if policy.subspace is None else count_flagged(pair, images, val)
    facts = _facts(used, before, policy, found, flagged)
    fitted = replace(card, policy=policy.to_plain())
    tested = reference_answers(card, answer, "int8")
    set_metadata(model, describe(fitted, module, "int8", facts, tested))
    show_measured(found, images.catalog.classes, "int8")
    tell_fitted(before, policy)
    if flagged:
        show_flagged(flagged)
    check_loss(found["val"], cfg)
    check_detection(flagged)
    data: bytes = model.SerializeToString()
    return replace(exact, data=data, answer=answer, thresholds=module.defaults)


def _answers(
    model: Any, images: RunImages, train: Sequence[int], val: Sequence[int]
) -> tuple[Answers, Answers, list[str], list[str]]:
    """The outputs of a quantized model for train and val, and the groups of these images."""
    answer = onnx_answer(model.SerializeToString(), (LOGITS, DESCRIPTORS))
    indices = [*train, *val]
    rows = [answer(image) for image in images.read(indices)]
    logits, descriptors = (np.concatenate([r[n] for r in rows]) for n in (LOGITS, DESCRIPTORS))
    found = Answers(logits, descriptors, images.labels(indices))
    check_finite(found, [images.catalog.images[i].path for i in indices])
    n = len(train)
    return found[:n], found[n:], images.groups(train), images.groups(val)


def refit(
    card: Card,
    policy: DecisionPolicy,
    train: Answers,
    val: Answers,
    train_groups: list[str],
    val_groups: list[str],
) -> DecisionPolicy:
    """Fits a policy as the training run did, to other answers.

    Args:
        card: Of the checkpoint.
        policy: That of the run.
        train: The answers for train; only the out-of-distribution detector is fitted to them.
        val: The answers for val.
        train_groups: Recorded group of each image of train; empty if there is none.
        val_groups: The same of val.

    Raises:
        BcdError: The detector cannot be fitted to these images.
    """
    config = DecisionConfig(**card.config["decision"])
    named = fill_group_names(val_groups) if policy.by_groups else None
    detector = policy.subspace
    if detector is not None:
        own = np.concatenate([train.descriptors, val.descriptors])
        owners = fill_group_names([*train_groups, *val_groups]) if policy.by_groups else None
        detector = refit_detector(detector, own, config.ood, owners)
    scope = Scope(named, policy.population, policy.by_overlaps)
    return fit_policy(config, val, detector, policy.benign, scope, policy.priors or ())


def _check_resizing(answer: Answer, side: int, in_graph: bool) -> None:
    """Checks that the graph still resizes as the predictor does."""
    if not in_graph:
        return
    for image in parity_images(side):
        resized = fit(image, side)
        own, given = (float(answer(i[None])["ood_score"][0]) for i in (image, resized))
        if not abs(own - given) <= FLOAT16_TOLERANCE * max(given, 1.0):
            raise BcdError(
                f"precision=int8: the out-of-distribution score is {own:.4f} where the file "
                f"resizes an image itself, {given:.4f} otherwise: nothing was written"
            )


def _facts(
    used: Sequence[int],
    before: DecisionPolicy,
    after: DecisionPolicy,
    found: Mapping[str, Sequence[Measured]],
    flagged: Flagged,
) -> dict[str, Any]:
    """What the file says of how it was quantized."""
    limits = [None if p.subspace is None else p.subspace.limit for p in (before, after)]
    changed = {name: {"n": n, "flagged": pair} for name, (pair, n) in flagged.items()}
    return {
        "calibration_images": len(used),
        "temperature": [before.temperature, after.temperature],
        "malignant_threshold": [before.malignant_threshold, after.malignant_threshold],
        "ood_limit": limits,
        "changed": changed,
        "measured": {name: [one.to_plain() for one in pair] for name, pair in found.items()},
    }


def quantized(
    module: ExportModule, images: RunImages, train: Sequence[int], count: int
) -> tuple[Any, list[int]]:
    """A module as an ONNX model whose layers are quantized.

    `logits` and `descriptors` are its last outputs.

    Args:
        module: What is exported.
        images: Of the run.
        train: Its training images.
        count: Number of them to calibrate on.

    Returns:
        The model, and the indices of these images.

    Raises:
        BcdError: The network has no layer to quantize, or there are too few images.
    """
    import onnx

    if len(train) < _LEAST:
        raise BcdError(
            f"precision=int8: the run has only {len(train)} training images, fewer than {_LEAST}: "
            "use precision=float16"
        )
    places = np.unique(np.linspace(0, len(train) - 1, min(count, len(train))).round().astype(int))
    chosen = [train[place] for place in places]
    module.tells_outputs = True
    data: bytes = to_onnx(module).SerializeToString()
    found = quantize_onnx(data, ({module.names[0]: i} for i in images.read(chosen)), exact_nodes)
    model = onnx.load_from_string(found)
    store_float16(model)  # what is not quantized
    return model, chosen
