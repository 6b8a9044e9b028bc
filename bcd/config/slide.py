"""Schema of `bcd slide`; fast to import."""

from __future__ import annotations

from dataclasses import dataclass

from bcd.config.values import at_least, within
from bcd.errors import ConfigError


@dataclass
class SlideConfig:
    """The configuration of `bcd slide`."""

    ckpt: str | None
    model: str | None
    verify: str | None
    input: str
    mpp: float | None
    slide_mpp: float | None
    overlap: float
    min_tissue: float
    limit: int | None
    uncalibrated: bool
    device: str
    batch_size: int
    num_workers: int | None
    run_dir: str

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        if (self.ckpt is None) == (self.model is None):
            raise ConfigError("give ckpt=<checkpoint or run> or model=<exported file>, one of both")
        if self.model is None and self.verify is not None:
            raise ConfigError(f"verify={self.verify}: needs model=<signed file>")
        for key in ("mpp", "slide_mpp"):
            if (value := getattr(self, key)) is not None:
                within(key, value, 0.01, 100)
        if self.slide_mpp is not None and self.mpp is None:
            raise ConfigError(
                f"slide_mpp={self.slide_mpp}: has no effect without mpp=<micrometres per pixel of "
                "the training images>"
            )
        within("overlap", self.overlap, 0, 0.9)
        within("min_tissue", self.min_tissue, 0, 1)
        at_least("batch_size", self.batch_size, 1)
        if self.num_workers is not None:
            at_least("num_workers", self.num_workers, 1)
        if self.limit is not None:
            at_least("limit", self.limit, 1)
