"""The comparison of two models as files and on the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from bcd.config.programs import CompareConfig
from bcd.console import say, show_table
from bcd.data.catalog import Catalog
from bcd.data.reading import read_image
from bcd.evaluation.model_comparison import Comparison
from bcd.reporting.disagreements import draw_disagreements, write_disagreements
from bcd.reporting.figures import save_figure
from bcd.reporting.results import absent_line
from bcd.run_folder import write_config
from bcd.storage import write_text


def write_comparison(
    cfg: CompareConfig,
    catalog: Catalog,
    indices: Sequence[int],
    found: Comparison,
    files: Sequence[Path],
) -> None:
    """Writes `config.yaml`, `comparison.json`, `disagreements.csv` and their figure."""
    run_dir = Path(cfg.run_dir).absolute()
    write_config(run_dir, cfg)
    facts = {
        "verdict": found.verdict,
        "n": len(indices),
        "groups": found.groups,
        "difference": {name: d._asdict() for name, d in found.differences.items()},
        "right": found.right,
        "p": found.p,
        "test": _test(found),
        "disagreements": len(found.disagreements),
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
        save_figure(figure, run_dir / "figures" / "disagreements.png")


def _test(found: Comparison) -> str:
    """What `p` is from."""
    return "exact McNemar" if found.groups is None else "random signs of groups"


def show_comparison(
    cfg: CompareConfig, catalog: Catalog, found: Comparison, files: Sequence[Path]
) -> None:
    """Shows figures, differences and the verdict on the terminal."""
    rows = []
    for name, (value, low, high) in found.differences.items():
        both = [f"{found.metrics[model][name]:.4f}" for model in "ab"]
        rows.append([name.replace("_", " "), *both, f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"])
    over = "images" if found.groups is None else f"{found.groups} groups"
    show_table(
        f"On {found.metrics['a']['n']} images; 95 % intervals over {over}",
        ["figure", "a", "b", "b - a"],
        rows,
    )
    if line := absent_line(found.metrics["a"]):
        say(f"warning: {line}")
    for name, file in zip("ab", files, strict=True):
        known = "" if found.metrics[name]["calibrated"] else "  (uncalibrated)"
        say(f"{name}: {file}{known}")
    right = ", ".join(f"{who} {count}" for who, count in found.right.items())
    say(f"right: {right}; {_test(found)} p = {found.p:.2g}")
    if found.groups is not None and (least := 2 / 2**found.groups) >= 0.05:
        say(
            f"warning: over {found.groups} groups p is never below {least:.3g}, however they differ"
        )
    say(f"disagreements: {len(found.disagreements)}, listed in disagreements.csv")
    say(f"verdict: {found.verdict}")
    if catalog.rejected:
        say(f"rejected: {len(catalog.rejected)} files, listed in run.json")
    say(f"results: {cfg.run_dir}")
