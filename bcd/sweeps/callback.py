"""Hydra's callback at the end of a multirun. Light to import: every run of train.py imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class Leaderboard(Callback):
    """Ends a multirun in its leaderboard.

    Args:
        default: Whether to run the configuration without what is searched for as well.
    """

    def __init__(self, default: bool = False) -> None:
        self._default = default

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Says where the sweep is, and how to go on with it whatever happens."""
        from bcd.console import say

        sweep = config.hydra.sweep.dir
        say(f"sweep folder: {sweep}  (to go on later: the same command, hydra.sweep.dir={sweep})")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Ranks the trials, tests the best, and writes the leaderboard.

        Hydra would turn what is raised into a warning, so errors are told here.
        """
        from bcd.cli.app import OUTCOME, tell, unforeseen
        from bcd.errors import BcdError
        from bcd.sweeps.finalize import finalize_sweep, run_default

        sweep = Path(config.hydra.sweep.dir).absolute()
        try:
            if self._default:
                run_default(config, sweep)
            OUTCOME.add(finalize_sweep(sweep))
        except BcdError as error:
            tell(str(error))
            OUTCOME.add(error.status)
        except Exception as error:
            tell(f"leaderboard: {unforeseen(error)}")
            OUTCOME.add(1)
