"""Compares two checkpoints on the same images.

bcd compare "ckpts=[<checkpoint or run folder>,<another>]"  the test images of both runs
bcd compare "ckpts=[<a>,<b>]" data.root=<folder>            all images of another folder
"""

from typing import TYPE_CHECKING

from bcd.cli.app import quick_imports

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(cfg: "DictConfig") -> int:
    """Compares; returns the exit status."""
    from bcd.config.check import check_config
    from bcd.config.programs import CompareConfig

    with quick_imports():
        checked = check_config(cfg, CompareConfig)
        from bcd.inference.compare import compare_checkpoints

    compare_checkpoints(checked)
    return 0
