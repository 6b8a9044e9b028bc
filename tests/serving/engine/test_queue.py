"""The engine's queue: order, room, time-outs, failures and the stop."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bcd.data.input_views import views_to_read
from bcd.data.items import Item, Wanted
from bcd.evaluation.decision import OOD, Decisions
from bcd.evaluation.predictions import NOT_FINITE, UNREADABLE
from bcd.serving.engine import health
from bcd.serving.engine.making import NO_ANSWER
from bcd.serving.engine.queue import Engine
from bcd.serving.errors import BusyError, TimedOutError, TooLargeError, UnavailableError
from tests.serving.engine.asking import Make, until
from tests.serving.making import IDENTITY, StubModel, no_smear, smear


class Stub(StubModel):
    """Waits until it may answer, and fails if it is told to."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.may.set()
        self.fails: Callable[[NDArray[np.uint8]], bool] = lambda _: False
        self.calls: list[int] = []
        self.begun = 0  # images

    def answer(self, packed: NDArray[np.uint8]) -> Decisions:
        self.begun += len(packed)
        self.may.wait(20)
        self.calls.append(len(packed))
        if self.fails(packed):
            raise RuntimeError("of the model")
        return super().answer(packed)


def test_answers_are_those_of_the_model_in_order(engine: Engine) -> None:
    images = [smear(0), no_smear(), b"no image", smear(1, form="JPEG"), smear(2, size=200)]
    answers = asyncio.run(engine.answer(images))
    assert [a.sha256 for a in answers] == [hashlib.sha256(i).hexdigest() for i in images]
    facts = StubModel.facts
    wanted = Wanted(views_to_read(facts.input_views), facts.mask_scale_bar)
    for data, answer in zip(images, answers, strict=True):
        packed = wanted.read(Item("", data=data))
        if isinstance(packed, str):
            assert (answer.error, answer.reasons, answer.refer) == (packed, (UNREADABLE,), True)
            assert (answer.probabilities, answer.predicted, answer.malignant) == ((), None, None)
            continue
        own = StubModel().answer(packed[None])
        assert answer.probabilities == pytest.approx(own.probabilities[0], abs=1e-12)
        assert answer.predicted == IDENTITY.classes[int(own.probabilities[0].argmax())]
        assert (answer.malignant, answer.reasons) == (own.malignant[0], own.reasons[0])
        inside = [name for name, yes in zip(IDENTITY.classes, own.sets[0], strict=True) if yes]
        assert answer.prediction_set == tuple(inside)
        assert (answer.refer, answer.ood_score) == (bool(own.reasons[0]), own.ood_scores[0])
        assert answer.error == "" and answer.milliseconds > 0
    assert OOD in answers[1].reasons
    assert engine.waiting == 0


