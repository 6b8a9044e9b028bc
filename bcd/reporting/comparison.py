"""Files, figure and terminal output of a comparison of two models."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bcd.config.programs import CompareConfig
from bcd.console import say, show_table
from bcd.data.catalog import Catalog
from bcd.data.reading import fit, read_image
from bcd.evaluation.comparison import Comparison, Disagreement
from bcd.reporting.figures import TILE, draw_tiles, save_png
from bcd.reporting.results import UNSAFE_TITLES, absent_classes_note, rejected_line
from bcd.run_folder import write_config
from bcd.storage import write_csv, write_text, written_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_comparison(
    cfg: CompareConfig,
    catalog: Catalog,
    indices: Sequence[int],
    found: Comparison,
    files: Sequence[Path],
) -> None:
    """Writes `config.yaml`, `comparison.json`, `disagreements.csv` and their figure.

    Args:
        cfg: Checked configuration.
        catalog: Holds the images.
        indices: Of the images compared, in the catalog.
        found: The comparison.
        files: Checkpoints of model a and model b.
    """
    run_dir = Path(cfg.run_dir).absolute()
    write_config(run_dir, cfg)
    facts = {
        "verdict": found.verdict,
        "n": len(indices),
        "n_groups": found.n_groups,
        "differences": {name: d._asdict() for name, d in found.differences.items()},
        "correct": found.correct,
        "p_value": found.p_value,
        "test": _test_name(found),
        "n_disagreements": len(found.disagreements),
        **{
            name: {"checkpoint": str(file), "metrics": found.metrics[name]}
            for name, file in zip("ab", files, strict=True)
        },
    }
    write_text(run_dir / "comparison.json", json.dumps(facts, indent=1) + "\n")
    images = [catalog.images[i] for i in indices]
    paths = [image.path for image in images]
    write_disagreements(
        run_dir / "disagreements.csv", found.disagreements, paths, [p.group for p in images]
    )
    figure = draw_disagreements(
        found.disagreements, paths, lambda i: read_image(catalog.root / paths[i])
    )
    if figure is not None:
        save_png(figure, run_dir / "figures" / "disagreements.png")


def show_comparison(
    cfg: CompareConfig, catalog: Catalog, found: Comparison, files: Sequence[Path]
) -> None:
    """Prints metrics, differences and the verdict; the arguments are `write_comparison`'s."""
    rows = []
    for name, (value, low, high) in found.differences.items():
        both = [f"{found.metrics[model][name]:.4f}" for model in "ab"]
        title = UNSAFE_TITLES.get(name, name.replace("_", " "))
        rows.append([title, *both, f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"])
    over = "images" if found.n_groups is None else f"{found.n_groups} groups"
    show_table(
        f"{found.metrics['a']['n']} images; 95 % intervals over {over}",
        ["metric", "a", "b", "b - a"],
        rows,
    )
    if note := absent_classes_note(found.metrics["a"]):
        say(f"warning: {note}")
    for name, file in zip("ab", files, strict=True):
        known = "" if found.metrics[name]["calibrated"] else "  (uncalibrated)"
        say(f"{name}: {file}{known}")
    correct = ", ".join(f"{who} {count}" for who, count in found.correct.items())
    say(f"correct: {correct}; {_test_name(found)}: p = {found.p_value:.2g}")
    if found.n_groups is not None and (least := 2 / 2**found.n_groups) >= 0.05:
        say(
            f"warning: with {found.n_groups} groups, p cannot be below {least:.3g}, however large "
            "the difference"
        )
    say(f"disagreements: {len(found.disagreements)}, listed in disagreements.csv")
    say(f"verdict: {found.verdict}")
    if catalog.rejected:
        say(rejected_line(len(catalog.rejected)))
    say(f"results: {cfg.run_dir}")


def _test_name(found: Comparison) -> str:
    return "exact McNemar test" if found.n_groups is None else "sign-flip test over groups"


def write_disagreements(
    file: Path, found: Sequence[Disagreement], paths: Sequence[str], groups: Sequence[str]
) -> None:
    """Writes `disagreements.csv`.

    Args:
        file: The file to write.
        found: The disagreements.
        paths: Of all images compared.
        groups: Of all images compared.
    """
    header = ["path", "group", "label", "prediction_a", "probability_a"]
    header += ["prediction_b", "probability_b", "correct"]
    rows = []
    for d in found:
        both = [(s, f"{c:.6f}") for s, c in zip(d.predictions, d.probabilities, strict=True)]
        rows.append([paths[d.index], groups[d.index], d.label, *both[0], *both[1], d.correct])
    write_csv(file, header, rows)


def draw_disagreements(
    found: Sequence[Disagreement],
    paths: Sequence[str],
    pixels: Callable[[int], NDArray[np.uint8]],
    most: int = 12,
) -> Figure | None:
    """Draws the first disagreements.

    Args:
        found: As returned by `find_disagreements`.
        paths: Of all images compared.
        pixels: Maps the position of an image among those compared to its pixels.
        most: Largest number of images shown.

    Returns:
        The figure; None if the models agree on all images.
    """
    shown = found[:most]
    if not shown:
        return None
    tiles = [fit(pixels(d.index), TILE) for d in shown]
    titles = []
    for d in shown:
        pairs = zip("ab", d.predictions, d.probabilities, strict=True)
        lines = [f"{n}: {s} ({c:.0%})" for n, s, c in pairs]
        name = written_path(Path(paths[d.index]).name)
        titles.append("\n".join([f"{name} is {d.label}", *lines]))
    return draw_tiles(tiles, titles, min(4, len(shown)))
