"""The checkpoint of a release: the members' heads and trained blocks over one frozen prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from bcd.data.quality.appearance import measure_appearance
from bcd.data.splits.split import Split
from bcd.evaluation.decision import DecisionPolicy
from bcd.inference.checkpoint import Card, restore_network
from bcd.models.network import SmearNetwork
from bcd.release.answers import Images
from bcd.release.members import Member

# What `SmearClassifier.load_from_checkpoint` and that of the data module need beside the weights.
_KEPT = (
    "pytorch-lightning_version", "hparams_name", "hyper_parameters", "datamodule_hparams_name",
    "datamodule_hyper_parameters",
)  # fmt: skip


def assembled_state(members: Sequence[Member]) -> dict[str, Any]:
    """The state dict of the ensemble's network, but for the temperature."""
    first = members[0].state
    state = {n: v for n, v in first.items() if not n.startswith(("trunk.", "head."))}
    for number, member in enumerate(members):
        for name, value in member.state.items():
            part, _, rest = name.partition(".")
            if part == "trunk":
                state[f"trunk.0.members.{number}.{rest}"] = value
            elif part == "head":
                state[f"head.heads.{number}.{rest}"] = value
    return state | {"head.temperature": torch.ones(())}


def assemble_network(members: Sequence[Member]) -> SmearNetwork:
    """The ensemble of the members, in eval mode, with the temperature 1."""
    card = replace(members[0].card, members=len(members))
    return restore_network(card, assembled_state(members))


def release_content(
    images: Images,
    member: Member,
    network: SmearNetwork,
    count: int,
    policy: DecisionPolicy,
    record: dict[str, Any],
    run_dir: str,
) -> dict[str, Any]:
    """The content of the checkpoint.

    Args:
        images: All images.
        member: Gives the card's facts about configuration and weights.
        network: To be stored.
        count: Number of members in it.
        policy: Fitted to the out-of-fold answers, for the outputs of `network`.
        record: What the card says of the release.
        run_dir: Folder of the release.
    """
    cfg, catalog = images.cfg, images.catalog
    inside, total = set(images.indices), len(catalog.images)
    everything = Split(tuple("train" if i in inside else "excluded" for i in range(total)))
    appearance = measure_appearance(catalog, images.indices, cfg.data.mask_scale_bar)
    named = zip(images.indices, images.clusters, strict=True)
    card: Card = replace(
        member.card,
        split=everything.hashes(catalog),
        fingerprint=catalog.fingerprint(images.indices),
        config={**asdict(cfg), "run_dir": run_dir},
        groups={catalog.images[i].sha256: cluster for i, cluster in named if cluster},
        val_metrics={},
        policy=policy.to_plain(),
        appearance=None if appearance is None else appearance.to_plain(),
        members=count,
        test_time=network.test_time,
        release=record,
    )
    content = {name: member.content[name] for name in _KEPT if name in member.content}
    hyper = {"members": count, "test_time": network.test_time}
    content["hyper_parameters"] = {**content["hyper_parameters"], **hyper}
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    kept = {n: v for n, v in member.content["state_dict"].items() if not n.startswith("network.")}
    return {**content, "state_dict": {**kept, **state}, "card": card.to_dict()}
