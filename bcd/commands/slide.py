"""Answers for the tiles of a whole-slide file and draws a heat map.

bcd slide ckpt=<checkpoint or run folder> input=<slide.svs, .ndpi or .tif> mpp=0.375
bcd slide model=<file from bcd export> input=<slide.svs, .ndpi or .tif> mpp=0.375

It writes tiles.csv (a row for each tile with smear), heatmap.png and slide.json. It makes no
diagnosis of the slide.
"""

from typing import TYPE_CHECKING

from bcd.cli.app import quick_imports

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(cfg: "DictConfig") -> int:
    """Answers; returns 3 if some tiles have no answer."""
    from bcd.cli.paths import mapped_path
    from bcd.config.check import check_config
    from bcd.config.slide import SlideConfig

    cfg.model = mapped_path(cfg.model)
    with quick_imports():
        checked = check_config(cfg, SlideConfig)
        from bcd.slides.run import run_slide

    return 3 if run_slide(checked).unanswered else 0
