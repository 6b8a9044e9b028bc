"""`report.html`: one file that shows a run to a person, with nothing to fetch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bcd.data.catalog import Catalog
from bcd.data.split import SUBSETS, Split
from bcd.evaluation.page import embed_png, heading, note, table, write_page
from bcd.evaluation.results import Result, metric_rows


def write_report(
    run_dir: Path,
    name: str,
    catalog: Catalog,
    split: Split,
    results: Mapping[str, Result],
    audit: Sequence[Sequence[str]],
) -> None:
    """Writes the report of a run whose figures are in `run_dir/figures`.

    Args:
        run_dir: The run folder.
        name: Stands above.
        catalog: The pictures.
        split: The parts.
        results: By part.
        audit: Rows of the audit: status, what was looked at, what was found, what mends it.
    """
    parts = [
        note("For research. Not a medical device: no diagnosis may rest on it."),
        heading("Pictures"),
        table(["class", *SUBSETS[:3]], _split_rows(catalog, split)),
        _rejected(catalog),
        heading("Can the data be trusted"),
        table(["", "looked at", "found", "mend"], audit, figures=False),
        note("The whole audit, with pictures: python -m bcd.audit"),
        heading("Results"),
        table(["figure", *results], metric_rows(results)),
        note(
            "The checkpoint was chosen on val; the test part was used once, after training. "
            "Precision, recall and F1 are macro averages."
        ),
        *_figures(run_dir / "figures"),
    ]
    write_page(run_dir / "report.html", name, parts)


def _split_rows(catalog: Catalog, split: Split) -> list[list[str]]:
    labels = catalog.labels
    return [
        [name, *(str(sum(labels[i] == k for i in split.indices(s))) for s in SUBSETS[:3])]
        for k, name in enumerate(catalog.classes)
    ]


def _rejected(catalog: Catalog) -> str:
    if not catalog.rejected:
        return note("Every file could be used.")
    rows = [[r.path, r.class_name, r.reason] for r in catalog.rejected]
    told = note(f"{len(rows)} files were turned away:")
    return told + table(["file", "class", "reason"], rows, figures=False)


def _figures(folder: Path) -> list[str]:
    shown = []
    for file in sorted(folder.glob("*.png")):
        title = file.stem.replace("_", " ")
        shown += [heading(title.capitalize()), embed_png(file, title)]
    return shown
