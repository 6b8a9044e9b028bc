"""Schemas of the commands other than `train`; fast to import.

Fields have no defaults: those are in `conf/` alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from bcd.config.batch import BatchConfig
from bcd.config.dicom import PredictDicomConfig
from bcd.config.schema import (
    CORRUPTION_SUITES,
    ENGINES,
    DataConfig,
    FeaturesConfig,
    ModelConfig,
    SplitConfig,
)
from bcd.config.values import at_least, one_of, within
from bcd.errors import ConfigError

EXPLANATIONS = ("gradcam", "integrated_gradients", "occlusion")
SITE_COLOURS = ("none", "white_point", "reinhard", "macenko")
SUBSETS = ("train", "val", "test", "all")


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
class CompareDataConfig:
    """The images to evaluate on; without a root, those of the training run."""

    root: str | None
    variant: str | None
    batch_size: int | None
    num_workers: int | None


_MAP = "give '{name: class}', one class for all, or null"
# The class of the model, benign, malignant or None (left out) by the site's name; or one for all.
ClassNames = dict[str, str | None] | str


@dataclass
class EvalDataConfig(CompareDataConfig):
    """The same for `bcd eval`, whose images may have other classes than the model."""

    map: ClassNames | None = field(metadata={"needs": _MAP})
    group_pattern: str | None

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        if self.map is not None:
            self.map = _class_names("data.map", self.map)


@dataclass
class SiteConfig:
    """One of several sites to evaluate on, as given in `sites`."""

    root: str
    map: ClassNames | None
    group_pattern: str | None


def _class_names(key: str, given: Any) -> ClassNames:
    """Class by name; YAML may have read a name as a number."""
    if isinstance(given, str):
        return given
    if not isinstance(given, dict) or not all(isinstance(v, str | None) for v in given.values()):
        raise ConfigError(f"{key}={given}: {_MAP}")
    return {str(name): value for name, value in given.items()}


def _site(name: str, given: Any) -> SiteConfig:
    key = f"sites.{name}"
    if not name or name in SUBSETS:
        raise ConfigError(f"{key}: give the site another name than {', '.join(SUBSETS)}")
    if isinstance(given, SiteConfig):
        return given
    values = given if isinstance(given, dict) else {"root": given}
    known = {field.name: field.type for field in fields(SiteConfig)}
    for inner in values:
        if inner not in known:
            from bcd.config.check import nearest

            raise ConfigError(f"{key}.{inner}: unknown key{nearest(str(inner), known)}")
    root, names, pattern = (values.get(field) for field in known)
    if not isinstance(root, str):
        raise ConfigError(f"{key}.root is missing: give {key}.root=<images of the site>")
    if not isinstance(pattern, str | None):
        raise ConfigError(f"{key}.group_pattern={pattern}: needs text or null")
    return SiteConfig(root, None if names is None else _class_names(f"{key}.map", names), pattern)


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
class CellsConfig:
    """The configuration of `bcd cells`."""

    input: str | list[str]
    limit: int | None
    masks: bool
    sheet: bool | int
    run_dir: str

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        at_least("sheet", int(self.sheet), 0)
        if self.limit is not None:
            at_least("limit", self.limit, 1)

    @property
    def shown(self) -> int:
        """Number of images on the sheet."""
        return 24 * self.sheet if isinstance(self.sheet, bool) else self.sheet


@dataclass
class EvalConfig:
    """The configuration of `bcd eval`."""

    ckpt: str
    subset: str | None
    sites: dict[str, Any] | None
    record: bool
    recalibrate: str | None
    min_sensitivity: float
    corruptions: str | None
    uncalibrated: bool
    device: str
    run_dir: str
    data: EvalDataConfig
    features: EvalFeaturesConfig
    site: SiteMatchConfig

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        within("min_sensitivity", self.min_sensitivity, 0.5, 0.999)
        if self.sites is not None:
            self.sites = {str(name): _site(str(name), given) for name, given in self.sites.items()}
        self._check_combinations()
        if self.data.batch_size is not None:
            at_least("data.batch_size", self.data.batch_size, 1)
        if self.features.engine is not None:
            one_of("features.engine", self.features.engine, ENGINES)
        if self.subset is not None:
            one_of("subset", self.subset, SUBSETS)
        if self.corruptions is not None:
            one_of("corruptions", self.corruptions, CORRUPTION_SUITES)

    def _check_combinations(self) -> None:
        if self.sites and self.data.map is not None:
            raise ConfigError("data.map: with sites, give each site's map as sites.<name>.map")
        if self.sites and self.subset is not None:
            raise ConfigError(f"subset={self.subset}: with sites, all images of each are evaluated")
        several = [name for name in ("sites", "corruptions") if getattr(self, name)]
        if several and self.recalibrate is not None:
            raise ConfigError(f"{several[0]}: cannot be combined with recalibrate")
        if self.uncalibrated and (self.record or self.recalibrate is not None):
            raise ConfigError("uncalibrated=true: cannot be combined with record or recalibrate")
        if self.site.profile is not None:
            if self.sites or self.data.root is None:
                raise ConfigError(
                    "site.profile: belongs to the images of one site: give data.root=<its images>"
                )
            if self.record or self.recalibrate is not None:
                raise ConfigError(
                    "site.profile: cannot be combined with record or recalibrate, which keep no "
                    "profile"
                )
        if self.record and self.recalibrate is not None:
            raise ConfigError(
                "record=true: cannot be combined with recalibrate; evaluate the new checkpoint"
            )


@dataclass
class CompareConfig:
    """The configuration of `bcd compare`."""

    ckpts: list[str]
    subset: str | None
    uncalibrated: bool
    device: str
    run_dir: str
    data: CompareDataConfig
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
            sites=None,
            record=False,
            recalibrate=None,
            min_sensitivity=0.5,
            corruptions=None,
            uncalibrated=self.uncalibrated,
            device=self.device,
            run_dir=self.run_dir,
            data=EvalDataConfig(**vars(self.data), map=None, group_pattern=None),
            features=self.features,
            site=SiteMatchConfig(profile=None, scale=True, colour="none"),
        )


@dataclass
class PredictConfig(BatchConfig):
    """The configuration of `bcd predict`."""

    ckpt: str | None
    model: str | None
    verify: str | None
    explain: bool | str
    uncalibrated: bool
    device: str
    batch_size: int
    num_workers: int | None
    run_dir: str
    site: SiteMatchConfig
    dicom: PredictDicomConfig

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        if (self.ckpt is None) == (self.model is None):
            raise ConfigError("give ckpt=<checkpoint or run> or model=<exported file>, one of both")
        if self.model is None and self.verify is not None:
            raise ConfigError(f"verify={self.verify}: needs model=<signed file>")
        if self.model is not None and self.explain:
            raise ConfigError(f"explain={self.explain}: needs the model's checkpoint, as ckpt=")
        super().__post_init__()
        if isinstance(self.explain, str):
            one_of("explain", self.explain, EXPLANATIONS)
        at_least("batch_size", self.batch_size, 1)
