"""Audits images and their split: can the data be trusted?

bcd audit data.root=<folder of class folders>
bcd audit data.root=<folder> split=grouped split.groups=auto
bcd audit data.root=<folder> strict=true    exit status 1 if a check fails
"""

from typing import TYPE_CHECKING

from bcd.cli.app import quick_imports

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(cfg: "DictConfig") -> int:
    """Audits; returns the exit status."""
    from bcd.config.check import check_config
    from bcd.config.programs import AuditConfig

    with quick_imports():
        checked = check_config(cfg, AuditConfig)
        from bcd.audit.run import audit

    return audit(checked)[1]
