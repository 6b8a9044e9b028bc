"""What an ensemble of frozen members costs beside one of them."""

from __future__ import annotations

import pytest
import torch

from bench.members import make_network, operations, size

MEMBERS = 5


@pytest.mark.parametrize("kind", ["linear", "logreg"])
def test_five_frozen_members_are_hardly_larger_or_slower_than_one(kind: str) -> None:
    one, five = (make_network(count, head=kind) for count in (1, MEMBERS))
    assert isinstance(five.head.heads, torch.nn.ModuleList)
    assert len(five.head.heads) == MEMBERS
    assert 1 < size(five) / size(one) <= 1.2
    assert 1 <= operations(five) / operations(one) <= 1.02


def test_members_with_trained_blocks_share_the_prefix_alone() -> None:
    one, five = (make_network(count, 6) for count in (1, MEMBERS))
    trunk = sum(p.numel() for p in one.trunk.parameters())
    assert trunk > 0
    assert sum(p.numel() for p in five.trunk.parameters()) == MEMBERS * trunk
    prefixes = [sum(p.numel() for p in n.prefix.parameters()) for n in (one, five)]
    assert prefixes[0] == prefixes[1]
