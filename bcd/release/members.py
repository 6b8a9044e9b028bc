"""The members of a release: the configurations they are trained with, and their training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf

from bcd.config.check import check_config, nearest
from bcd.config.compose import CONF
from bcd.config.head import FITTED_HEADS
from bcd.config.release import RELEASE_KEYS, ReleaseConfig
from bcd.config.training import TrainConfig
from bcd.data.input_views import sides_of
from bcd.data.load import load_catalog
from bcd.errors import BcdError, ConfigError
from bcd.inference.checkpoint import Card, load_checkpoint
from bcd.models.checkpoint_content import network_state, read_content
from bcd.models.network import SmearNetwork
from bcd.run_folder import RECORD
from bcd.sweeps.trials import DONE, Trial, read_trials, run_trial, trial_key

FOLDS = "folds"  # folder of the folds' runs
CURVE_SHARES = (0.25, 0.5)  # shares of the slides for the learning curve, beside all


@dataclass(frozen=True)
class Member:
    """A trained member.

    Attributes:
        fold: The fold that it has not seen.
        network: In eval mode.
        card: Of its checkpoint.
        state: The network's state dict.
        content: Of its checkpoint.
        epoch: Number of epochs of the kept weights; 0 for a fitted head.
        sha256: Of its weights.
    """

    fold: int
    network: SmearNetwork
    card: Card
    state: dict[str, Any]
    content: dict[str, Any]
    epoch: int
    sha256: str


def refuse_limits(words: Sequence[str]) -> None:
    """Refuses settings of an ordinary run that a release has one budget for.

    Raises:
        ConfigError: Names the setting.
    """
    for word in words:
        if key_of(word) in ("decision.low_confidence", "decision.ood"):
            raise ConfigError(
                f"{word}: a release has one limit for all reasons: set decision.refer"
            )


def read_release(cfg: DictConfig) -> ReleaseConfig:
    """The settings of a release, from a configuration composed with `experiment=release`.

    Raises:
        ConfigError: A value is not valid.
    """
    values = {name: cfg[name] for name in RELEASE_KEYS if name != "from"}
    more = {
        "name": cfg.name,
        "old": cfg["from"],
        "folds": cfg.split.folds,
        "refer": cfg.decision.refer,
    }
    return check_config(OmegaConf.create(values | more), ReleaseConfig)


def member_words(
    words: Sequence[str], release: ReleaseConfig, base: TrainConfig | None
) -> list[str]:
    """The overrides that all members are trained with.

    Args:
        words: Those of the command line.
        release: Settings of the release.
        base: Configuration of the first fold, which names the images: if every one has a group,
            groups are those given; None to leave the choice of groups out.
    """
    kept = [word for word in words if key_of(word) not in _OWN]
    kept = ["split=kfold" if word == "split=stratified" else word for word in kept]
    chosen = {key_of(word) for word in kept}
    words = [f"experiment={release.recipe}"]
    if "split" not in chosen:
        words.append("split=grouped")
    grouped = "split" not in chosen or "split=grouped" in kept
    if base is not None and grouped and "split.groups" not in chosen:
        words.append(f"split.groups={'given' if _all_grouped(base) else 'auto'}")
    return [*words, f"split.folds={release.folds}", *kept]


_OWN = {*RELEASE_KEYS, "experiment", "name", "run_dir", "split.folds", "split.fold"}
_OWN |= {"decision.refer"}


def key_of(word: str) -> str:
    """The key or group that an override sets."""
    return word.lstrip("+~").partition("=")[0]


def _all_grouped(base: TrainConfig) -> bool:
    catalog = load_catalog(base.data, keep=sides_of(base.model.input_views()))
    return all(image.given_group for image in catalog.images)


def compose_member(words: Sequence[str], fold: int, *more: str) -> DictConfig:
    """The configuration of a member, as composed by Hydra.

    Raises:
        ConfigError: There is no experiment of the recipe's name.
    """
    try:
        return compose("train", overrides=[*words, f"split.fold={fold}", *more])
    except MissingConfigException as error:
        recipe = words[0].partition("=")[2]
        if error.missing_cfg_file != f"experiment/{recipe}":
            raise
        known = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
        raise ConfigError(
            f"recipe={recipe}: no such file in conf/experiment{nearest(recipe, known)}"
        ) from error


def member_config(words: Sequence[str], fold: int, run_dir: Path) -> TrainConfig:
    """The same, checked, with a run folder."""
    quoted = str(run_dir).replace("\\", "\\\\").replace("'", "\\'")
    return check_config(compose_member(words, fold, f"run_dir='{quoted}'"), TrainConfig)


def run_name(fold: int, share: float = 1.0) -> str:
    """Name of a fold's run; of the learning curve's, with the share of the training groups."""
    return str(fold) if share == 1 else f"{fold}-{share:g}"


def _composed(words: Sequence[str], fold: int, share: float) -> DictConfig:
    more = () if share == 1 else (f"split.train_share={share}",)
    return compose_member(words, fold, *more)


def train_fold(folder: Path, words: Sequence[str], fold: int, share: float = 1.0) -> None:
    """Trains the member of a fold, unless that is done already; failures are recorded.

    Args:
        folder: Of the release.
        words: From `member_words`.
        fold: Which images it leaves out.
        share: Of the training groups to use.

    Raises:
        BcdError: The folder has this fold with other settings.
    """
    cfg, name = _composed(words, fold, share), run_name(fold, share)
    known = {trial.name: trial for trial in read_trials(folder / FOLDS)}
    if name in known:
        _check_same(known[name], cfg, folder)
        _forget_without_checkpoint(folder, known[name])
    run_trial(cfg, folder / FOLDS, name, words)


def _forget_without_checkpoint(folder: Path, trial: Trial) -> None:
    """Has a fold trained again whose checkpoint was deleted."""
    if trial.status == DONE and not (folder / FOLDS / trial.name / trial.best).is_file():
        (folder / FOLDS / trial.name / RECORD).unlink()


def find_trial(folder: Path, words: Sequence[str], fold: int, share: float = 1.0) -> Trial:
    """The finished trial of a fold; the arguments are those of `train_fold`.

    Raises:
        BcdError: It is missing, failed, has no checkpoint or other settings.
    """
    name = run_name(fold, share)
    known = {trial.name: trial for trial in read_trials(folder / FOLDS)}
    trial = known.get(name)
    if trial is None or trial.status != DONE:
        reason = "was not trained" if trial is None else trial.reason or trial.status
        raise BcdError(f"fold {name}: {reason}; the same command with the same folder continues")
    _check_same(trial, _composed(words, fold, share), folder)
    if not trial.best:
        raise BcdError(f"fold {name}: kept no checkpoint: set callbacks.best")
    return trial


def _check_same(trial: Trial, cfg: DictConfig, folder: Path) -> None:
    if trial.key != trial_key(cfg):
        raise BcdError(
            f"fold {trial.name} in {folder} was trained with other settings: give another folder"
        )


def load_members(folder: Path, words: Sequence[str], folds: int) -> list[Member]:
    """Loads the members of all folds.

    Args:
        folder: Of the release.
        words: From `member_words`.
        folds: Number of folds.

    Raises:
        BcdError: A fold was not trained, or folds had different first weights.
    """
    members = [load_member(folder, find_trial(folder, words, fold)) for fold in range(folds)]
    first = members[0]
    for member in members:
        frozen = [name for name in first.state if not name.startswith(("trunk.", "head."))]
        if any((member.state[name] != first.state[name]).any() for name in frozen):
            raise BcdError(
                f"folds {first.fold} and {member.fold} started from different weights: start in a "
                "new folder"
            )
    return members


def load_member(folder: Path, trial: Trial) -> Member:
    """Loads the member that a trial of the release trained."""
    file = folder / FOLDS / trial.name / trial.best
    network, card = load_checkpoint(file)
    content = read_content(file)
    state = network_state(content)
    epoch = 0 if card.config["head"]["kind"] in FITTED_HEADS else int(content["epoch"]) + 1
    fold = int(card.config["split"]["fold"])
    return Member(fold, network, card, state, content, epoch, weights_sha256(state))


def weights_sha256(state: dict[str, Any]) -> str:
    """sha256 of a state dict's names and values."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
