"""Hydra callback for a release made with -m. It must import quickly, as jobs import it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class Release(Callback):
    """Puts the folds together at the end of a multirun, in which each fold is a job."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Prints where the release is, and how to continue."""
        from bcd.console import say

        folder = config.hydra.sweep.dir
        say(f"release: {folder}  (to continue: the same command with hydra.sweep.dir={folder})")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Assembles the release.

        Hydra would turn exceptions into warnings, so errors are printed here.
        """
        from bcd.cli.app import OUTCOME, tell, unforeseen
        from bcd.errors import BcdError
        from bcd.release.run import assemble_jobs

        try:
            OUTCOME.add(assemble_jobs(config, Path(config.hydra.sweep.dir).absolute()))
        except BcdError as error:
            tell(str(error))
            OUTCOME.add(error.status)
        except Exception as error:
            tell(f"release: {unforeseen(error)}")
            OUTCOME.add(1)
