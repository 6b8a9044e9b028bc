"""Freezes a reference set with a model's answers, or re-runs it with another model version.

bcd reference model=<file.onnx> data.root=<labelled images>     writes reference.json
bcd reference model=<newer.onnx> set=<reference.json>           writes reference.html: what changed

The exit status of a re-run is 0 if the new version may be used by the frozen limits, 3 if not.
"""

from typing import TYPE_CHECKING

from bcd.cli.app import quick_imports

if TYPE_CHECKING:
    from omegaconf import DictConfig

_FROZEN = ("limits", "data.benign", "data.group_pattern")


def main(cfg: "DictConfig") -> int:
    """Freezes or re-runs; returns the exit status."""
    from bcd.cli.paths import mapped_path
    from bcd.config.check import check_config, command_line
    from bcd.config.reference import ReferenceConfig
    from bcd.errors import ConfigError

    cfg.model = mapped_path(cfg.model)
    with quick_imports():
        checked = check_config(cfg, ReferenceConfig)
        given = command_line()
        frozen = [key for key in given if key.startswith(_FROZEN)]
        if checked.set is not None and frozen:
            raise ConfigError(f"{frozen[0]}: is frozen with the set: leave it out")
        if checked.set is not None and checked.data.root is None and "data.variant" in given:
            raise ConfigError(
                "data.variant: has no effect on a set without data.root: leave it out"
            )
        from bcd.inference.reference import freeze, rerun

    if checked.set is None:
        freeze(checked)
        return 0
    return 0 if rerun(checked).go_on else 3
