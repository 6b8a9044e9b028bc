"""Exports a checkpoint as one file that answers without torch.

bcd export ckpt=<checkpoint or run folder>
bcd export ckpt=<checkpoint or run folder> precision=int8 output=model.onnx

The file resizes, normalizes, calibrates and decides by itself. bcd predict model=<file> uses it.
"""

from typing import TYPE_CHECKING

from bcd.cli.app import quick_imports

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(cfg: "DictConfig") -> int:
    """Exports; returns the exit status."""
    from bcd.config.check import check_config
    from bcd.config.export import ExportConfig

    with quick_imports():
        checked = check_config(cfg, ExportConfig)
        from bcd.export.run import export

    export(checked)
    return 0
