"""Hydra callback for a release made with -m. It must import quickly, as jobs import it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


def _is_sweep(word: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = OverridesParser.create().parse_override(word)
    return bool(override.is_sweep_override()) and override.key_or_group != "split.fold"


class Release(Callback):
    """Puts the folds together at the end of a multirun, in which each fold is a job."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Prints where the release is, and how to continue.

        Hydra would turn exceptions into warnings, so a sweep over anything else ends here.
        """
        import sys

        from bcd.cli.app import tell
        from bcd.console import say

        swept = [word for word in config.hydra.overrides.task if _is_sweep(word)]
        if swept:
            tell(f"{swept[0]}: the jobs of a release are its folds: give a single value")
            sys.exit(2)
        folder = config.hydra.sweep.dir
        say(f"release: {folder}  (to continue: the same command with hydra.sweep.dir={folder})")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Assembles the release."""
        from bcd.cli.multirun import finish
        from bcd.release.run import assemble_jobs

        folder = Path(config.hydra.sweep.dir).absolute()
        finish(lambda: assemble_jobs(config, folder), "release")
