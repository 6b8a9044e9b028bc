"""How the weights that a run keeps were chosen, and how its test set was used, in words."""

from __future__ import annotations

from bcd.config.schema import SplitConfig
from bcd.config.training import TrainConfig, target_of


def val_chose_epoch(cfg: TrainConfig) -> bool:
    """Whether val influenced which epoch's weights were kept, or when training stopped."""
    nodes = (_keeper(cfg), *_stoppers(cfg))
    several = not cfg.head.fitted and not _validated_once(cfg)
    return several and any(_monitors_val(node) for node in nodes)


def how_chosen(cfg: TrainConfig) -> str:
    """How the kept checkpoint was chosen, in a sentence or two."""
    keeper = _keeper(cfg)
    monitor, mode = keeper.get("monitor"), keeper.get("mode", "min")
    if cfg.head.fitted:
        return "The head was fitted once, so there was no epoch to choose."
    if _validated_once(cfg) and cfg.trainer.get("max_epochs") == 1:
        return "There was only one epoch, so none was chosen."
    if not keeper:
        sentence = "No checkpoint was kept: the weights are those of the last epoch."
    elif monitor is None or (monitor in ("epoch", "step") and mode == "max"):
        sentence = "The checkpoint is that of the last epoch; val did not choose it."
    elif _monitors_val(keeper) and _validated_once(cfg):
        sentence = "The checkpoint is that of the only validation; val did not choose it."
    elif _monitors_val(keeper):
        sentence = f"The checkpoint was chosen on val, by {monitor} ({mode})."
    else:
        sentence = f"The checkpoint was chosen by {monitor} ({mode}), not on val."
    if any(_monitors_val(node) for node in _stoppers(cfg)) and not _validated_once(cfg):
        sentence += " Val influenced when training stopped."
    return sentence


def how_split(cfg: SplitConfig) -> str:
    """How images were split, by the keys that decided it."""
    sentence = f"split={cfg.kind}"
    if cfg.kind == "csv":
        return f"{sentence}, by {cfg.file or 'the column split of data.root'}"
    if cfg.kind == "grouped":
        sentence += f" split.groups={cfg.groups}"
    if cfg.folds is not None:
        sentence += f", split.fold {cfg.fold} of {cfg.folds} folds"
    return f"{sentence}, split.seed {cfg.seed}" if cfg.read_of("seed") else sentence


def how_tested(before: bool) -> str:
    """How a single run used its test set; other uses of the same images are not recorded.

    Args:
        before: Whether the run had been tested before it was resumed.
    """
    used = (
        "It had been tested before it was resumed, so this is not the first use of its test set."
        if before
        else "The run evaluated its test set once, after training."
    )
    return (
        f"{used} Whether these images were used to test other runs, or by eval.py, is not recorded."
    )


def _validated_once(cfg: TrainConfig) -> bool:
    epochs = cfg.trainer.get("max_epochs") or -1
    every = cfg.trainer.get("check_val_every_n_epoch") or 1
    once = epochs > 0 and epochs // every == 1
    return once and cfg.trainer.get("val_check_interval") in (None, 1.0)


def _keeper(cfg: TrainConfig) -> dict[str, object]:
    """The callback whose checkpoint is used: the first one; empty where there is none."""
    return next(iter(_of_class(cfg, "ModelCheckpoint")), {})


def _stoppers(cfg: TrainConfig) -> list[dict[str, object]]:
    return _of_class(cfg, "EarlyStopping")


def _of_class(cfg: TrainConfig, name: str) -> list[dict[str, object]]:
    return [dict(node) for node in cfg.callbacks.values() if target_of(node).endswith(name)]


def _monitors_val(node: dict[str, object]) -> bool:
    return str(node.get("monitor", "")).startswith("val/")
