"""Schemas of what the commands other than `train` read; light to import."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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


@dataclass
class AuditConfig:
    """All that `bcd audit` reads."""

    network: bool = True
    strict: bool = False
    device: str = "auto"
    run_dir: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)


@dataclass
class EvalDataConfig:
    """Images to evaluate on; without a root those of the training run."""

    root: str | None = None
    variant: str | None = None
    batch_size: int | None = None
    num_workers: int | None = None


@dataclass
class EvalFeaturesConfig:
    """As `FeaturesConfig`; None means as trained."""

    bank: bool | None = None
    engine: str | None = None


@dataclass
class EvalConfig:
    """All that `eval.py` reads."""

    ckpt: str = ""
    subset: str | None = None
    corruptions: str | None = None
    uncalibrated: bool = False
    device: str = "auto"
    run_dir: str = ""
    data: EvalDataConfig = field(default_factory=EvalDataConfig)
    features: EvalFeaturesConfig = field(default_factory=EvalFeaturesConfig)

    def __post_init__(self) -> None:
        """Checks what types cannot say."""
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
    """All that `bcd compare` reads."""

    ckpts: list[str] = field(default_factory=list)
    subset: str | None = None
    uncalibrated: bool = False
    device: str = "auto"
    run_dir: str = ""
    data: EvalDataConfig = field(default_factory=EvalDataConfig)
    features: EvalFeaturesConfig = field(default_factory=EvalFeaturesConfig)

    def __post_init__(self) -> None:
        """Checks what types cannot say."""
        if len(self.ckpts) != 2:
            raise ConfigError(f"ckpts={self.ckpts}: wants two, as in 'ckpts=[a,b]'")
        if self.subset is not None:
            one_of("subset", self.subset, ("test", "all"))
        for ckpt in self.ckpts:
            self.of(ckpt)  # checks what it has in common with eval.py

    def of(self, ckpt: str) -> EvalConfig:
        """What `eval.py` would be given to evaluate one of the checkpoints alone."""
        return EvalConfig(
            ckpt,
            self.subset,
            uncalibrated=self.uncalibrated,
            device=self.device,
            run_dir=self.run_dir,
            data=self.data,
            features=self.features,
        )


@dataclass
class PredictConfig:
    """All that `predict.py` reads."""

    ckpt: str = ""
    input: Any = None
    format: str = "csv"
    output: str | None = None
    limit: int | None = None
    uncalibrated: bool = False
    device: str = "auto"
    batch_size: int = 32
    num_workers: int | None = None
    run_dir: str = ""

    def __post_init__(self) -> None:
        """Checks what types cannot say."""
        one_of("format", self.format, ("csv", "json"))
        at_least("batch_size", self.batch_size, 1)
        if self.limit is not None:
            at_least("limit", self.limit, 1)
