"""The engine's reading processes: one that ends or hangs does not stop the others."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import Any

import pytest

from bcd.data import sandbox
from bcd.data.items import Fault, Item
from bcd.serving.engine import queue
from bcd.serving.engine.queue import Engine
from bcd.serving.errors import TimedOutError, UnprocessableError
from tests.serving.engine.asking import Make, until
from tests.serving.making import StubModel, smear


def test_a_reader_that_ends_is_started_again(engine: Engine) -> None:
    asyncio.run(engine.answer([smear(0), smear(1)]))
    for reader in engine._readers._readers:
        if reader._process is not None:
            reader._process.kill()
    answers = asyncio.run(engine.answer([smear(i) for i in range(4)]))
    assert [a.error for a in answers] == [""] * 4


def test_a_reader_that_hangs_costs_one_answer(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "core_count", lambda: 2)
    engine = make(StubModel(), seconds=3)

    async def ask() -> None:
        await engine.answer([smear(0), smear(1)])
        first, _ = [reader._process for reader in engine._readers._readers]
        assert first is not None
        first.send_signal(signal.SIGSTOP)
        answers = await engine.answer([smear(i) for i in range(4)])
        assert sorted(a.error for a in answers) == [""] * 3 + [
            "cannot be decoded (takes longer than 1.5 s)"
        ]
        assert [a.error for a in answers if isinstance(a.error, Fault)]  # it was not the image
        assert first.wait(5) == -signal.SIGKILL

    asyncio.run(ask())


def test_that_nothing_can_be_read_is_noticed_by_whatever_is_read(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> Any:
        raise OSError("no process")

    engine = make(StubModel())
    with monkeypatch.context() as patch:
        patch.setattr(sandbox._Reader, "_begin", fail)

        async def read() -> None:
            for _ in range(3):
                with pytest.raises(UnprocessableError, match="crashed") as raised:
                    await engine.thumbnail(smear(0), 16)
                assert isinstance(raised.value.detail, Fault)
            await until(engine.ready)

        asyncio.run(read())


def test_the_server_is_ready_while_one_reader_is_free(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "core_count", lambda: 2)
    go = threading.Event()

    def read(_: Any, item: Item) -> str:
        assert item.data == b"read" or go.wait(20)
        return "no image"

    monkeypatch.setattr(sandbox._Reader, "read", read)
    engine = make(StubModel(), seconds=0.3)

    async def hang() -> None:
        with pytest.raises(TimedOutError):
            await engine.answer([b"hangs"])
        await asyncio.sleep(0.1)

    async def ask() -> None:
        await hang()
        assert engine.ready() == ""
        assert (await engine.answer([b"read"]))[0].error == "no image"
        await hang()
        assert "no image has been answered for" in engine.ready()
        go.set()
        await until(lambda: not engine.ready())

    asyncio.run(ask())
