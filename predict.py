"""Predicts the class of pictures with a checkpoint.

python predict.py ckpt=<checkpoint or run folder> input=<file, folder or glob>
python predict.py ckpt=<checkpoint or run folder> input=[a.jpg,folder] format=json
"""

from typing import TYPE_CHECKING

from bcd.cli.app import CONF, quick_imports, run

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(cfg: "DictConfig") -> int:
    """Predicts; returns 3 when some pictures got no answer."""
    from bcd.config.check import check_config
    from bcd.config.programs import PredictConfig

    with quick_imports():
        checked = check_config(cfg, PredictConfig)
        from bcd.commands.predict import predict

    return 3 if predict(checked).unanswered else 0


if __name__ == "__main__":
    run(main, "predict", CONF)
