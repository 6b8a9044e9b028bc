"""Trains and tests a classifier of blood-smear images.

bcd train model=mobilenetv2 data.root=<folder of class folders>
bcd train experiment=paper
bcd train experiment=demo
bcd train -m optimizer.lr=1e-3,1e-2 seed=0,1,2     a sweep, which writes a leaderboard
bcd train -m sweep=optuna
bcd train resume=<run folder>                      resumes an interrupted run
bcd train experiment=release recipe=best_frozen    one model from all images, judged out of fold
"""

from typing import TYPE_CHECKING

from bcd.cli.app import quick_imports

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(cfg: "DictConfig") -> int:
    """Trains; returns the exit status."""
    from bcd.config.check import check_config
    from bcd.config.training import TrainConfig

    if "recipe" in cfg:
        with quick_imports():
            from bcd.release.run import release
        return release(cfg)
    if cfg.get("resume"):
        from hydra.core.hydra_config import HydraConfig

        with quick_imports():
            from bcd.training.resume import resumed_config

        cfg = resumed_config(cfg, HydraConfig.get().overrides.task)
    with quick_imports():
        from bcd.training.ahead import reading_ahead
    with reading_ahead(cfg) as ahead:
        with quick_imports():
            checked = check_config(cfg, TrainConfig)
            from bcd.training.run import train

        train(checked, ahead=ahead)
    return 0


def trial(cfg: "DictConfig") -> float:
    """Trains a trial of a multirun; returns its val score."""
    from pathlib import Path

    from hydra.core.hydra_config import HydraConfig

    from bcd.sweeps.trials import run_trial

    hydra = HydraConfig.get()
    sweep = Path(hydra.sweep.dir).absolute()
    if "recipe" in cfg:
        with quick_imports():
            from bcd.release.run import train_job
        return train_job(cfg, sweep)
    name = Path(hydra.runtime.output_dir).name
    return run_trial(cfg, sweep, name, hydra.overrides.task)
