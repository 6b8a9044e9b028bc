"""An engine of the stub model, and limits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from bcd.config.serve import LimitsConfig
from bcd.serving.engine.queue import Engine
from tests.serving.making import IDENTITY, StubModel, serve_config


@pytest.fixture(scope="package")
def limits(tmp_path_factory: pytest.TempPathFactory) -> LimitsConfig:
    return serve_config(tmp_path_factory.mktemp("serve")).limits


@pytest.fixture(scope="package")
def engine(limits: LimitsConfig) -> Iterator[Engine]:
    made = Engine(StubModel(), IDENTITY, limits)
    yield made
    asyncio.run(made.close())