def test_uploads_are_not_decoded_in_this_process(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("decoded here")

    monkeypatch.setattr(Image, "open", refuse)
    assert asyncio.run(engine.answer([smear(3)]))[0].error == ""
    assert asyncio.run(engine.thumbnail(smear(3), 40))


def test_a_request_without_room_is_refused_whole(make: Make) -> None:
    model = Stub()
    engine = make(model, queue=3)

    async def ask() -> None:
        model.may.clear()
        first = asyncio.create_task(engine.answer([smear(0), smear(1)]))
        await until(lambda: engine.waiting == 2)
        with pytest.raises(BusyError) as busy:
            await engine.answer([smear(2), smear(3)])
        assert busy.value.retry_after is not None and busy.value.retry_after >= 1
        with pytest.raises(TooLargeError, match="4 images at once: send at most 3"):
            await engine.answer([smear(2)] * 4)
        assert engine.waiting == 2
        last = asyncio.create_task(engine.answer([smear(2)]))  # there is room for one
        model.may.set()
        assert [a.error for a in await first + await last] == [""] * 3

    asyncio.run(ask())
    assert engine.waiting == 0


def test_what_is_late_or_no_longer_wanted_keeps_its_room_until_it_ends(make: Make) -> None:
    model = Stub()
    engine = make(model, seconds=0.3)

    async def ask() -> None:
        model.may.clear()
        with pytest.raises(TimedOutError, match=r"no answer within 0\.3 s"):
            await engine.answer([smear(i) for i in range(5)])
        assert 0 < engine.waiting <= 5
        gone = asyncio.create_task(engine.answer([smear(0)]))
        await asyncio.sleep(0.05)
        gone.cancel()  # as when a client closes its connection
        model.may.set()
        await until(lambda: engine.waiting == 0)
        assert sum(model.calls) <= 3  # threads had one each; the rest was dropped
        assert (await engine.answer([smear(0)]))[0].error == ""

    asyncio.run(ask())


def test_an_image_on_which_the_model_fails_costs_one_answer(make: Make) -> None:
    model = Stub()
    model.fails = lambda packed: bool((packed.reshape(len(packed), -1).mean(1) < 90).any())
    engine = make(model, batch=4)

    async def ask() -> None:
        model.may.clear()
        task = asyncio.create_task(engine.answer([*map(smear, range(4)), no_smear(), smear(5)]))
        queue = engine._answering._deciders._queue
        await until(lambda: queue.qsize() + model.begun == 6)  # all are read
        model.may.set()
        answers = await task
        assert [bool(a.error) for a in answers] == [False] * 4 + [True, False]
        assert answers[4].reasons == (NO_ANSWER,) and answers[4].refer
        assert "RuntimeError" not in answers[4].error

    asyncio.run(ask())
    assert max(model.calls) > 1
    assert engine.ready() == ""


def test_an_output_that_is_no_number_is_no_answer(make: Make) -> None:
    class Lost(StubModel):
        def answer(self, packed: NDArray[np.uint8]) -> Decisions:
            found = super().answer(packed)
            lost = np.full_like(found.probabilities, np.nan)
            return replace(found, probabilities=lost, malignant=[None], reasons=[(NOT_FINITE,)])

    (answer,) = asyncio.run(make(Lost()).answer([smear(0)]))
    assert (answer.probabilities, answer.predicted, answer.ood_score) == ((), None, None)
    assert (answer.prediction_set, answer.malignant) == ((), None)
    assert answer.refer and answer.reasons == (NOT_FINITE,) and answer.error


def test_decisions_of_a_wrong_shape_cost_one_answer(make: Make) -> None:
    class Odd(StubModel):
        def answer(self, packed: NDArray[np.uint8]) -> Decisions:
            found = super().answer(packed)
            return replace(found, sets=found.sets[:, :2])

    engine = make(Odd())
    for _ in range(2):  # the threads are still there
        (answer,) = asyncio.run(engine.answer([smear(0)]))
        assert answer.reasons == (NO_ANSWER,) and answer.probabilities == ()
    assert engine.waiting == 0


def test_a_model_that_fails_always_is_not_ready_until_it_answers(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "AGAIN_SECONDS", 0.0)
    model = Stub()
    model.fails = lambda _: True
    engine = make(model)

    async def ask() -> None:
        for number in range(3):
            assert engine.ready() == ""
            assert (await engine.answer([smear(number)]))[0].error
        await until(engine.ready)
        assert "the model failed" in engine.ready()
        with pytest.raises(UnavailableError, match="no image can be answered"):
            await engine.answer([smear(0)])
        model.fails = lambda _: False
        await until(lambda: not engine.ready())
        assert (await engine.answer([smear(0)]))[0].error == ""

    asyncio.run(ask())


def test_a_model_that_hangs_is_not_ready(make: Make) -> None:
    model = Stub()
    engine = make(model, seconds=1)

    async def ask() -> None:
        model.may.clear()
        while not engine.ready():  # on a busy machine not the first image reaches the model
            with pytest.raises((TimedOutError, UnavailableError)):
                await engine.answer([smear(0)])
        with pytest.raises(UnavailableError, match="no image has been answered for"):
            await engine.answer([smear(1)])
        model.may.set()
        await until(lambda: not engine.ready())
        assert (await engine.answer([smear(1)]))[0].error == ""

    asyncio.run(ask())


def test_a_stop_answers_what_was_accepted(make: Make) -> None:
    model = Stub()
    engine = make(model)

    async def ask() -> None:
        model.may.clear()
        task = asyncio.create_task(engine.answer([smear(i) for i in range(4)]))
        await until(lambda: engine.waiting == 4)
        stop = asyncio.create_task(engine.close())
        await until(engine.ready)
        with pytest.raises(UnavailableError, match="stopping"):
            await engine.answer([smear(0)])
        model.may.set()
        assert [a.error for a in await task] == [""] * 4
        await stop

    asyncio.run(ask())


def test_a_stop_does_not_wait_for_a_model_that_hangs(make: Make) -> None:
    model = Stub()
    engine = make(model, stop_seconds=0.2)

    async def ask() -> None:
        model.may.clear()
        task = asyncio.create_task(engine.answer([smear(i) for i in range(8)]))
        await until(lambda: engine.waiting == 8)
        begun = time.monotonic()
        await engine.close()
        assert time.monotonic() - begun < 10
        with pytest.raises(UnavailableError, match="stopping"):
            await asyncio.wait_for(task, 5)  # without an answer of the model
        model.may.set()

    asyncio.run(ask())
