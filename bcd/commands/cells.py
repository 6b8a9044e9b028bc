"""Finds and measures the white cells of images.

bcd cells input=<file, folder or glob>
bcd cells input=<folder> masks=true sheet=true
bcd cells input=[a.jpg,folder] sheet=12

It writes cells.csv (a row for each image) and each_cell.csv (a row for each cell).
"""

from typing import TYPE_CHECKING

from bcd.cli.app import quick_imports

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(cfg: "DictConfig") -> int:
    """Measures; returns 3 if some images could not be read."""
    from bcd.config.check import check_config
    from bcd.config.programs import CellsConfig

    with quick_imports():
        checked = check_config(cfg, CellsConfig)
        from bcd.data.cells.run import run_cells

    return 3 if run_cells(checked).failed else 0
