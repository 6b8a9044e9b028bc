"""An engine of the stub model, and limits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from bcd.config.serve import LimitsConfig
from bcd.serving.engine.queue import Engine
from tests.serving.engine.asking import Make
from tests.serving.making import IDENTITY, StubModel, serve_config


@pytest.fixture(scope="package")
def limits(tmp_path_factory: pytest.TempPathFactory) -> LimitsConfig:
    return serve_config(tmp_path_factory.mktemp("serve")).limits


@pytest.fixture(scope="package")
def engine(limits: LimitsConfig) -> Iterator[Engine]:
    made = Engine(StubModel(), IDENTITY, limits)
    yield made
    asyncio.run(made.close())


@pytest.fixture
def make(limits: LimitsConfig) -> Iterator[Make]:
    """Makes engines that are closed after the test."""
    made: list[tuple[Engine, StubModel]] = []

    def one(model: StubModel, batch: int | None = None, **changed: Any) -> Engine:
        made.append((Engine(model, IDENTITY, replace(limits, **changed), batch), model))
        return made[-1][0]

    yield one
    for engine, model in made:
        if may := getattr(model, "may", None):
            may.set()  # it answers
        asyncio.run(engine.close())
