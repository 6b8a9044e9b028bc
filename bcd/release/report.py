"""The report and the model card of a release; the first section is the summary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bcd
from bcd.audit.brief import verdict_line
from bcd.audit.checks import NOT_ESTABLISHED
from bcd.audit.page import checks_table, verdict_parts
from bcd.evaluation.unsafe import UNSAFE_SHARES
from bcd.release.facts import ReleaseFacts, fold_rows
from bcd.release.gate import FOLDS_TABLE
from bcd.release.model_card import card_metadata
from bcd.release.options import CURVE_FIGURE, budget_note, options
from bcd.reporting.curves import draw_learning_curve
from bcd.reporting.document import Figure, Section, Table, write_html, write_markdown
from bcd.reporting.guarantees import (
    OUT_OF_FOLD_ANSWERS,
    prior_correction_line,
    referral_rules,
    sets_guarantee,
    threshold_guarantee,
)
from bcd.reporting.html import Link
from bcd.reporting.overview import Overview, headline_tiles, matrix_panel, samples_panel, today
from bcd.reporting.results import (
    UNSAFE_COLUMNS,
    calibration_line,
    few_groups_warning,
    metric_rows,
    metric_text,
)
from bcd.reporting.svg import save_svg


def write_release_report(folder: Path, facts: ReleaseFacts) -> None:
    """Writes `report.html` and `model_card.md`; figures of the results are there already."""
    if facts.curve is not None:
        figure = draw_learning_curve(
            facts.curve["points"], f"out of fold, n = {facts.metrics['n']}"
        )
        save_svg(figure, folder / "figures" / f"{CURVE_FIGURE}.svg")
    sections = [
        _summary(facts), _data(facts), _members(facts), _results(facts), _decisions(facts),
        *options(facts), _failures(facts), _limits(facts),
    ]  # fmt: skip
    name = facts.settings.name
    write_html(folder / "report.html", f"Release: {name}", sections, _overview(facts))
    metadata = card_metadata(facts)
    write_markdown(folder / "model_card.md", f"Model card: {name}", sections, metadata)


_FILES = (
    "metrics.json", "predictions.csv", "audit.json", "config.yaml", "run.json", FOLDS_TABLE,
    "model_card.md",
)  # fmt: skip


def _overview(facts: ReleaseFacts) -> Overview:
    """The first screen: verdict, headline figures, confusion matrix, samples, origin."""
    images, cfg = facts.images, facts.images.cfg
    catalog = images.catalog
    return Overview(
        f"Release, {today()}, bcd {bcd.__version__}",
        *verdict_parts(facts.checks),
        headline_tiles(facts.metrics, "out of fold"),
        [matrix_panel(facts.metrics, catalog.classes), samples_panel(catalog, images.indices)],
        [
            ("data", f"{catalog.root}, fingerprint {catalog.fingerprint()[:16]}"),
            ("images", f"{len(images.indices)} in {len(facts.members)} folds"),
            ("model", f"{cfg.model.title}, weights {cfg.model.weights}, head {cfg.head.kind}"),
            ("recipe", facts.settings.recipe),
        ],
        [Link(name, name) for name in _FILES],
    )


def _summary(facts: ReleaseFacts) -> Section:
    catalog = facts.images.catalog
    rows = [
        ["own images, out of fold", *_summary_cells(facts.metrics), str(facts.metrics["n"])],
        *(
            [f"{row['kind']} {row['strength']}".strip(), *_corrupted_cells(row), str(row["n"])]
            for row in facts.corruptions[1:]
        ),
    ]
    unsafe = [UNSAFE_COLUMNS[name] for name in UNSAFE_SHARES if name in facts.metrics]
    header = ["images", "accuracy", *unsafe, "referred", "n"]
    return Section(
        "Summary",
        [
            f"Classifies microscope images as {', '.join(catalog.classes)}, or refers them to a "
            "person. For research and teaching only. It is not a medical device and must not be "
            "used for diagnosis.",
            Table(header, rows),
            "Unsafe: wrong about malignancy and not referred. Brackets show 95 % intervals over "
            "groups. The lower rows are a sample of the same images, changed as other stains, "
            "cameras and files would.",
            f"{verdict_line(facts.checks)}.",
            f"Not established: {'; '.join(not_established(facts))}.",
        ],
    )


def _summary_cells(metrics: Mapping[str, Any]) -> list[str]:
    names = ("accuracy", *(n for n in UNSAFE_SHARES if n in metrics), "referred")
    return [metric_text(metrics, name) or "-" for name in names]


def _corrupted_cells(row: Mapping[str, Any]) -> list[str]:
    cells = [f"{row['accuracy']:.4f}"]
    for name in UNSAFE_SHARES:
        if name in row:
            low, high = row[f"{name}_low"], row[f"{name}_high"]
            value = row[name]
            cells.append("-" if value is None else f"{value:.4f} [{low:.3f}, {high:.3f}]")
    return [*cells, f"{row['referred']:.4f}"]


def not_established(facts: ReleaseFacts) -> list[str]:
    """What the figures leave open, from what was and was not done."""
    found = []
    if any(NOT_ESTABLISHED in check.finding for check in facts.checks):
        found.append("that images of one patient were kept in one fold")
    if facts.images.cfg.split.kind == "kfold":
        found.append(
            "how the model does on new slides, because images of one slide are in several folds"
        )
    found.append("how the model does at other hospitals (bcd eval … record=true adds that)")
    if facts.whole is None:
        found.append(
            "how much better the average is than its members: each image was judged by the one "
            "member that had not seen it"
        )
    else:
        found.append(
            "the accuracy of the model itself, which was trained on all images: the figures are "
            "those of the folds' members, trained in the same way on fewer images"
        )
    return found


def _data(facts: ReleaseFacts) -> Section:
    images = facts.images
    catalog = images.catalog
    labels = [catalog.images[i].label for i in images.indices]
    rows = []
    for k, name in enumerate(catalog.classes):
        own = [labels[p] == k for p in range(len(labels))]
        counts = [
            str(sum(mine and images.folds[p] == m.fold for p, mine in enumerate(own)))
            for m in facts.members
        ]
        rows.append([name, *counts, str(sum(own))])
    header = ["class", *(f"fold {m.fold}" for m in facts.members), "all"]
    found = len(catalog.images) + len(catalog.rejected)
    flow = (
        f"{found} files found; {len(catalog.rejected)} rejected; "
        f"{len(catalog.images) - len(images.indices)} left out by the split; "
        f"{len(images.indices)} used. Source: {catalog.root}, fingerprint "
        f"{catalog.fingerprint()[:16]} ({catalog.checked})."
    )
    return Section(
        "Data and separation",
        [
            flow,
            Table(header, rows),
            facts.protocol(),
            "The audit is that of the split of fold 0:",
            checks_table(facts.checks),
        ],
    )


def _epochs(count: int) -> str:
    return "one fit of the head" if not count else f"{count} epoch{'s' * (count != 1)}"


def _members(facts: ReleaseFacts) -> Section:
    cfg = facts.images.cfg
    rows = [
        [
            str(row["fold"]), str(row["trained"]), str(row["left_out"]),
            f"{row['accuracy']:.4f}", str(row["epoch"] or "fitted"), row["sha256"][:16],
        ]
        for row in fold_rows(facts)
    ]  # fmt: skip
    header = ["fold", "trained on", "left out", "accuracy", "epochs", "sha256 of the weights"]
    made = (
        f"The model averages the probabilities of {len(facts.members)} members over one frozen "
        "prefix."
        if facts.whole is None
        else "The model is one more, trained on all images in the same way, by "
        f"{_epochs(facts.whole.epoch)} (weights {facts.whole.sha256[:16]}). Temperature, "
        "thresholds and referral limits are those of the folds' members."
    )
    trained = f"the head and {cfg.model.unfreeze} blocks" if cfg.model.unfreeze else "the head"
    return Section(
        "Model",
        [
            f"{made} Recipe: {facts.settings.recipe} ({cfg.model.title}, weights "
            f"{cfg.model.weights}, {cfg.model.images}; trained: {trained}; head {cfg.head.kind}).",
            Table(header, rows),
        ],
    )


def _results(facts: ReleaseFacts) -> Section:
    metrics = facts.metrics
    rows = []
    for name in facts.images.catalog.classes:
        cells = [str(metrics["n_by_class"][name])]
        for figure in ("sensitivity", "specificity", "precision", "auroc"):
            value, interval = (metrics[f"{figure}_by_class{end}"][name] for end in ("", "_ci"))
            cells.append(metric_text({"x": value, "x_ci": interval}, "x") or "undefined")
        rows.append([name, *cells])
    return Section(
        "Results",
        [
            Table(["metric", "out of fold"], metric_rows({"out of fold": facts.result})),
            Table(["class", "n", "sensitivity", "specificity", "precision", "AUROC"], rows),
            few_groups_warning(metrics) or "Precision, recall and F1 are macro averages.",
            calibration_line(metrics).replace("on test", "out of fold"),
            Figure("reliability", "reliability, out of fold"),
        ],
    )


def _decisions(facts: ReleaseFacts) -> Section:
    policy, metrics = facts.policy, facts.metrics
    reasons = metrics["referral_reasons"].items()
    told = ", ".join(f"{count} {name}" for name, count in reasons) or "none"
    sets = metrics["prediction_sets"]
    shipped = "average of the members" if facts.whole is None else "model trained on all images"
    carried = (
        f"The guarantees are those of the folds' members. The {shipped} is another model, to which "
        "they carry over only approximately (docs/statistics.md)."
    )
    prior = prior_correction_line(policy, facts.images.catalog.classes, metrics)
    return Section(
        "Threshold, prediction sets and referral",
        [
            f"Temperature {facts.temperature:.3f}.",
            threshold_guarantee(policy, OUT_OF_FOLD_ANSWERS),
            sets_guarantee(policy, OUT_OF_FOLD_ANSWERS),
            f"Out of fold, {sets['coverage']:.1%} of the sets contain the true class; they have "
            f"{sets['mean_size']:.2f} classes on average.",
            carried,
            f"{metrics['referred']:.1%} of {metrics['n']} images are referred ({told}); "
            f"the budget was {facts.settings.refer:.1%}, for all reasons together. "
            f"{referral_rules(policy, OUT_OF_FOLD_ANSWERS)}",
            *filter(None, (budget_note(facts), prior)),
            Figure("risk_coverage", "error rate against the share decided"),
        ],
    )


def _failures(facts: ReleaseFacts) -> Section:
    figures = [
        Figure("confusion_matrix", "confusion matrix, out of fold"),
        Figure("mistakes", "the most confident errors, out of fold"),
    ]
    wrong = int((facts.result.probabilities.argmax(axis=1) != facts.result.labels).sum())
    return Section(
        "Failures",
        [f"{wrong} of {facts.metrics['n']} images were classified incorrectly.", *figures],
    )


def _limits(facts: ReleaseFacts) -> Section:
    return Section(
        "Limits",
        [
            "The figures apply to images like these: from the same laboratories, microscopes and "
            "stains, selected in the same way. Elsewhere expect lower ones.",
        ],
    )
