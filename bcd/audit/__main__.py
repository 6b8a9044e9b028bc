"""Audits pictures and a split of them: can the data be trusted.

python -m bcd.audit data.root=<folder of class folders>
python -m bcd.audit data.root=<folder> split=grouped split.groups=auto
python -m bcd.audit data.root=<folder> --strict    exit status 1 where a check fails
"""

import sys
from typing import TYPE_CHECKING

from bcd.cli.app import CONF, quick_imports, run

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(cfg: "DictConfig") -> int:
    """Audits; returns the exit status."""
    from bcd.config.check import check_config
    from bcd.config.programs import AuditConfig

    with quick_imports():
        checked = check_config(cfg, AuditConfig)
        from bcd.commands.audit import audit

    return audit(checked)[1]


if __name__ == "__main__":
    sys.argv = ["strict=true" if a == "--strict" else a for a in sys.argv]
    run(main, "audit", CONF)
