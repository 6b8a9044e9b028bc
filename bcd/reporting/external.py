"""Results on other sites: the table of several sites, and the section of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bcd.evaluation.metrics import HEADLINE_METRICS
from bcd.evaluation.results import Result
from bcd.reporting.document import Section, Table, replace_section
from bcd.reporting.results import UNSAFE_TITLES, few_groups_warning, metric_text

TITLE = "External testing"
_BEFORE = "Limits"  # the section of the report that it precedes

# Names of metrics and their titles, in the order of tables.
_SHOWN = {
    "malignancy.auroc": "AUROC of malignancy",
    "at_threshold.malignant_sensitivity": "sensitivity",
    "at_threshold.malignant_specificity": "specificity",
    **UNSAFE_TITLES,
    "referred": "referred",
    "malignancy.loss": "loss, benign against malignant",
    "malignancy.brier": "Brier score, benign against malignant",
    "malignancy.ece_debiased": "calibration error (debiased), benign against malignant",
    "malignancy.ece_if_calibrated.quantile_95": "of a calibrated model, 95 % quantile",
    "accuracy": "accuracy, by class",
    "balanced_accuracy": "balanced accuracy, by class",
}
_IN_REPORT = (*tuple(_SHOWN)[:6], "accuracy")


def site_rows(results: Mapping[str, Result]) -> list[list[str]]:
    """Rows for a table: name of a metric, then its value with 95 % interval at each site."""
    every = [result.metrics for result in results.values()]
    return metrics_rows(every)


def one_site_rows(results: Mapping[str, Result]) -> list[list[str]]:
    """The rows of `site_rows`, and the other headline metrics by class where a site has them."""
    more = [name for name in HEADLINE_METRICS if name not in _SHOWN]
    rows = [[name, *(metric_text(r.metrics, name) for r in results.values())] for name in more]
    return site_rows(results) + [row for row in rows if any(row[1:])]


def metrics_rows(every: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The rows of `site_rows`, from the metrics of each site."""
    rows = [["images", *(str(metrics["n"]) for metrics in every)]]
    kinds = ("malignant", "benign")
    rows += [[kind, *(str(m.get(f"n_{kind}", "")) for m in every)] for kind in kinds]
    rows.append(["groups", *(_groups(metrics) for metrics in every)])
    named = [[title, *(metric_text(m, name) for m in every)] for name, title in _SHOWN.items()]
    reasons = sorted({reason for metrics in every for reason in metrics["referral_reasons"]})
    for row in named:
        rows.append(row)
        if row[0] == "referred":
            rows += [[f"  {reason}", *(_share(m, reason) for m in every)] for reason in reasons]
    return [row for row in rows if any(row[1:])]


def _groups(metrics: Mapping[str, Any]) -> str:
    if "n_groups" not in metrics:
        return ""
    groups = metrics["n_groups"]
    known = groups is not None and metrics.get("n_ungrouped", -1) != metrics["n"]
    return str(groups) if known else "none known"


def _share(metrics: Mapping[str, Any], reason: str) -> str:
    return f"{metrics['referral_reasons'].get(reason, 0) / metrics['n']:.4f}"


def auroc_note(metrics: Mapping[str, Any]) -> str:
    """States why there is no AUROC of malignancy; empty if there is one."""
    note = metrics.get("malignancy", {}).get("auroc_note")
    return f"no AUROC of malignancy: {note}" if note else ""


def external_section(records: Sequence[Mapping[str, Any]]) -> Section:
    """The section of the report on other sites, one row each.

    Args:
        records: As in the card of the checkpoint.
    """
    every = [record["metrics"] for record in records]
    names = [name for name in _IN_REPORT if any(metric_text(m, name) for m in every)]
    titles = [_SHOWN[name] for name in names]
    header = ["site", "date", "malignant", "benign", "groups", *titles, "images (sha256)"]
    rows = []
    for record in records:
        metrics = record["metrics"]
        counts = [str(metrics.get(f"n_{kind}", "")) for kind in ("malignant", "benign")]
        figures = [metric_text(metrics, name) or "-" for name in names]
        lead = [record["site"], record["date"], *counts, _groups(metrics)]
        rows.append([*lead, *figures, record["fingerprint"][:16]])
    text = (
        "Images of other sites, on which nothing was trained or chosen, answered with the same "
        "threshold and referral limits. Unsafe: wrong about malignancy and not referred. Brackets "
        "show 95 % intervals over groups: slides or patients that the site names, joined where "
        "images overlap. An AUROC needs malignant and benign images."
    )
    few = [(record["site"], few_groups_warning(record["metrics"])) for record in records]
    notes = [f"{site}: {warning}" for site, warning in few if warning]
    return Section(TITLE, [Table(header, rows), text, *notes])


def write_external_section(folder: Path, records: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Writes the section into `report.html` and `model_card.md` of a run, where they exist.

    Returns:
        The files written.
    """
    files = [folder / name for name in ("report.html", "model_card.md")]
    found = [file for file in files if file.is_file()]
    for file in found:
        replace_section(file, external_section(records), _BEFORE)
    return found
