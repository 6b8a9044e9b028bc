"""Lists the networks: bcd models [name ...]."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from bcd.cli.app import quick_imports
from bcd.config.compose import CONF, read_defaults, with_defaults
from bcd.config.schema import ModelConfig
from bcd.console import say, show_table

if TYPE_CHECKING:
    from bcd.models.backbones.build import Backbone

# With the longest name, the table is exactly 80 columns wide.
HEADER = ("model", "weights", "mult-adds", "pixels", "features", "blocks", "top-1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table of the named networks, by default of conf/model; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="bcd models", description="Lists the networks that model= can name."
    )
    parser.add_argument(
        "names",
        nargs="*",
        help="names in conf/model, torchvision or timm; default: all of conf/model",
    )
    names = parser.parse_args(arguments).names
    with quick_imports():  # not before, as help needs none of it
        import bcd.models.backbones.build  # noqa: F401
    configs = shipped()
    if names:
        configs = {name: configs.get(name) or _named(name) for name in names}
    elif lacking := [name for name, cfg in configs.items() if not _installed(cfg)]:
        say(f"not listed: {', '.join(lacking)} (pip install timm)")
        configs = {name: cfg for name, cfg in configs.items() if name not in lacking}
    rows = [_row(name, cfg) for name, cfg in configs.items()]
    title = "Networks without their classifiers; top-1: ImageNet accuracy in % with them"
    show_table(title, HEADER, rows)
    return 0


def shipped() -> dict[str, ModelConfig]:
    """The configuration of each file in conf/model, with random weights, by its name."""
    names = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))
    return {
        name: with_defaults(ModelConfig, **{**read_defaults(f"model/{name}"), "weights": None})
        for name in names
    }


def count_multiply_adds(backbone: Backbone, size: int) -> int:
    """Counts the multiply-add operations for an image, on the meta device, without computing them.

    Args:
        backbone: From `empty_backbone`.
        size: Side of the image in pixels.
    """
    import torch
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    blocks = nn.Sequential(*backbone.blocks).eval().to("meta")
    with FlopCounterMode(display=False) as counter:
        blocks(torch.empty(1, 3, size, size, device="meta"))
    return int(counter.get_total_flops()) // 2


def _installed(cfg: ModelConfig) -> bool:
    return cfg.library != "timm" or find_spec("timm") is not None


def _named(name: str) -> ModelConfig:
    """A network of torchvision or timm, with the image size that its weights were tested with."""
    from bcd.models.backbones.build import find_backbone
    from bcd.models.backbones.timm import find_timm

    library, _, plain = name.rpartition("/")
    if not library and _only_timm_has(plain):
        library = "timm"
    cfg = with_defaults(ModelConfig, backbone=plain, weights=None)
    cfg = replace(cfg, library=library or cfg.library)
    known = find_timm(plain) if library == "timm" else find_backbone(cfg)
    return cfg if known is None else replace(cfg, input_size=known.side)


def _only_timm_has(name: str) -> bool:
    from torchvision import models

    if name in models.list_models() or find_spec("timm") is None:
        return False
    import timm

    return bool(timm.is_model(name.partition(".")[0]))


def _row(name: str, cfg: ModelConfig) -> list[str]:
    from bcd.models.backbones.build import empty_backbone, find_backbone

    backbone = empty_backbone(cfg)
    known = None if cfg.backbones else find_backbone(cfg)
    top1 = None if known is None else known.top1
    parameters = sum(p.numel() for p in backbone.blocks.parameters())
    return [
        name,
        f"{parameters / 1e6:.1f} M",
        f"{count_multiply_adds(backbone, cfg.input_size) / 1e9:.2f} G",
        str(cfg.input_size),
        str(backbone.features),
        str(len(backbone.blocks)),
        "-" if top1 is None else f"{top1:.1f}",
    ]
