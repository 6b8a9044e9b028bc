"""Keys of `bcd predict` for many images; fast to import."""

from __future__ import annotations

from dataclasses import dataclass

from bcd.config.values import at_least, one_of

FORMATS = ("csv", "json", "parquet")
ENGINES = ("local", "ray")


@dataclass
class BatchConfig:
    """What is read, written and shared out; part of `PredictConfig`."""

    input: str | list[str]
    input_column: str
    format: str
    output: str | None
    part_rows: int
    limit: int | None
    shard: str | int | None  # no number is right; `find_shard` says what is
    engine: str
    workers: int | None

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        one_of("format", self.format, FORMATS)
        one_of("engine", self.engine, ENGINES)
        at_least("part_rows", self.part_rows, 1)
        for key in ("limit", "workers"):
            value = getattr(self, key)
            if value is not None:
                at_least(key, value, 1)
