"""A damaged manifest of a folder of predictions is one line that says so."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from bcd.errors import BcdError
from tests.helpers.parts import COUNT, PART_ROWS, manifest, run, stop_after, written


@pytest.mark.parametrize("finished", [False, True])
def test_a_damaged_manifest_is_one_line(
    finished: bool, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        stop_after(patched, COUNT if finished else PART_ROWS + 2)
        with contextlib.suppress(KeyboardInterrupt):
            run(place, out)
    file, whole = out / "manifest.json", manifest(out)
    assert whole["finished"] is finished
    first, count = whole["parts"][0], {**whole["tally"]}
    changes: list[dict[str, Any]] = [{key: None} for key in whole]
    changes += [
        {"tally": {}},
        {"finished": "no"},
        {"runs": [1]},
        {"runs": {}},
        {"format": "1"},
        {"bcd": 1},
    ]
    changes += [{"tally": count | {"first_failed": [[1]]}}, {"tally": count | {"referred": "0"}}]
    changes += [{"tally": count | {"could_not_be_read": COUNT}}]
    for part in ({"rows": "2"}, {"rows": True}, {"file": None}, {"file": "../x"}, {"x": 1}):
        changes.append({"parts": [first | part, *whole["parts"][1:]]})
    texts = [json.dumps(whole | change) for change in changes]
    for text in [*texts, "[" * 100_000, "[]", "null", '{"format": 1}', json.dumps(whole)[:-1]]:
        file.write_text(text)
        with pytest.raises(BcdError) as caught:
            run(place, out)
        assert str(caught.value) == (
            f"output={out}: manifest.json cannot be read: choose another folder"
        ), text[:200]
    file.write_text(json.dumps(whole))
    run(place, out)
    assert len(written(out)) == COUNT
