"""Evaluates a checkpoint; needs only the checkpoint and images.

bcd eval ckpt=<checkpoint or run folder>                    the test set of the run
bcd eval ckpt=<checkpoint or run folder> data.root=<folder> all images of another folder
    data.map='{healthy: benign, blast: malignant}'          whose classes have other names
bcd eval ckpt=<checkpoint or run folder> recalibrate=<csv>  fits the threshold to a site's images
"""

from typing import TYPE_CHECKING

from bcd.cli.app import quick_imports

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(cfg: "DictConfig") -> int:
    """Evaluates; returns the exit status."""
    from bcd.config.check import check_config
    from bcd.config.programs import EvalConfig

    with quick_imports():
        checked = check_config(cfg, EvalConfig)
        from bcd.inference.evaluate import evaluate_checkpoint
        from bcd.inference.recalibrate import recalibrate_checkpoint

    if checked.recalibrate is None:
        evaluate_checkpoint(checked)
    else:
        recalibrate_checkpoint(checked)
    return 0
