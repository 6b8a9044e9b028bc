"""Going on with a run that was interrupted, in its own folder and with its own configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from omegaconf import DictConfig, OmegaConf

from bcd.cli.overrides import checkpoint_to_resume
from bcd.config.check import FILLED_IN
from bcd.config.training import TrainConfig
from bcd.data.catalog import Catalog
from bcd.data.splits.split import Split, sha256_of
from bcd.errors import BcdError, ConfigError
from bcd.inference.checkpoint import read_content
from bcd.run_folder import RECORD

# What a resumed run may have otherwise than the run had; all else is in the checkpoint's weights,
# in its optimizer's state, or decides which images were trained on.
_FREE = {"name", "run_dir", "resume", "lr_find", "trainer", "callbacks", "logger", "policy"}
_FREE |= {"features", "data.root", "data.num_workers"}


@dataclass(frozen=True)
class Resumed:
    """A checkpoint to go on from, its run's folder, its content, and how `resume=` named it."""

    file: Path
    folder: Path
    content: dict[str, Any]
    given: str

    @property
    def config(self) -> dict[str, Any]:
        """The run's configuration."""
        plain: dict[str, Any] = self.content["card"]["config"]
        return plain


def find_resumed(resume: str) -> Resumed:
    """Finds what `resume=` names, a run folder or a checkpoint in it.

    Raises:
        BcdError: There is nothing to go on from.
    """
    file = checkpoint_to_resume(resume)
    if file is None:
        raise BcdError(
            f"resume={resume}: nothing to go on from; give a run folder with checkpoints/last.ckpt"
        )
    try:
        content = read_content(file)
        plain = content["card"]["config"]
        ready = isinstance(plain, dict) and "history" in content and "epoch" in content
    except Exception as error:
        raise BcdError(f"resume={resume}: {file} is no checkpoint of train.py") from error
    if not ready:
        raise BcdError(f"resume={resume}: {file} was written by an older version; train anew")
    return Resumed(file, file.parent.parent, content, resume)


