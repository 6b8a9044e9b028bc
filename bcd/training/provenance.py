"""What chose the weights that a run keeps, and how its test part was used, in words."""

from __future__ import annotations

from bcd.config.schema import SplitConfig
from bcd.config.training import TrainConfig, target_of


def val_chose_epoch(cfg: TrainConfig) -> bool:
    """Whether val had a say in which epoch's weights were kept, or in when training stopped."""
    nodes = (_keeper(cfg), *_stoppers(cfg))
    return not _validated_once(cfg) and any(_monitors_val(node) for node in nodes)


def how_chosen(cfg: TrainConfig) -> str:
    """How the kept checkpoint was chosen, in a sentence or two."""
    keeper = _keeper(cfg)
    monitor, mode = keeper.get("monitor"), keeper.get("mode", "min")
    if _validated_once(cfg) and cfg.trainer.get("max_epochs") == 1:
        return "There was one epoch, and so none to choose."
    if not keeper:
        told = "No checkpoint was kept: the weights are those of the last epoch."
    elif monitor is None or (monitor in ("epoch", "step") and mode == "max"):
        told = "The checkpoint is that of the last epoch; val did not choose it."
    elif _monitors_val(keeper) and _validated_once(cfg):
        told = "The checkpoint is that of the one validation; val chose no epoch."
    elif _monitors_val(keeper):
        told = f"The checkpoint was chosen on val, by {monitor} ({mode})."
    else:
        told = f"The checkpoint was chosen by {monitor} ({mode}), not on val."
    if any(_monitors_val(node) for node in _stoppers(cfg)) and not _validated_once(cfg):
        told += " Val had a say in when training stopped."
    return told


def how_split(cfg: SplitConfig) -> str:
    """How images were shared out, by the keys that decided it."""
    told = f"split={cfg.kind}"
    if cfg.kind == "csv":
        return f"{told}, by {cfg.file or 'the column split of data.root'}"
    if cfg.kind == "grouped":
        told += f" split.groups={cfg.groups}"
    if cfg.folds is not None:
        told += f", split.fold {cfg.fold} of {cfg.folds} folds"
    return f"{told}, split.seed {cfg.seed}" if cfg.read_of("seed") else told


def how_tested(before: bool) -> str:
    """How a single run used its test part; what others did with the same images is not recorded.

    Args:
        before: Whether the run had been tested before, and went on.
    """
    used = (
        "The run had been tested before it went on, so this is not the first use of its test part."
        if before
        else "The run evaluated its test part once, after training."
    )
    return f"{used} Whether other runs or eval.py were tested on these images is not recorded."


def _validated_once(cfg: TrainConfig) -> bool:
    epochs = cfg.trainer.get("max_epochs") or -1
    every = cfg.trainer.get("check_val_every_n_epoch") or 1
    once = epochs > 0 and epochs // every == 1
    return once and cfg.trainer.get("val_check_interval") in (None, 1.0)


def _keeper(cfg: TrainConfig) -> dict[str, object]:
    """The callback whose checkpoint is taken: the first that keeps any; empty where none does."""
    return next(iter(_of_class(cfg, "ModelCheckpoint")), {})


def _stoppers(cfg: TrainConfig) -> list[dict[str, object]]:
    return _of_class(cfg, "EarlyStopping")


def _of_class(cfg: TrainConfig, name: str) -> list[dict[str, object]]:
    return [dict(node) for node in cfg.callbacks.values() if target_of(node).endswith(name)]


def _monitors_val(node: dict[str, object]) -> bool:
    return str(node.get("monitor", "")).startswith("val/")
