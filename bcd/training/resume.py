"""Resuming an interrupted run, in its own folder and with its own configuration."""

from __future__ import annotations

from collections.abc import Sequence
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
from bcd.models.checkpoint_content import read_content
from bcd.run_folder import RECORD

# Keys that may differ from those of the run. All others are reflected in the checkpoint's weights
# or optimizer state, or decide which images were trained on.
_FREE = {"name", "run_dir", "resume", "lr_find", "trainer", "callbacks", "logger", "decision"}
_FREE |= {"report", "features", "data.root", "data.num_workers"}


@dataclass(frozen=True)
class Resumed:
    """A checkpoint to continue from, its run folder, its content, and the value of `resume`."""

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
    """Finds the checkpoint that `resume` means: a run folder's last one, or a file.

    Raises:
        BcdError: There is no such checkpoint.
    """
    file = checkpoint_to_resume(resume)
    if file is None:
        raise BcdError(
            f"resume={resume}: nothing to resume from; give a run folder with checkpoints/last.ckpt"
        )
    try:
        content = read_content(file)
        plain = content["card"]["config"]
        ready = isinstance(plain, dict) and "history" in content and "epoch" in content
    except Exception as error:
        raise BcdError(
            f"resume={resume}: {file} is not a checkpoint that train.py wrote"
        ) from error
    if not ready:
        raise BcdError(f"resume={resume}: {file} was written by an older version; start a new run")
    return Resumed(file, file.parent.parent, content, resume)


def resumed_config(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The run's own configuration, with the changes of the command line.

    Args:
        cfg: As Hydra composed it, with `resume`.
        overrides: Those of the command line, without Hydra's own.

    Returns:
        That configuration; `cfg` itself where an experiment is named, which sets many keys.

    Raises:
        BcdError: There is nothing to resume from.
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
    if "run_dir" not in (override.key_or_group for override in parsed):
        merged.run_dir = new
    return merged


def _moved(value: Any, old: str, new: str) -> Any:
    """The same plain value, with paths in folder `old` as paths in folder `new`."""
    if isinstance(value, dict):
        return {name: _moved(inner, old, new) for name, inner in value.items()}
    if isinstance(value, list):
        return [_moved(inner, old, new) for inner in value]
    if isinstance(value, str) and (value == old or value.startswith(f"{old}/")):
        return new + value[len(old) :]
    return value


def check_resumed(cfg: TrainConfig, resumed: Resumed) -> None:
    """Refuses to resume where nothing is left to do or where the configuration differs.

    Raises:
        BcdError: All epochs are trained and tested, or the configuration is another one.
    """
    _check_folder(cfg, resumed)
    changes = _differences(asdict(cfg), resumed.config)
    if changes:
        key, value, before = changes[0]
        raise ConfigError(
            f"{key}={value}: the run of resume={resumed.given} has {before}; "
            "leave it out, or start a new run"
        )
    engines = cfg.features.engine, resumed.config["features"]["engine"]
    if engines.count("int8") == 1:
        raise ConfigError(
            f"features.engine={engines[0]}: the run of resume={resumed.given} trained on features "
            f"of features.engine={engines[1]}; leave it out, or start a new run"
        )
    epochs, before = (c.get("max_epochs") for c in (cfg.trainer, resumed.config["trainer"]))
    scheduled = any(cfg.scheduler.get(name, 0) is None for name in FILLED_IN)
    if scheduled and epochs != before:
        raise ConfigError(
            f"trainer.max_epochs={epochs}: the run's scheduler was made for {before} epochs; "
            "leave it out, or start a new run"
        )
    done = int(resumed.content["epoch"]) + 1
    if not (resumed.folder / "metrics.json").is_file():
        return  # the test at least is left
    if cfg.head.fitted:
        raise BcdError(
            f"resume={resumed.given}: nothing left to do: head={cfg.head.kind} was fitted and "
            "tested; start a new run"
        )
    if epochs and 0 < epochs <= done:
        raise BcdError(
            f"resume={resumed.given}: nothing left to train: the run has {done} of {epochs} "
            "epochs; raise trainer.max_epochs"
        )


def _check_folder(cfg: TrainConfig, resumed: Resumed) -> None:
    if Path(cfg.run_dir).absolute() != resumed.folder:
        raise ConfigError(
            f"run_dir={cfg.run_dir}: a resumed run continues in its own folder, "
            f"{resumed.folder}; leave it out"
        )
    if (resumed.folder / RECORD).exists():
        raise BcdError(
            f"resume={resumed.given}: a trial of a sweep, whose leaderboard would become wrong; "
            f"start the sweep with other values, or resume a copy without {RECORD}"
        )


def _differences(given: Any, before: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """Keys whose values must not differ but do: key, value, value before."""
    if key in _FREE:
        return []
    if isinstance(given, dict) and isinstance(before, dict):
        start = f"{key}." if key else ""
        found = []
        for name in {**given, **before}:
            # A group that did not exist at the time of the run has its defaults.
            if name in before or key:
                found += _differences(given.get(name), before.get(name), f"{start}{name}")
        return found
    return [] if given == before else [(key, given, before)]


def check_images(resumed: Resumed, catalog: Catalog, split: Split) -> None:
    """Refuses to resume with other images: a test image may have been trained on.

    Raises:
        BcdError: The sets do not contain the same images, or images have other classes.
    """
    card = resumed.content["card"]
    before, now = card["split"], split.hashes(catalog)
    for part, hashes in now.items():
        changed = len(set(map(sha256_of, hashes)) ^ set(map(sha256_of, before.get(part, ()))))
        if changed:
            raise BcdError(
                f"resume={resumed.given}: {changed} images of {part} were added or removed since "
                f"the run began; restore those in {catalog.root}, or start a new run"
            )
    if catalog.fingerprint(split.indices("all")) != card["fingerprint"]:
        raise BcdError(
            f"resume={resumed.given}: images in {catalog.root} have other classes than when "
            "the run began; restore them, or start a new run"
        )


class RelocateCheckpoints(pl.Callback):
    """Corrects the paths of checkpoints in the callbacks' states if the run folder was moved."""

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Corrects the states, which are loaded next."""
        for callback in trainer.checkpoint_callbacks:
            state = checkpoint["callbacks"].get(callback.state_key)
            if state is None:
                continue
            old, new = str(state["dirpath"]), str(getattr(callback, "dirpath", state["dirpath"]))
            state.update(_moved(state, old, new))
            best = {_moved(path, old, new): score for path, score in state["best_k_models"].items()}
            state["best_k_models"] = best
