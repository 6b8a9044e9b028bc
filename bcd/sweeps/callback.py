"""Hydra callback for multiruns. It must import quickly, as every run of train.py imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class Leaderboard(Callback):
    """Prints where the sweep is, and writes its leaderboard at the end.

    Args:
        default: Whether to also run the configuration without the values searched over.
    """

    def __init__(self, default: bool = False) -> None:
        self._default = default

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Prints the sweep folder and how to resume the sweep."""
        from bcd.console import say

        sweep = config.hydra.sweep.dir
        say(f"sweep folder: {sweep}  (to resume: the same command with hydra.sweep.dir={sweep})")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Ranks the trials, tests the best configuration, and writes the leaderboard."""
        from bcd.cli.multirun import finish
        from bcd.sweeps.finalize_sweep import finalize_sweep, run_default

        sweep = Path(config.hydra.sweep.dir).absolute()

        def rank() -> int:
            if self._default:
                run_default(config, sweep)
            return finalize_sweep(sweep)

        finish(rank, "leaderboard")