def resumed_config(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The run's own configuration, with what the command line changes.

    Args:
        cfg: As Hydra composed it, with `resume`.
        overrides: The command line's, without Hydra's own.

    Returns:
        That configuration; `cfg` itself where an experiment is named, which sets many keys.

    Raises:
        BcdError: There is nothing to go on from.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    resumed = find_resumed(cfg.resume)
    old, new = str(resumed.config["run_dir"]), str(resumed.folder)
    plain: dict[str, Any] = _moved(resumed.config, old, new)
    merged = OmegaConf.create(plain)
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    if any(override.key_or_group == "experiment" for override in parsed):
        return cfg
    for override in parsed:
        key = override.key_or_group.replace("/", ".")
        if override.is_delete():
            parent = OmegaConf.select(merged, key.rpartition(".")[0]) if "." in key else merged
            parent.pop(key.rpartition(".")[2], None)
        elif key != "sweep":
            OmegaConf.update(merged, key, OmegaConf.select(cfg, key), merge=False, force_add=True)
    _validate_at_the_end(merged, resumed.config["trainer"])
    if "run_dir" not in (override.key_or_group for override in parsed):
        merged.run_dir = new
    return merged


def _moved(value: Any, old: str, new: str) -> Any:
    """The same plain value, with paths in one folder as paths in another."""
    if isinstance(value, dict):
        return {name: _moved(inner, old, new) for name, inner in value.items()}
    if isinstance(value, list):
        return [_moved(inner, old, new) for inner in value]
    if isinstance(value, str) and (value == old or value.startswith(f"{old}/")):
        return new + value[len(old) :]
    return value


def _validate_at_the_end(merged: DictConfig, before: Mapping[str, Any]) -> None:
    """Where val was to be asked after the last epoch alone, it is after the new last one."""
    same = before.get("check_val_every_n_epoch") == before.get("max_epochs") != 1
    if same and merged.trainer.get("check_val_every_n_epoch") == before.get("max_epochs"):
        merged.trainer.check_val_every_n_epoch = merged.trainer.get("max_epochs")


def check_resumed(cfg: TrainConfig, resumed: Resumed) -> None:
    """Refuses to go on where nothing is left to do or where another run is wanted.

    Raises:
        BcdError: All epochs are trained and tested; or the configuration is another one.
    """
    _check_folder(cfg, resumed)
    changes = _differences(asdict(cfg), resumed.config)
    if changes:
        key, value, before = changes[0]
        raise ConfigError(
            f"{key}={value}: the run that resume={resumed.given} goes on with has {before}; "
            "leave it out, or start a new run"
        )
    epochs, before = (c.get("max_epochs") for c in (cfg.trainer, resumed.config["trainer"]))
    scheduled = any(cfg.scheduler.get(name, 0) is None for name in FILLED_IN)
    if scheduled and epochs != before:
        raise ConfigError(
            f"trainer.max_epochs={epochs}: the run's scheduler was made for {before} epochs; "
            "leave it out, or start a new run"
        )
    done = int(resumed.content["epoch"]) + 1
    # A run that ended after its last epoch, but before its test, still has that left.
    if epochs and 0 < epochs <= done and (resumed.folder / "metrics.json").is_file():
        raise BcdError(
            f"resume={resumed.given}: nothing left to train: the run has {done} of {epochs} "
            "epochs; raise trainer.max_epochs"
        )


def _check_folder(cfg: TrainConfig, resumed: Resumed) -> None:
    if Path(cfg.run_dir).absolute() != resumed.folder:
        raise ConfigError(
            f"run_dir={cfg.run_dir}: a resumed run goes on in its own folder, {resumed.folder}; "
            "leave it out"
        )
    if (resumed.folder / RECORD).exists():
        raise BcdError(
            f"resume={resumed.given}: a trial of a sweep: its leaderboard would not be true then; "
            f"start the sweep with other values, or resume a copy without {RECORD}"
        )


def _differences(given: Any, before: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """Keys that are not free and whose values differ: key, value, value before."""
    if key in _FREE:
        return []
    if isinstance(given, dict) and isinstance(before, dict):
        start = f"{key}." if key else ""
        found = []
        for name in {**given, **before}:
            # A group that the run did not know yet is as it is by default.
            if name in before or key:
                found += _differences(given.get(name), before.get(name), f"{start}{name}")
        return found
    return [] if given == before else [(key, given, before)]


def check_images(resumed: Resumed, catalog: Catalog, split: Split) -> None:
    """Refuses to go on with other images: one of test may have been trained on.

    Raises:
        BcdError: The parts do not hold the same images, or these are not of the same classes.
    """
    card = resumed.content["card"]
    before, now = card["split"], split.hashes(catalog)
    for part, hashes in now.items():
        changed = len(set(map(sha256_of, hashes)) ^ set(map(sha256_of, before.get(part, ()))))
        if changed:
            raise BcdError(
                f"resume={resumed.given}: {changed} images of {part} came or went since the run "
                f"began; put those in {catalog.root} back, or start a new run"
            )
    if catalog.fingerprint(split.indices("all")) != card["fingerprint"]:
        raise BcdError(
            f"resume={resumed.given}: images in {catalog.root} are of other classes than when "
            "the run began; put them back, or start a new run"
        )


class InPlace(pl.Callback):
    """Tells callbacks that keep checkpoints where these are now, if the run folder was moved."""

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Corrects their states, which are loaded next."""
        for callback in trainer.checkpoint_callbacks:
            state = checkpoint["callbacks"].get(callback.state_key)
            if state is None:
                continue
            old, new = str(state["dirpath"]), str(getattr(callback, "dirpath", state["dirpath"]))
            state.update(_moved(state, old, new))
            best = {_moved(path, old, new): score for path, score in state["best_k_models"].items()}
            state["best_k_models"] = best
