"""Networks with a card and a decision policy, without training."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import onnx
import torch

from bcd.config.compose import with_defaults
from bcd.config.head import HeadConfig
from bcd.config.schema import ModelConfig
from bcd.data.input_views import definition
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.ood import fit_detector
from bcd.export.parity import Pixels, Reference
from bcd.inference.checkpoint import Card
from bcd.inference.checkpoint_model import network_inputs
from bcd.models.heads.averaged import AveragedHeads
from bcd.models.heads.base import FittedHead
from bcd.models.network import SmearNetwork


def smears(side: int, count: int = 24) -> list[Pixels]:
    """Drawn smears of all classes in turn."""
    return [
        draw_smear(CLASS_NAMES[number % 4], slide=number % 6, index=number, size=side)
        for number in range(count)
    ]


def tensors(data: bytes) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in onnx.load_from_string(data).graph.initializer}


def with_card(
    network: SmearNetwork, cfg: ModelConfig, head: str = "linear", **settings: Any
) -> tuple[SmearNetwork, Card]:
    """A network in eval mode and its card, with a policy whose limits divide drawn smears.

    Args:
        network: Its head is fitted to drawn smears if scikit-learn fits it.
        cfg: The `model` group that it was made from.
        head: Kind of its head.
        settings: Fields of the card and of the policy that differ.
    """
    views = [definition(view) for view in cfg.input_views()]
    config = {"model": asdict(cfg), "head": asdict(with_defaults(HeadConfig, kind=head))}
    card = Card(
        classes=list(CLASS_NAMES), benign=0, input_size=cfg.input_size, views=views, data_root="",
        split={}, fingerprint="", config=config,
        mean=network.prefix.get_buffer("mean").flatten().tolist(),
        std=network.prefix.get_buffer("std").flatten().tolist(),
        policy=DecisionPolicy().to_plain(), test_time=network.test_time,
        mask_scale_bar=settings.pop("mask_scale_bar", False),
    )  # fmt: skip
    _fit(network.eval(), card, settings)
    return network, card


def _fit(network: SmearNetwork, card: Card, settings: dict[str, Any]) -> None:
    """Fits the head, if it is to be fitted, and the policy."""
    reference = Reference(network, card)
    images = smears(card.input_size)
    labels = np.arange(len(images)) % len(card.classes)
    packed = np.stack([reference.pack(image) for image in images])
    heads = network.head.heads if isinstance(network.head, AveragedHeads) else [network.head]
    for number, head in enumerate(heads):
        if isinstance(head, FittedHead):
            with torch.inference_mode():
                features = network.embed(network_inputs(list(packed))).numpy()
            head.fit(features, labels, False, number)
    logits, descriptors, spread = reference.model.outputs(packed)
    tame = {"temperature": float(logits.std())} | settings  # no probability near 0 or 1
    policy = DecisionPolicy(benign=0, **tame)
    probabilities = policy.probabilities(logits)
    limits = {
        "confidence_threshold": float(np.quantile(probabilities.max(1), 0.3)) + 1e-4,
        "malignant_threshold": float(np.median(1 - probabilities[:, 0])) + 1e-4,
        "set_threshold": float(np.median(probabilities)),
        "disagreement_limit": float(np.median(spread)) + 1e-6,
        "subspace": fit_detector(descriptors, 0.2),
    }
    fitted = DecisionPolicy(**{**vars(policy), **limits, **tame})
    card.policy = fitted.to_plain()
