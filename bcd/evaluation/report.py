"""`report.html`: one file that shows a run to a person, with nothing to fetch."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bcd.data.catalog import Catalog
from bcd.data.split import SUBSETS, Split
from bcd.evaluation.results import Result, metric_rows
from bcd.storage import write_text

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .8rem}
td,th{border-bottom:1px solid #ddd}
td:not(:first-child),th:not(:first-child){text-align:right}th:first-child{text-align:left}
img{max-width:100%}.note{color:#555}
"""


def write_report(
    run_dir: Path, name: str, catalog: Catalog, split: Split, results: Mapping[str, Result]
) -> None:
    """Writes the report of a run whose figures are in `run_dir/figures`."""
    parts = [
        f"<h1>{html.escape(name)}</h1>",
        "<p class=note>For research. Not a medical device: no diagnosis may rest on it.</p>",
        "<h2>Pictures</h2>",
        _table(["class", *SUBSETS[:3]], _split_rows(catalog, split)),
        _rejected(catalog),
        "<h2>Results</h2>",
        _table(["figure", *results], metric_rows(results)),
        "<p class=note>The checkpoint was chosen on val; the test part was used once, after "
        "training. Precision, recall and F1 are macro averages.</p>",
        *_figures(run_dir / "figures"),
    ]
    body = "\n".join(parts)
    page = (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{html.escape(name)}</title>"
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )
    write_text(run_dir / "report.html", page)


def _split_rows(catalog: Catalog, split: Split) -> list[list[str]]:
    labels = catalog.labels
    return [
        [name, *(str(sum(labels[i] == k for i in split.indices(s))) for s in SUBSETS[:3])]
        for k, name in enumerate(catalog.classes)
    ]


def _rejected(catalog: Catalog) -> str:
    if not catalog.rejected:
        return "<p class=note>Every file could be used.</p>"
    rows = [[r.path, r.class_name, r.reason] for r in catalog.rejected]
    return f"<p>{len(rows)} files were turned away:</p>" + _table(["file", "class", "reason"], rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>"


def _figures(folder: Path) -> list[str]:
    shown = []
    for file in sorted(folder.glob("*.png")):
        data = base64.b64encode(file.read_bytes()).decode()
        title = file.stem.replace("_", " ")
        shown.append(
            f'<h2>{title.capitalize()}</h2><img alt="{title}" src="data:image/png;base64,{data}">'
        )
    return shown
