"""Schemas of the project's own configuration groups.

Fields have no defaults: those are in `conf/` alone, and `bcd.config.compose.with_defaults` reads
them from there. `bcd.config.check` checks a composed configuration against these schemas. This
module is fast to import, since `--help` needs it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bcd.config.input_views import CELLS, MASKED, PLAIN_VIEW, ROIS, WHOLE, InputView, parse_views
from bcd.config.values import at_least, one_of, within
from bcd.errors import ConfigError

# A batch of 16 images of this side takes about 10 GB in the first layers of a network.
MOST_SIDE = 2048


@dataclass
class GenerateConfig:
    """The images to generate: their number, simulated slides, side in pixels, and the seed."""

    count: int
    slides: int
    size: int
    seed: int


BENIGN = "Benign"  # the class of the published sets that is not cancer


@dataclass
class DataConfig:
    """Which images are used, and how they are loaded."""

    root: str
    download: bool | None
    variant: str
    benign: str | None
    group_pattern: str | None
    min_size: int
    drop_duplicates: bool
    mask_scale_bar: bool
    roi: str
    batch_size: int
    balanced: bool
    num_workers: int | None
    generate: GenerateConfig | None

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        one_of("data.variant", self.variant, ("original", "segmented"))
        one_of("data.roi", self.roi, ROIS)
        at_least("data.min_size", self.min_size, 1)
        at_least("data.batch_size", self.batch_size, 1)
        if self.num_workers is not None:
            at_least("data.num_workers", self.num_workers, 0)


ENGINES = ("auto", "torch", "onnxruntime", "openvino")
CORRUPTION_SUITES = ("standard", "brief")
SPLIT_KINDS = ("stratified", "grouped", "blocked", "kfold", "csv")
CELL_POOLINGS = ("mean", "noisy_or", "attention")
FOLDED = ("kfold", "grouped", "blocked")  # kinds that can be divided into folds


@dataclass
class SplitConfig:
    """How images are split into train, val and test set."""

    kind: str
    test: float
    val: float
    train_share: float
    seed: int
    folds: int | None
    fold: int
    groups: str
    group_size: int
    embargo: int
    file: str | None

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        one_of("split.kind", self.kind, SPLIT_KINDS)
        within("split.test", self.test, 0.01, 0.9)
        within("split.val", self.val, 0.01, 0.9)
        within("split.train_share", self.train_share, 0.01, 1)
        at_least("split.seed", self.seed, 0)
        one_of("split.groups", self.groups, ("given", "auto", "blocks"))
        at_least("split.embargo", self.embargo, 0)
        at_least("split.group_size", self.group_size, 2)
        if self.kind == "kfold" and self.folds is None:
            raise ConfigError("split.folds is missing: split=kfold needs a number of folds")
        if self.folds is None and self.fold != 0:
            raise ConfigError(
                f"split.fold={self.fold}: there are no folds; set split=kfold, or split.folds with "
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
                raise ConfigError(f"split.fold={self.fold}: must be between 0 and {last}")

    def unread(self) -> list[str]:
        """The keys that this kind of split does not read."""
        if self.kind == "csv":
            given = ["test", "val", "train_share", "seed", "folds", "fold", "groups"]
            return [*given, "group_size", "embargo"]
        unread = ["file", "fold" if self.folds is None else "test"]
        if self.kind == "blocked" and self.folds is not None:
            unread += ["seed"]  # the file order determines the folds
        if self.kind != "grouped":
            unread += ["groups"]
        if self.kind != "blocked":
            unread += ["embargo"]
        if self.kind in ("stratified", "kfold") or (self.kind, self.groups) == ("grouped", "given"):
            unread += ["group_size"]
        return unread

    def read_of(self, *keys: str) -> list[str]:
        """Those of the given keys that this kind of split reads, as `split.<key>`."""
        return [f"split.{key}" for key in keys if key not in self.unread()]


@dataclass
class AugmentConfig:
    """How training images are augmented."""

    views: int
    # Checked when they are first used: importing albumentations takes a second.
    transforms: list[Any] = field(metadata={"check": "late"})
    mixup: float
    cutmix: float

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        at_least("augment.views", self.views, 1)
        within("augment.mixup", self.mixup, 0, 10)
        within("augment.cutmix", self.cutmix, 0, 10)


@dataclass
class FeaturesConfig:
    """Whether and how the frozen layers' output is computed once and cached."""

    bank: bool
    engine: str
    dtype: str

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        one_of("features.engine", self.engine, (*ENGINES, "int8"))
        one_of("features.dtype", self.dtype, ("float32", "float16"))


