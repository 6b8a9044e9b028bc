"""Compares two checkpoints on the same pictures.

python -m bcd.compare "ckpts=[<checkpoint or run folder>,<another>]"  what both kept for the test
python -m bcd.compare "ckpts=[<a>,<b>]" data.root=<folder>            all of another folder
"""

from typing import TYPE_CHECKING

from bcd.cli.app import CONF, quick_imports, run

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(cfg: "DictConfig") -> int:
    """Compares; returns the exit status."""
    from bcd.config.check import check_config
    from bcd.config.programs import CompareConfig

    with quick_imports():
        checked = check_config(cfg, CompareConfig)
        from bcd.commands.compare import compare_checkpoints

    compare_checkpoints(checked)
    return 0


if __name__ == "__main__":
    run(main, "compare", CONF)
