"""Schema of `bcd reference`; fast to import."""

from __future__ import annotations

from dataclasses import dataclass

from bcd.config.programs import SiteMatchConfig
from bcd.config.values import at_least, within
from bcd.errors import ConfigError


@dataclass
class ReferenceDataConfig:
    """The labelled images of a reference set."""

    root: str | None
    variant: str
    benign: str | None
    group_pattern: str | None


@dataclass
class ReferenceSiteConfig(SiteMatchConfig):
    """How images of a site are answered, as among the `sites` of `bcd serve`."""

    threshold: float | None

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        super().__post_init__()
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise ConfigError(f"site.threshold={self.threshold}: must be between 0 and 1")


@dataclass
class ChangeLimits:
    """What a new model version must not exceed.

    Attributes:
        accuracy_loss: Loss of accuracy that has to be excluded with confidence.
        sensitivity_loss: The same for the share of malignant images that are called malignant.
        referral_rise: The same for a rise of the share of referred images.
        referral_fall: The same for a fall of it.
        newly_unsafe: Number of malignant images that are newly called benign and not referred.
    """

    accuracy_loss: float
    sensitivity_loss: float
    referral_rise: float
    referral_fall: float
    newly_unsafe: int

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        for name in ("accuracy_loss", "sensitivity_loss", "referral_rise", "referral_fall"):
            within(f"limits.{name}", getattr(self, name), 0.0001, 1)
        at_least("limits.newly_unsafe", self.newly_unsafe, 0)


@dataclass
class ReferenceConfig:
    """The configuration of `bcd reference`."""

    set: str | None
    ckpt: str | None
    model: str | None
    verify: str | None
    device: str
    batch_size: int
    num_workers: int | None
    run_dir: str
    data: ReferenceDataConfig
    site: ReferenceSiteConfig
    limits: ChangeLimits

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        if (self.ckpt is None) == (self.model is None):
            raise ConfigError("give ckpt=<checkpoint or run> or model=<exported file>, one of both")
        if self.model is None and self.verify is not None:
            raise ConfigError(f"verify={self.verify}: needs model=<signed file>")
        if self.set is None and self.data.root is None:
            raise ConfigError(
                "give data.root=<labelled images> to freeze a reference set, or "
                "set=<reference.json> to re-run one"
            )
        at_least("batch_size", self.batch_size, 1)
