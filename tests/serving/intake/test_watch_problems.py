"""What keeps files of a watch folder from being taken or answered, and that others go on.

The watcher has a clock of its own, in which `scanner.stable_seconds` is 2.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bcd.serving.intake import files
from tests.serving.intake.following import Following, answered, files_in
from tests.serving.making import smear
from tests.serving.records.making import OTHER_MODEL
from tests.serving.running import Running


def test_files_that_wait_for_another_model_keep_no_others_out(
    app: Running, folder: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = app.app.state.services
    monkeypatch.setattr(services.cfg.limits, "queue", 2)

    class Former:
        """The engine of a server with another model, which is stopped before it answers."""

        identity = OTHER_MODEL

        def __getattr__(self, name: str) -> Any:
            return getattr(services.engine, name)

    engine: Any = Former()
    former = Following(replace(services, engine=engine), folder.folder)
    for number in (60, 61):
        folder.put(f"former/{number}.png", smear(number))
    former.until(lambda: former.watcher._given() == 2)
    folder.put("former/62.png", smear(62))
    folder.until_moved("done/former/62.png")
    assert folder.watcher.elsewhere == 2
    assert len(answered(app.services, "former (2)")) == 1
    assert files_in(folder.folder / "former") == {"60.png", "61.png"}


def test_errors_that_pass_are_waited_for_and_name_no_file(
    app: Running, folder: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(root: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, "full", str(root / "Jane Doe"))

    folder.put("Jane Doe/1.png", smear(50))
    with monkeypatch.context() as patch:
        patch.setattr(files, "move", full)
        problems: set[str] = set()
        folder.until(lambda: problems.add(folder.step()) or "ENOSPC" in problems)  # type: ignore[func-returns-value]
        assert folder.watcher.hindered == 1
    assert problems <= {"", "ENOSPC"}
    assert len(answered(app.services, "Jane Doe")) == 1
    folder.until_moved("done/Jane Doe/1.png")
    assert len(answered(app.services, "Jane Doe")) == 1
    gone = folder.folder.rename(folder.folder.with_name(f"{folder.folder.name} gone"))
    with pytest.raises(FileNotFoundError):
        folder.step()
    gone.rename(folder.folder)
    assert (folder.step(), folder.watcher.hindered) == ("", 0)
