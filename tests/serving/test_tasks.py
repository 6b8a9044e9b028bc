"""Work in the background goes on, whatever error ends it, and the server says that it has ended."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bcd.serving import app as app_module
from bcd.serving.intake.watch import Watcher
from bcd.serving.tasks import Tasks
from tests.serving.running import running


@pytest.mark.parametrize("error", [OSError(28, "full"), asyncio.CancelledError()])
def test_work_that_ends_is_started_again(error: BaseException) -> None:
    begun: list[list[str]] = []

    async def work(tasks: Tasks) -> None:
        begun.append(tasks.down("work"))
        if len(begun) < 3:
            raise error
        await asyncio.sleep(60)

    async def look() -> None:
        tasks = Tasks(pause=0.01, fine=0.05)
        tasks.start("work", partial(work, tasks))
        tasks.start("nothing to do", partial(asyncio.sleep, 0))
        while len(begun) < 3 or tasks.down():
            await asyncio.sleep(0.01)
        await tasks.stop()

    asyncio.run(asyncio.wait_for(look(), 30))
    assert begun == [[], ["work"], ["work"]]


def test_a_server_whose_work_has_failed_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: Any) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(app_module, "work", fails)
    monkeypatch.setattr(Watcher, "run", fails)
    (tmp_path / "scans").mkdir()
    with running(tmp_path / "records", f"watch={tmp_path / 'scans'}") as served:
        given = served.client.get("/readyz")
        assert given.status_code == 503
        assert given.json()["detail"].endswith("is started again: jobs, watch.")
        assert 'bcd_intake_ready{source="watch"} 0.0' in served.client.get("/metrics").text
