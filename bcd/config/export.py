"""Schema of `bcd export`; fast to import."""

from __future__ import annotations

from dataclasses import dataclass

from bcd.config.values import at_least, one_of, within
from bcd.errors import ConfigError

FORMATS = ("onnx", "program")
PRECISIONS = ("float32", "float16", "int8")


@dataclass
class ExportDataConfig:
    """The run's images, for float16 and int8; without a root, where the run had them."""

    root: str | None
    num_workers: int | None


@dataclass
class ExportConfig:
    """The configuration of `bcd export`."""

    ckpt: str
    format: str
    precision: str
    output: str | None
    max_loss: float
    calibration_images: int
    sign: str | None
    data: ExportDataConfig

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        one_of("format", self.format, FORMATS)
        one_of("precision", self.precision, PRECISIONS)
        within("max_loss", self.max_loss, 0, 100)
        at_least("calibration_images", self.calibration_images, 8)
        if self.format == "program" and self.precision != "float32":
            raise ConfigError(f"precision={self.precision}: needs format=onnx")
        if self.format == "program" and self.sign is not None:
            raise ConfigError("sign: needs format=onnx, whose signature bcd predict can verify")

    @property
    def suffix(self) -> str:
        """Of the file's name."""
        return {"onnx": ".onnx", "program": ".pt2"}[self.format]
