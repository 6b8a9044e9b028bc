"""Every number of the configuration of `bcd serve` has bounds."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from operator import attrgetter
from typing import Any

import pytest

from bcd.config.serve import BOUNDS, ServeConfig
from bcd.errors import ConfigError
from tests.serving.making import serve_config


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> ServeConfig:
    return serve_config(tmp_path_factory.mktemp("serve"))


def changed(cfg: Any, key: str, value: float) -> Any:
    first, _, rest = key.partition(".")
    return replace(cfg, **{first: changed(getattr(cfg, first), rest, value) if rest else value})


def test_every_number_has_bounds(cfg: ServeConfig) -> None:
    numbers = set()
    for field in fields(cfg):
        value = getattr(cfg, field.name)
        inner = vars(value) if is_dataclass(value) else {"": value}
        for name, one in inner.items():
            key = f"{field.name}.{name}".rstrip(".")
            absent = one is None and key in BOUNDS
            if absent or (isinstance(one, (int, float)) and not isinstance(one, bool)):
                numbers.add(key)
    assert numbers == set(BOUNDS)


@pytest.mark.parametrize("key", BOUNDS)
def test_what_is_beyond_the_bounds_is_refused(cfg: ServeConfig, key: str) -> None:
    low, high = BOUNDS[key]
    for value in (low, high):
        try:
            assert attrgetter(key)(changed(cfg, key, value)) == value
        except ConfigError as error:
            assert "must be at least" in str(error)  # what another size needs
    for value in (math.nextafter(low, -math.inf), math.nextafter(high, math.inf), math.nan):
        with pytest.raises(ConfigError) as caught:
            changed(cfg, key, value)
        assert str(caught.value) == f"{key}={value}: must be between {low} and {high}"
