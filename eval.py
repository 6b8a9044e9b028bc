"""Evaluates a checkpoint; needs nothing but it and the pictures.

python eval.py ckpt=<checkpoint or run folder>                    the run's own test part
python eval.py ckpt=<checkpoint or run folder> data.root=<folder> all of another folder
"""

from typing import TYPE_CHECKING

from bcd.cli.app import CONF, quick_imports, run

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(cfg: "DictConfig") -> int:
    """Evaluates; returns the exit status."""
    from bcd.config.check import check_config
    from bcd.config.programs import EvalConfig

    with quick_imports():
        checked = check_config(cfg, EvalConfig)
        from bcd.commands.evaluate import evaluate_checkpoint

    evaluate_checkpoint(checked)
    return 0


if __name__ == "__main__":
    run(main, "eval", CONF)
