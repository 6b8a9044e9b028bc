"""Lists the networks: python -m bcd.models [name of torchvision ...]."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

import torch
from omegaconf import OmegaConf
from torch import nn

from bcd.cli import CONF
from bcd.config import ModelConfig
from bcd.console import say, show_table
from bcd.errors import BcdError
from bcd.models.backbones import Backbone, empty_backbone, find_backbone

# With the longest name just as wide as a terminal of 80 columns.
HEADER = ("model", "weights", "mult-adds", "pixels", "features", "blocks", "top-1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Shows a table of the networks in conf/model, or of those named; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bcd.models", description="Lists the networks that model= can name."
    )
    parser.add_argument("names", nargs="*", help="networks of torchvision, instead of conf/model")
    names = parser.parse_args(arguments).names
    try:
        configs = {name: _named(name) for name in names} if names else shipped()
        rows = [_row(name, cfg) for name, cfg in configs.items()]
    except BcdError as error:
        say(f"error: {error}")
        return error.status
    title = "Networks without their classifiers; top-1: % of ImageNet right with them"
    show_table(title, HEADER, rows)
    return 0


def shipped() -> dict[str, ModelConfig]:
    """The `model` group that each file of conf/model makes, with random weights."""
    base = OmegaConf.load(CONF / "model" / "mobilenetv2.yaml")
    made = {}
    for file in sorted((CONF / "model").glob("*.yaml")):
        merged = OmegaConf.merge(base, OmegaConf.load(file), {"weights": None})
        values = OmegaConf.to_container(merged)
        assert isinstance(values, dict)
        made[file.stem] = ModelConfig(**{str(k): v for k, v in values.items() if k != "defaults"})
    return made


def count_multiply_adds(backbone: Backbone, size: int) -> int:
    """Multiplications with additions that a picture takes, on the meta device: nothing is computed.

    Args:
        backbone: From `empty_backbone`.
        size: Side of the picture in pixels.
    """
    from torch.utils.flop_counter import FlopCounterMode

    blocks = nn.Sequential(*backbone.blocks).eval()
    with FlopCounterMode(display=False) as counter:
        blocks(torch.empty(1, 3, size, size, device="meta"))
    return int(counter.get_total_flops()) // 2


def _named(name: str) -> ModelConfig:
    """A network of torchvision, for pictures of the size that its weights were tested with."""
    cfg = ModelConfig(name, None)
    known = find_backbone(cfg)
    return cfg if known is None else replace(cfg, input_size=known.side)


def _row(name: str, cfg: ModelConfig) -> list[str]:
    backbone, known = empty_backbone(cfg), find_backbone(cfg)
    parameters = sum(p.numel() for p in backbone.blocks.parameters())
    return [
        name,
        f"{parameters / 1e6:.1f} M",
        f"{count_multiply_adds(backbone, cfg.input_size) / 1e9:.2f} G",
        str(cfg.input_size),
        str(backbone.features),
        str(len(backbone.blocks)),
        "" if known is None else f"{known.top1:.1f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
