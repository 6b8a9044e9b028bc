"""Checks of single configuration values; each raises a `ConfigError` of one line."""

from __future__ import annotations

from bcd.errors import ConfigError


def one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuses a value that is not one of the choices, and names the nearest."""
    if value not in choices:
        from bcd.config.check import nearest

        raise ConfigError(f"{key}={value}: choose {' or '.join(choices)}{nearest(value, choices)}")


def within(key: str, value: float, low: float, high: float) -> None:
    """Refuses a value below `low` or above `high`."""
    if not low <= value <= high:
        raise ConfigError(f"{key}={value}: must be between {low} and {high}")


def at_least(key: str, value: int, low: int) -> None:
    """Refuses a value below `low`."""
    if value < low:
        raise ConfigError(f"{key}={value}: must be {low} or more")
