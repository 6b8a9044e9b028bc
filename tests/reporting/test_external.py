"""The section of the report on other sites."""

from __future__ import annotations

from bcd.reporting.document import Table
from bcd.reporting.external import external_section


def test_without_a_benign_class_the_section_shows_accuracy() -> None:
    metrics = {"n": 4, "n_groups": None, "accuracy": 0.75, "accuracy_ci": [0.5, 1.0]}
    record = {"site": "north", "date": "", "fingerprint": "", "metrics": metrics}
    table = external_section([record]).blocks[0]
    assert isinstance(table, Table)
    assert "accuracy, by class" in table.header
    assert "-" not in table.rows[0]
