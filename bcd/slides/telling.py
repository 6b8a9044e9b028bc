"""What `bcd slide` prints."""

from __future__ import annotations

from pathlib import Path

from bcd.config.slide import SlideConfig
from bcd.console import printable, say, show_table
from bcd.slides.opening import SlideFacts
from bcd.slides.tally import Tally

NOTE = (
    "no diagnosis of the slide is made: the model learnt from single fields of view, and what the "
    "shares of its answers on a whole slide mean was never validated"
)


def tell_slide(
    cfg: SlideConfig, facts: SlideFacts, side: int, size: tuple[int, int], count: int
) -> None:
    """Prints what is going to be read.

    Args:
        cfg: Of the command.
        facts: What the file says about itself.
        side: Of the network's images, pixels.
        size: Width and height of a tile in pixels of level 0.
        count: Number of tiles in the grid.
    """
    known = facts.mpp if cfg.slide_mpp is None else (cfg.slide_mpp, cfg.slide_mpp)
    mpp = "of unknown size" if known is None else f"of {known[0]:.4g} micrometres"
    say(f"slide: {facts.width} x {facts.height} pixels {mpp}, levels: {len(facts.levels)}")
    how = "not rescaled" if cfg.mpp is None else f"of {cfg.mpp:.4g} micrometres"
    say(
        f"tiles: {count} of {side} x {side} pixels {how}, {size[0]} x {size[1]} pixels of the slide"
    )
    if cfg.mpp is None:
        say(
            "warning: without mpp, the magnification of the tiles may not be that of the training "
            "images: give mpp=<micrometres per pixel of the training images>"
        )
    if facts.missing:
        say(f"warning: {facts.missing} of the {facts.pieces} parts of the file are missing in it")


def tell_results(
    cfg: SlideConfig, tally: Tally, calibrated: bool, share: float | None, limited: bool
) -> None:
    """Prints counts, warnings, and where the files are.

    Args:
        cfg: Of the command.
        tally: Of the tiles.
        calibrated: Whether the model has a decision policy.
        share: Share of the slide that is tissue; None if that is unknown.
        limited: Whether there are more tiles than `limit`.
    """
    rows = [[name, str(tally.predicted[name])] for name in tally.classes]
    rows += [["referred", str(tally.referred)], ["too little tissue", str(tally.left_out)]]
    rows.append(["could not be read", str(tally.failed)])
    if tally.infinite:
        rows.append(["no finite answer", str(tally.infinite)])
    show_table("Predicted", ["class", "tiles"], rows)
    for name, error in tally.first_failed:
        say(f"could not be read: tile at {name}: {error}")
    if not tally.answered:
        known = "an unknown share" if share is None else f"{share:.1%}"
        say(f"warning: no tile has an answer; {known} of the slide is tissue")
    if limited:
        say(f"warning: limit={cfg.limit}: the slide has more tiles with tissue")
    if not calibrated:
        say("warning: uncalibrated: nothing was decided on val, so every tile is referred")
    for name in ("tiles.csv", "heatmap.png", "slide.json"):
        say(f"{name.partition('.')[0]}: {printable(str(Path(cfg.run_dir) / name))}")
    say(NOTE)