@dataclass
class ModelConfig:
    """The network: its backbone, which blocks are trained, and how the loss is weighted."""

    backbone: str
    weights: str | list[str | None] | None
    input_size: int
    roi: str
    cell_pooling: str
    views: list[str]
    unfreeze: int | Literal["all"]
    batchnorm: str
    dropout: float
    class_weights: str | None
    label_smoothing: float
    unfreeze_from: int
    backbone_lr: float
    depth_decay: float
    library: str
    backbones: list[str] | None

    @property
    def title(self) -> str:
        """The backbone's name, with its library unless that is torchvision; joined if several."""
        if self.backbones is not None:
            return " + ".join(branch.title for branch in self.branches())
        return self.backbone if self.library == "torchvision" else f"{self.library}/{self.backbone}"

    def branches(self) -> list[ModelConfig]:
        """One configuration for each fused network; empty for a single network."""
        names = self.backbones or []
        given = self.weights if isinstance(self.weights, list) else [self.weights] * len(names)
        cfgs = []
        for name, weights in zip(names, given, strict=True):
            library, _, plain = name.rpartition("/")
            single = replace(self, backbone=plain, backbones=None, weights=weights)
            cfgs.append(replace(single, library=library or self.library))
        return cfgs

    @property
    def images(self) -> str:
        """Side of the images, and input views if there are others than the plain one, in words."""
        views = "" if self.views == [PLAIN_VIEW] else f", input views {', '.join(self.views)}"
        return f"{self.input_size} pixels a side{views}{self._roi_in_words}"

    @property
    def _roi_in_words(self) -> str:
        if self.roi == WHOLE:
            return ""
        if self.roi == CELLS:
            return f", a crop of each white cell ({self.cell_pooling} over cells)"
        return f", {'everything but ' * (self.roi == MASKED)}white cells painted over"

    def input_views(self) -> tuple[InputView, ...]:
        """The input views, whose features are concatenated in this order."""
        return parse_views(self.views, self.input_size, self.roi)

    def _check_sizes(self) -> None:
        at_least("model.input_size", self.input_size, 32)
        if self.input_size > MOST_SIDE:
            raise ConfigError(
                f"model.input_size={self.input_size}: at most {MOST_SIDE}; a batch of larger "
                "images does not fit into memory"
            )
        views = self.input_views()
        for name, view in zip(self.views, views, strict=True):
            if not 32 <= view.side <= MOST_SIDE:
                raise ConfigError(f"model.views: {name}: sides are 32 to {MOST_SIDE} pixels")
        if self.roi == CELLS:
            self._check_cells()
        elif self.unfreeze != 0 and self.views not in ([PLAIN_VIEW], [f"plain@{self.input_size}"]):
            raise ConfigError(
                f"model.unfreeze={self.unfreeze}: model.views={self.views} needs frozen features; "
                f"set model.unfreeze=0, or model.views=[{PLAIN_VIEW}]"
            )

    def _check_cells(self) -> None:
        if self.unfreeze != 0:
            raise ConfigError(
                f"model.unfreeze={self.unfreeze}: data.roi=cells needs frozen features; set "
                "model.unfreeze=0, or data.roi=mask"
            )
        if len(self.views) > 1:
            raise ConfigError(
                f"model.views={self.views}: data.roi=cells takes a single view of each cell"
            )

    def _check_branches(self) -> None:
        names, weights = self.backbones, self.weights
        if (self.backbone == "hybrid") != bool(names):
            raise ConfigError(
                "model.backbones: set model=hybrid model.backbones=[<name>,<name>] to fuse several "
                "networks, and model.backbone for a single one"
            )
        if names is None and isinstance(weights, list):
            raise ConfigError(f"model.weights={weights}: a list needs model=hybrid")
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
        """Checks values beyond their types."""
        one_of("model.library", self.library, ("torchvision", "timm"))
        one_of("data.roi", self.roi, ROIS)
        one_of("model.cell_pooling", self.cell_pooling, CELL_POOLINGS)
        self._check_branches()
        self._check_sizes()
        if self.unfreeze != "all" and (isinstance(self.unfreeze, str) or self.unfreeze < 0):
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
