"""What an ensemble of frozen members costs beside one of them."""

from __future__ import annotations

import io

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bcd.config.compose import with_defaults
from bcd.config.head import HeadConfig
from bcd.config.schema import ModelConfig
from bcd.models.backbones.build import build_backbone
from bcd.models.network import SmearNetwork

MEMBERS = 5


def network(kind: str, members: int, **more: object) -> SmearNetwork:
    cfg = with_defaults(ModelConfig, weights=None, **more)
    return SmearNetwork(
        build_backbone(cfg), 4, cfg, with_defaults(HeadConfig, kind=kind), members
    ).eval()


def size(of: SmearNetwork) -> int:
    buffer = io.BytesIO()
    torch.save(of.state_dict(), buffer)
    return buffer.tell()


def operations(of: SmearNetwork) -> int:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        of(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
    return int(counter.get_total_flops())


@pytest.mark.parametrize("kind", ["linear", "logreg"])
def test_five_frozen_members_are_hardly_larger_or_slower_than_one(kind: str) -> None:
    one, five = network(kind, 1), network(kind, MEMBERS)
    assert isinstance(five.head.heads, torch.nn.ModuleList)
    assert len(five.head.heads) == MEMBERS
    assert 1 < size(five) / size(one) <= 1.2
    assert 1 <= operations(five) / operations(one) <= 1.02


def test_members_with_trained_blocks_share_the_prefix_alone() -> None:
    one, five = network("linear", 1, unfreeze=6), network("linear", MEMBERS, unfreeze=6)
    trunk = sum(p.numel() for p in one.trunk.parameters())
    assert trunk > 0
    assert sum(p.numel() for p in five.trunk.parameters()) == MEMBERS * trunk
    prefixes = [sum(p.numel() for p in n.prefix.parameters()) for n in (one, five)]
    assert prefixes[0] == prefixes[1]
