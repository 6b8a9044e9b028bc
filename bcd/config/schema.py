"""Schemas of the project's own configuration groups.

Light to import: this module is read before torch is, and `--help` must answer at once.
`bcd.config.check` checks a composed configuration against these schemas and instantiates the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from bcd.config.values import at_least, one_of, within
from bcd.errors import ConfigError

# A batch of 16 images of this side takes some 10 GB in the first layers of a network.
MOST_SIDE = 2048


@dataclass
class GenerateConfig:
    """Images to draw: how many, on how many simulated slides, pixels a side, and the seed."""

    count: int = 800
    slides: int = 8
    size: int = 224
    seed: int = 0


BENIGN = "Benign"  # the class of the published sets that is not cancer


@dataclass
class DataConfig:
    """Which images, and how they are fed."""

    root: str = "data/blood-cells-all"
    download: bool | None = None
    variant: str = "original"
    benign: str | None = BENIGN
    group_pattern: str | None = None
    min_size: int = 32
    drop_duplicates: bool = False
    mask_scale_bar: bool = False
    batch_size: int = 16
    balanced: bool = False
    num_workers: int | None = None
    generate: GenerateConfig | None = None

    def __post_init__(self) -> None:
        """Checks what types cannot say."""
        one_of("data.variant", self.variant, ("original", "segmented"))
        at_least("data.min_size", self.min_size, 1)
        at_least("data.batch_size", self.batch_size, 1)
        if self.num_workers is not None:
            at_least("data.num_workers", self.num_workers, 0)


ENGINES = ("auto", "torch", "onnxruntime", "openvino")
CORRUPTION_SUITES = ("standard", "brief")
SPLIT_KINDS = ("stratified", "grouped", "blocked", "kfold", "csv")
FOLDED = ("kfold", "grouped", "blocked")  # kinds that can be divided into folds


@dataclass
class SplitConfig:
    """Which image is train, val or test."""

    kind: str = "stratified"
    test: float = 0.3
    val: float = 0.1
    seed: int = 0
    folds: int | None = None
    fold: int = 0
    groups: str = "given"
    group_size: int = 40
    embargo: int = 37
    file: str | None = None

    def __post_init__(self) -> None:
        """Checks what types cannot say."""
        one_of("split.kind", self.kind, SPLIT_KINDS)
        within("split.test", self.test, 0.01, 0.9)
        within("split.val", self.val, 0.01, 0.9)
        at_least("split.seed", self.seed, 0)
        one_of("split.groups", self.groups, ("given", "auto", "blocks"))
        at_least("split.embargo", self.embargo, 0)
        at_least("split.group_size", self.group_size, 2)
        if self.kind == "kfold" and self.folds is None:
            raise ConfigError("split.folds is missing: split=kfold wants a number of folds")
        if self.folds is None and self.fold != 0:
            raise ConfigError(
                f"split.fold={self.fold}: there are no folds; say split=kfold, or split.folds with "
                "split=grouped or blocked"
            )
        if self.folds is not None and self.kind not in FOLDED:
            raise ConfigError(
                f"split.folds={self.folds}: split={self.kind} has no folds; choose "
                f"{' or '.join(FOLDED)}"
            )
        if self.folds is not None:
            at_least("split.folds", self.folds, 2)
            if not 0 <= self.fold < self.folds:
                last = self.folds - 1
                raise ConfigError(f"split.fold={self.fold}: must lie between 0 and {last}")

    def unread(self) -> list[str]:
        """Keys that this way of splitting does not read."""
        if self.kind == "csv":
            return ["test", "val", "seed", "folds", "fold", "groups", "group_size", "embargo"]
        unread = ["file", "fold" if self.folds is None else "test"]
        if self.kind == "blocked" and self.folds is not None:
            unread += ["seed"]  # folds are where file order puts them
        if self.kind != "grouped":
            unread += ["groups"]
        if self.kind != "blocked":
            unread += ["embargo"]
        if self.kind in ("stratified", "kfold") or (self.kind, self.groups) == ("grouped", "given"):
            unread += ["group_size"]
        return unread

    def read_of(self, *keys: str) -> list[str]:
        """Those of some keys that this way of splitting reads, as `split.<key>`."""
        return [f"split.{key}" for key in keys if key not in self.unread()]


@dataclass
class AugmentConfig:
    """How training images are varied."""

    views: int = 5
    # Checked when they are first used: importing albumentations takes a second.
    transforms: list[Any] = field(default_factory=list, metadata={"check": "late"})
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        """Checks what types cannot say."""
        at_least("augment.views", self.views, 1)
        within("augment.mixup", self.mixup, 0, 10)
        within("augment.cutmix", self.cutmix, 0, 10)


@dataclass
class FeaturesConfig:
    """Whether and how the frozen prefix's output is computed once and kept."""

    bank: bool = True
    engine: str = "auto"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks what types cannot say."""
        one_of("features.engine", self.engine, ENGINES)
        one_of("features.dtype", self.dtype, ("float32", "float16"))


@dataclass
class ModelConfig:
    """The network: backbone, what of it is trained, and what weighs in the loss."""

    backbone: str = "mobilenet_v2"
    weights: str | list[str | None] | None = "imagenet"
    input_size: int = 224
    unfreeze: Any = 0
    batchnorm: str = "frozen"
    dropout: float = 0.2
    class_weights: str | None = None
    label_smoothing: float = 0.0
    unfreeze_from: int = 0
    backbone_lr: float = 1.0
    depth_decay: float = 1.0
    library: str = "torchvision"
    backbones: list[str] | None = None

    @property
    def title(self) -> str:
        """The backbone's name, with its library unless that is torchvision; joined if several."""
        if self.backbones is not None:
            return " + ".join(branch.title for branch in self.branches())
        return self.backbone if self.library == "torchvision" else f"{self.library}/{self.backbone}"

    def branches(self) -> list[ModelConfig]:
        """The networks that stand side by side, each by itself; none where there is but one."""
        names = self.backbones or []
        given = self.weights if isinstance(self.weights, list) else [self.weights] * len(names)
        cfgs = []
        for name, weights in zip(names, given, strict=True):
            library, _, plain = name.rpartition("/")
            single = replace(self, backbone=plain, backbones=None, weights=weights)
            cfgs.append(replace(single, library=library or self.library))
        return cfgs

    def _check_branches(self) -> None:
        names, weights = self.backbones, self.weights
        if (self.backbone == "hybrid") != bool(names):
            raise ConfigError(
                "model.backbones: say model=hybrid model.backbones=[<name>,<name>] for several "
                "networks side by side, and model.backbone for one"
            )
        if names is None and isinstance(weights, list):
            raise ConfigError(f"model.weights={weights}: a list is for model=hybrid")
        if names is None:
            return
        shared = weights is None or weights == "imagenet"
        if not shared and not (isinstance(weights, list) and len(weights) == len(names)):
            raise ConfigError(
                f"model.weights={weights}: give imagenet, null or a list of {len(names)}, one for "
                "each of model.backbones"
            )
        self.branches()

    def __post_init__(self) -> None:
        """Checks what types cannot say."""
        one_of("model.library", self.library, ("torchvision", "timm"))
        self._check_branches()
        at_least("model.input_size", self.input_size, 32)
        if self.input_size > MOST_SIDE:
            raise ConfigError(
                f"model.input_size={self.input_size}: {MOST_SIDE} at most; larger images do not "
                "fit into memory as a batch goes through a network"
            )
        whole = isinstance(self.unfreeze, int) and not isinstance(self.unfreeze, bool)
        if self.unfreeze != "all" and not (whole and self.unfreeze >= 0):
            raise ConfigError(
                f"model.unfreeze={self.unfreeze}: must be 'all' or a number of last blocks"
            )
        one_of("model.batchnorm", self.batchnorm, ("frozen", "trained"))
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout={self.dropout}: must be at least 0 and below 1")
        if self.class_weights is not None:
            one_of("model.class_weights", self.class_weights, ("balanced",))
        within("model.label_smoothing", self.label_smoothing, 0, 0.9)
        at_least("model.unfreeze_from", self.unfreeze_from, 0)
        within("model.backbone_lr", self.backbone_lr, 0, 100)
        within("model.depth_decay", self.depth_decay, 0, 1)


@dataclass
class DecisionConfig:
    """What is decided on val about the answers to other images."""

    coverage: float = 0.95
    sensitivity: float = 0.995
    confidence: float = 0.9
    low_confidence: float = 0.02
    ood: float = 0.01
    prevalence: float | None = None

    def __post_init__(self) -> None:
        """Checks what types cannot say."""
        within("decision.coverage", self.coverage, 0.5, 0.999)
        within("decision.sensitivity", self.sensitivity, 0.5, 1)
        within("decision.confidence", self.confidence, 0.5, 0.999)
        within("decision.low_confidence", self.low_confidence, 0, 0.5)
        within("decision.ood", self.ood, 0, 0.5)
        if self.prevalence is not None:
            within("decision.prevalence", self.prevalence, 0, 1)
