"""Rows of predictions as the bytes of a file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from bcd.evaluation.predictions import Prediction, columns, prediction_cells, prediction_record
from bcd.inference.batch.lists import import_parquet
from bcd.storage import csv_line


def encode_rows(rows: Sequence[Prediction], classes: Sequence[str], form: str) -> bytes:
    """Encodes rows.

    Args:
        rows: The predictions, at least one.
        classes: Names of the classes.
        form: `csv` or `parquet`; its columns have types, and null where a value is unknown.

    Returns:
        The content of a file with the columns of `predictions.csv`.

    Raises:
        BcdError: pyarrow is not installed.
    """
    if form == "parquet":
        return _parquet(rows, classes)
    lines = [csv_line(prediction_cells(p, classes)) for p in rows]
    return "".join([csv_line(_columns(rows, classes)), *lines]).encode("utf-8", "backslashreplace")


def _columns(rows: Sequence[Prediction], classes: Sequence[str]) -> list[str]:
    return columns(classes, kept=[keyword for keyword, _ in rows[0].kept])


def _parquet(rows: Sequence[Prediction], classes: Sequence[str]) -> bytes:
    arrow, parquet = import_parquet("format=parquet")
    records = [prediction_record(p, classes) for p in rows]
    kinds = {"probability": arrow.float64(), "malignant": arrow.bool_(), "refer": arrow.bool_()}
    kinds |= {f"p_{name}": arrow.float64() for name in classes}
    schema = arrow.schema([(n, kinds.get(n, arrow.string())) for n in _columns(rows, classes)])
    values = [{name: _encodable(value) for name, value in one.items()} for one in records]
    buffer = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(values, schema=schema), buffer)
    return buffer.getvalue()


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value
