"""Warnings about a run: settings without effect, and training without progress."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from bcd.config.head import KEYS_OF_HEADS
from bcd.config.input_views import CELLS
from bcd.config.training import TrainConfig, target_of
from bcd.data.catalog import Catalog
from bcd.models.backbones.run_weights import WeightsSource

_OF_GRADIENTS = (
    "optimizer",
    "scheduler",
    "augment.mixup",
    "augment.cutmix",
    "model.label_smoothing",
    "model.dropout",
    "model.batchnorm",
    "model.unfreeze_from",
    "model.backbone_lr",
    "model.depth_decay",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.check_val_every_n_epoch",
)
_OF_BLOCKS = (
    "model.batchnorm",
    "model.unfreeze_from",
    "model.backbone_lr",
    "model.depth_decay",
)


def setting_warnings(cfg: TrainConfig, catalog: Catalog, given: Mapping[str, str]) -> list[str]:
    """Warns of settings that have no effect.

    Args:
        cfg: The configuration.
        catalog: The images.
        given: The arguments of the command line by key, verbatim.

    Returns:
        One line for each.
    """
    lines = [
        f"{text} has no effect: {reason}"
        for keys, reason in _without_effect(cfg, catalog)
        for key, text in given.items()
        if any(key == idle or key.startswith(f"{idle}.") for idle in keys)
    ]
    if catalog.benign is None and cfg.data.benign is not None:
        lines.append(
            f"no class is '{cfg.data.benign}', so there are no clinical figures; set data.benign "
            f"to the one that is not cancer, of {', '.join(catalog.classes)}, or to null"
        )
    if cfg.trainer.get("fast_dev_run"):
        lines.append("trainer.fast_dev_run: only one batch is trained, and no checkpoint is kept")
    return lines + list(_too_late(cfg))


def _without_effect(cfg: TrainConfig, catalog: Catalog) -> Iterator[tuple[Sequence[str], str]]:
    """Keys without effect in this configuration, and why."""
    head, model = cfg.head, cfg.model
    if head.fitted:
        yield _OF_GRADIENTS, f"head={head.kind} is fitted, not trained by gradient"
    elif model.unfreeze == 0:
        yield _OF_BLOCKS, "model.unfreeze=0 trains no block"
    others = {key for keys in KEYS_OF_HEADS.values() for key in keys}
    unread = sorted(others - set(KEYS_OF_HEADS[head.kind]))
    yield [f"head.{key}" for key in unread], f"head={head.kind} does not read it"
    yield (
        [f"split.{key}" for key in cfg.split.unread()],
        "this way of splitting does not read it",
    )
    if not any(target_of(node) for node in cfg.logger.values()):
        yield ("logger.images",), "there is no logger"
    if model.roi != CELLS:
        yield ("model.cell_pooling",), "data.roi=cells alone pools cells"
    if not cfg.features.bank:
        yield ("features.engine", "features.dtype"), "features.bank=false"
    elif model.unfreeze == "all":
        yield ("features",), "model.unfreeze=all leaves nothing frozen"
    if cfg.features.engine == "int8" and not cfg.augment.transforms:
        yield ("features.engine",), "only random views are computed in int8, and there are none"
    if not cfg.augment.transforms:
        yield ("augment.views",), "augment.transforms is empty, so all views are the same"
    if catalog.benign is None:
        yield ("decision.sensitivity", "decision.prevalence"), "no class is benign"


def _too_late(cfg: TrainConfig) -> Iterator[str]:
    """Settings that would take effect only after the last epoch."""
    epochs = 1 if cfg.head.fitted else cfg.trainer.get("max_epochs") or -1
    if epochs < 0:
        return
    start = cfg.model.unfreeze_from
    if cfg.model.unfreeze != 0 and start >= epochs:
        yield f"model.unfreeze_from={start}: no block is trained in {epochs} epochs"
    every = 1 if cfg.head.fitted else cfg.trainer.get("check_val_every_n_epoch") or 1
    validations = epochs // every
    for name, node in cfg.callbacks.items():
        patience = node.get("patience", 3) if target_of(node).endswith("EarlyStopping") else -1
        if patience + 1 >= validations and patience >= 0:
            yield (
                f"callbacks.{name}.patience={patience}: training cannot stop early in "
                f"{epochs} epoch{'s' * (epochs != 1)}"
            )


def pretraining_warnings(sources: Sequence[WeightsSource], tested: Sequence[str]) -> list[str]:
    """Warns where the weights that a run starts from have seen its test images.

    Args:
        sources: Of the weights.
        tested: sha256 of each test image.

    Returns:
        One line for each such source.
    """
    counts = [(source, sum(one in source.images for one in tested)) for source in sources]
    return [
        f"model.weights={source.given} was trained or chosen on {count} of {len(tested)} test "
        "images (same sha256): the figures are too optimistic"
        for source, count in counts
        if count
    ]


def loss_warnings(
    cfg: TrainConfig, classes: int, history: Sequence[Mapping[str, float]]
) -> list[str]:
    """Warns of a run whose loss did not decrease.

    Args:
        cfg: The configuration.
        classes: Number of classes.
        history: Figures of each epoch.

    Returns:
        One line for each.
    """
    if cfg.trainer.get("fast_dev_run"):
        return []
    lines = []
    minimized = "train/objective" if any("train/objective" in e for e in history) else "train/loss"
    trained, val = (
        [epoch[name] for epoch in history if name in epoch] for name in (minimized, "val/loss")
    )
    if len(trained) > 1 and min(trained[1:]) >= trained[0]:
        lines.append(
            f"the loss on train did not decrease: {trained[0]:.4g} in the first epoch, "
            f"{min(trained[1:]):.4g} at best later; try another optimizer.lr (lr_find=true "
            "suggests one)"
        )
    if val and min(val) >= math.log(classes):
        lines.append(
            f"the loss on val was never below {math.log(classes):.4g}, the loss of guessing: "
            f"{min(val):.4g} at best"
        )
    return lines
