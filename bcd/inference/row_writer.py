"""Writes predictions as they are made, so that a failure loses none of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from bcd.console import say
from bcd.errors import BcdError
from bcd.evaluation.predictions import Prediction, columns, prediction_cells, prediction_record
from bcd.storage import GrowingFile, csv_line


class RowWriter:
    """Rows of `predictions.csv`, or a JSON list where the file's name ends in .json.

    Rows are appended to a file beside it, which is renamed at the end. If the block raises, the
    rows so far remain in that file and its path is printed; JSON is a complete list even then.

    Args:
        file: The file to write; its folder is created.

    Raises:
        BcdError: The file cannot be written. This is checked at the start.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._json = file.suffix.lower() == ".json"
        self._classes: Sequence[str] = ()
        self._rows = 0

    def __enter__(self) -> RowWriter:
        try:
            self._growing = GrowingFile(self._file)
        except OSError as error:
            raise self._failure(error) from error
        return self

    def begin(
        self, classes: Sequence[str], explained: bool = False, kept: Sequence[str] = ()
    ) -> None:
        """Writes the header, with the names of the classes.

        Args:
            classes: Their names.
            explained: Whether rows have the path of a picture.
            kept: Keywords of the attributes that rows have.
        """
        self._classes = classes
        self._append("[" if self._json else csv_line(columns(classes, explained, kept)))

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Appends rows; they are in the file when this returns."""
        if self._json:
            records = [json.dumps(prediction_record(p, self._classes)) for p in predictions]
            text = ",\n".join(records)
            text = (",\n" if self._rows else "\n") + text if text else ""
        else:
            text = "".join(csv_line(prediction_cells(p, self._classes)) for p in predictions)
        self._append(text)
        self._rows += len(predictions)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            try:
                self._end()
                self._growing.finish()
            except OSError as failure:
                self._give_up()
                raise self._failure(failure) from failure
        else:
            self._give_up()

    def _give_up(self) -> None:
        if not self._rows:
            self._growing.discard()
            return
        with contextlib.suppress(OSError):
            self._end()
        self._growing.close()
        say(f"the first {self._rows} rows: {self._growing.part}")

    def _end(self) -> None:
        if self._json:
            self._growing.append("\n]\n")

    def _append(self, text: str) -> None:
        try:
            self._growing.append(text)
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> BcdError:
        return BcdError(
            f"output={self._file}: cannot be written ({error.strerror or error}); give another "
            "output=<file>.csv or .json"
        )
