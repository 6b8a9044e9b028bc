"""Evaluates a checkpoint: on its own run's pictures, or on a folder it has never seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from bcd.audit.leaks import find_leaks, leak_figures
from bcd.config.programs import EvalConfig
from bcd.console import say, show_table
from bcd.data.catalog import Catalog
from bcd.data.load import load_catalog
from bcd.data.quality.profile import survey_pictures
from bcd.data.splits.split import recorded_indices
from bcd.errors import BcdError
from bcd.evaluation.collect import choose_device
from bcd.evaluation.decision import Judge
from bcd.evaluation.intervals import few_groups_line
from bcd.evaluation.results import Result
from bcd.inference.checkpoint import Card, find_checkpoint, load_checkpoint
from bcd.inference.evaluate import (
    _features_config,
    _is_own,
    _pictures,
    count_trained,
    data_config,
    evaluate_pictures,
    warn_of_relabelled,
)
from bcd.models.network import SmearNetwork
from bcd.reporting.promises import promise_lines
from bcd.reporting.results import absent_line, metric_rows, write_results
from bcd.run_folder import write_config, write_run_info


def evaluate_checkpoint(cfg: EvalConfig) -> dict[str, Result]:
    """Evaluates a checkpoint and writes metrics, predictions and figures.

    Without `data.root`, the pictures of the training run are taken and of them the recorded test
    part, found again by sha256. With another one, all of its pictures.

    Args:
        cfg: Checked configuration.

    Returns:
        The result by the name of the part.

    Raises:
        BcdError: No checkpoint, none with a judge, no pictures, or answers that are not finite.
    """
    started = time.time()
    checkpoint = find_checkpoint(cfg.ckpt)
    network, card = load_checkpoint(checkpoint, cfg.uncalibrated)
    catalog = load_catalog(data_config(cfg, card), card.classes)
    subset = cfg.subset or ("test" if _is_own(cfg, card) else "all")
    indices = _choose(catalog, card, subset)
    _warn_of_trained(catalog, card, indices, subset)
    warn_of_relabelled(catalog, card)
    result = evaluate_pictures(cfg, network, card, catalog, indices, subset)
    if subset == "test":
        trained, chosen = (recorded_indices(catalog, card.split[p]) for p in ("train", "val"))
        found = find_leaks(survey_pictures(catalog), trained, chosen, indices)
        result.metrics.update(leak_figures(found, indices, result.predictions, catalog))
    results = {subset: result}
    run_dir = Path(cfg.run_dir).absolute()
    write_config(run_dir, cfg)
    write_results(run_dir, catalog, results)
    if cfg.shift is not None:
        _measure_shifts(cfg, network, card, catalog, indices, run_dir)
    write_run_info(
        run_dir,
        started,
        checkpoint=str(checkpoint),
        data=catalog.identity(),
        rejected=[vars(item) for item in catalog.rejected],
    )
    show_table(f"{checkpoint.name} on {catalog.root}", ["figure", *results], metric_rows(results))
    if line := absent_line(result.metrics):
        say(f"warning: {line}")
    if line := few_groups_line(result.metrics):
        say(f"warning: {line}")
    for line in promise_lines(Judge.from_plain(card.judge)):
        say(line)
    if catalog.rejected:
        say(f"turned away: {len(catalog.rejected)} files, listed in run.json")
    say(f"results: {run_dir}")
    return results


def _measure_shifts(
    cfg: EvalConfig,
    network: SmearNetwork,
    card: Card,
    catalog: Catalog,
    indices: Sequence[int],
    run_dir: Path,
) -> None:
    """Runs the suite of shifts on the same pictures, writes and shows its table."""
    from bcd.evaluation.robustness import all_shifts
    from bcd.reporting.robustness import SHIFT_HEADER, shift_rows, write_shifts

    rows = all_shifts(
        str(cfg.shift),
        network,
        Judge.from_plain(card.judge),
        _pictures(catalog, card),
        indices,
        _features_config(cfg, card).engine,
        choose_device(cfg.device),
    )
    write_shifts(run_dir, rows)
    show_table(f"shift={cfg.shift}", SHIFT_HEADER, shift_rows(rows))


def _choose(catalog: Catalog, card: Card, subset: str) -> list[int]:
    if subset == "all":
        return list(range(len(catalog.pictures)))
    indices = recorded_indices(catalog, card.split[subset])
    missing = len(card.split[subset]) - len(indices)
    if not indices:
        raise BcdError(
            f"none of the run's {subset} pictures is in {catalog.root}: say subset=all to evaluate "
            "everything there"
        )
    if missing:
        say(f"warning: {missing} of the run's {subset} pictures are not in {catalog.root}")
    return indices


def _warn_of_trained(catalog: Catalog, card: Card, indices: Sequence[int], subset: str) -> None:
    count = count_trained(catalog, card, indices)
    if count and subset in ("test", "all"):
        say(
            f"warning: {count} of {len(indices)} pictures were trained or chosen on (same sha256): "
            "the figures flatter the model"
        )
