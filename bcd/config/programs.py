"""Schemas of the commands other than `train`; fast to import.

Fields have no defaults: those are in `conf/` alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from bcd.config.schema import (
    CORRUPTION_SUITES,
    ENGINES,
    DataConfig,
    FeaturesConfig,
    ModelConfig,
    SplitConfig,
)
from bcd.config.values import at_least, one_of
from bcd.errors import ConfigError

SITE_COLOURS = ("none", "white_point", "reinhard", "macenko")


@dataclass
class AuditConfig:
    """The configuration of `bcd audit`."""

    network: bool
    strict: bool
    device: str
    run_dir: str
    data: DataConfig
    split: SplitConfig
    model: ModelConfig
    features: FeaturesConfig


@dataclass
class EvalDataConfig:
    """The images to evaluate on; without a root, those of the training run."""

    root: str | None
    variant: str | None
    batch_size: int | None
    num_workers: int | None


@dataclass
class EvalFeaturesConfig:
    """Like `FeaturesConfig`; None means as in the training run."""

    bank: bool | None
    engine: str | None


@dataclass
class SiteMatchConfig:
    """Matches images of another site to the training images; without a profile, not at all."""

    profile: str | None
    scale: bool
    colour: str

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        one_of("site.colour", self.colour, SITE_COLOURS)
        if self.profile is None and self.colour != "none":
            raise ConfigError(f"site.colour={self.colour}: needs site.profile=<from bcd site>")


@dataclass
class SiteProfileConfig:
    """The configuration of `bcd site`."""

    root: str
    output: str | None
    limit: int
    num_workers: int | None
    run_dir: str

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        at_least("limit", self.limit, 5)


@dataclass
class EvalConfig:
    """The configuration of `bcd eval`."""

    ckpt: str
    subset: str | None
    corruptions: str | None
    uncalibrated: bool
    device: str
    run_dir: str
    data: EvalDataConfig
    features: EvalFeaturesConfig
    site: SiteMatchConfig

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        if self.data.batch_size is not None:
            at_least("data.batch_size", self.data.batch_size, 1)
        if self.features.engine is not None:
            one_of("features.engine", self.features.engine, ENGINES)
        if self.subset is not None:
            one_of("subset", self.subset, ("train", "val", "test", "all"))
        if self.corruptions is not None:
            one_of("corruptions", self.corruptions, CORRUPTION_SUITES)


@dataclass
class CompareConfig:
    """The configuration of `bcd compare`."""

    ckpts: list[str]
    subset: str | None
    uncalibrated: bool
    device: str
    run_dir: str
    data: EvalDataConfig
    features: EvalFeaturesConfig

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        if len(self.ckpts) != 2:
            raise ConfigError(f"ckpts={self.ckpts}: give two, as in 'ckpts=[a,b]'")
        if self.subset is not None:
            one_of("subset", self.subset, ("test", "all"))
        for ckpt in self.ckpts:
            self.of(ckpt)  # checks the keys shared with eval

    def of(self, ckpt: str) -> EvalConfig:
        """The configuration with which `bcd eval` evaluates one of the checkpoints."""
        return EvalConfig(
            ckpt=ckpt,
            subset=self.subset,
            corruptions=None,
            uncalibrated=self.uncalibrated,
            device=self.device,
            run_dir=self.run_dir,
            data=self.data,
            features=self.features,
            site=SiteMatchConfig(profile=None, scale=True, colour="none"),
        )


@dataclass
class PredictConfig:
    """The configuration of `bcd predict`."""

    ckpt: str
    input: str | list[str]
    format: str
    output: str | None
    limit: int | None
    uncalibrated: bool
    device: str
    batch_size: int
    num_workers: int | None
    run_dir: str
    site: SiteMatchConfig

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        one_of("format", self.format, ("csv", "json"))
        at_least("batch_size", self.batch_size, 1)
        if self.limit is not None:
            at_least("limit", self.limit, 1)
