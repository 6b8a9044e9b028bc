"""Whose image is read next."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextvars import copy_context

import numpy as np
import pytest

from bcd.data import sandbox
from bcd.data.items import Answer, Item
from bcd.serving.engine.turns import BEYOND, INTAKE, JOBS, Turns, asker
from bcd.serving.errors import BusyError
from tests.serving.engine.asking import Make
from tests.serving.making import StubModel, smear
from tests.serving.running import Running

PROCESSES = 2


class Reading:
    """Reads when it is told to."""

    def __init__(self) -> None:
        self.given: list[tuple[str, Future[Answer]]] = []

    def submit(self, item: Item) -> Future[Answer]:
        self.given.append((item.name, Future()))
        return self.given[-1][1]

    def read(self, number: int) -> None:
        self.given[number][1].set_result(np.zeros(number, np.uint8))


def _submit(turns: Turns, user: str, *names: str) -> list[Future[Answer]]:
    def submit() -> list[Future[Answer]]:
        asker.set(user)
        return [turns.submit(Item(name, data=b"")) for name in names]

    return copy_context().run(submit)


def test_users_take_turns() -> None:
    reading = Reading()
    turns = Turns(reading, PROCESSES)
    answers = _submit(turns, "ada", *"abcdefg") + _submit(turns, "eve", *"xy")
    assert [name for name, _ in reading.given] == ["a", "b"]  # what the processes take
    for number in range(len(answers)):
        reading.read(number)
    assert [name for name, _ in reading.given] == list("abcxdyefg")
    sizes = [len(answer.result(0)) for answer in answers]
    assert sizes == ["abcxdyefg".index(name) for name in "abcdefgxy"]


def test_what_is_cancelled_is_not_read_and_makes_room() -> None:
    reading = Reading()
    turns = Turns(reading, PROCESSES)
    answers = _submit(turns, "ada", *"abcd")
    assert not answers[0].cancel() and answers[2].cancel()
    assert len(turns._waiting["ada"]) == 1
    reading.given[0][1].cancel()
    with pytest.raises(InterruptedError):
        answers[0].result(0)
    reading.given[1][1].set_exception(OSError())
    with pytest.raises(OSError):
        answers[1].result(0)
    assert [name for name, _ in reading.given] == list("abd")
    _submit(turns, "ada", "e")
    (waiting,) = _submit(turns, "ada", "f")
    turns.close()
    assert waiting.cancelled() and not turns._waiting


def test_a_full_queue_has_a_place_for_scanners_and_one_for_what_waits(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox._Reader, "read", lambda *_: "no image")
    engine = make(StubModel(), queue=2)
    engine._room.take(2, 1)  # requests

    async def ask(who: str) -> bool:
        asker.set(who)
        try:
            return bool(await engine.answer([b"an image"]))
        except BusyError:
            return False

    assert [asyncio.run(ask(who)) for who in ("ada", INTAKE, JOBS)] == [False, True, True]
    engine._room.take(1, 1, BEYOND[INTAKE])  # a scanner's, which is being read
    assert [asyncio.run(ask(who)) for who in ("ada", INTAKE, JOBS)] == [False, False, True]
    engine._room.give(3)


def test_the_turn_is_that_of_the_user_who_asks(
    served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    submit = Turns.submit

    def noting(turns: Turns, item: Item) -> Future[Answer]:
        seen.append(asker.get())
        return submit(turns, item)

    monkeypatch.setattr(Turns, "submit", noting)
    png = {"Content-Type": "image/png"}
    for user in ("submit", "all"):
        got = served.users[user].post("/v1/predict", content=smear(), headers=png)
        assert got.status_code == 200
    assert seen == ["submit", "all"]
