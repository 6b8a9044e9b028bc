"""Keys of `bcd predict` about DICOM; fast to import."""

from __future__ import annotations

from dataclasses import dataclass

from bcd.config.values import one_of
from bcd.errors import ConfigError

OBJECTS = ("report", "parametric", "segmentation", "capture")


@dataclass
class PredictDicomConfig:
    """What is kept of DICOM files, and objects that are written; without an output, none."""

    keep: list[str]
    output: str | None
    objects: list[str]

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        for one in self.objects:
            one_of("dicom.objects", one, OBJECTS)
        if not self.objects:
            raise ConfigError(f"dicom.objects=[]: give some of {', '.join(OBJECTS)}")
