"""Serves a model: an API, pages for staff, and records of every answer.

bcd serve model=<file from bcd export, checkpoint or run folder>
bcd serve    # with a demo model, trained on generated smears
bcd serve verify | models | user | token | key | backup | restore | erase | expire | outbox --help

It listens on loopback only, unless told otherwise. For research only, not for diagnosis.
"""

from typing import TYPE_CHECKING

from bcd.cli.app import quick_imports

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(cfg: "DictConfig") -> int:
    """Serves until it is stopped; returns the exit status."""
    from bcd.cli.paths import mapped_path
    from bcd.config.check import check_config
    from bcd.config.serve import ServeConfig

    cfg.model = mapped_path(cfg.model)
    with quick_imports():
        checked = check_config(cfg, ServeConfig)
        from bcd.serving.start import serve

    return serve(checked)
