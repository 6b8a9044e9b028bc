"""One more model, trained on all images, in place of the average of the folds' members."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bcd.config.training import TrainConfig, target_of
from bcd.console import say
from bcd.data.splits.split import Split
from bcd.errors import BcdError
from bcd.inference.checkpoint import restore_network
from bcd.models.checkpoint_content import network_state, read_content
from bcd.release.answers import Images
from bcd.release.members import FOLDS, Member, member_config, weights_sha256
from bcd.storage import write_text
from bcd.training.build import (
    cached_features,
    make_callbacks,
    make_classifier,
    make_datamodule,
    make_run,
    make_trainer,
)
from bcd.training.fit import best_checkpoint, fit

ALL = "all"  # folder of its run
_DONE = "done.txt"


def train_whole(
    images: Images, members: Sequence[Member], words: Sequence[str], folder: Path
) -> Member:
    """Trains a model on all images for as many epochs as the folds kept, by their median.

    Args:
        images: All images.
        members: Those of the folds.
        words: From `member_words`.
        folder: Of the release.

    Raises:
        BcdError: It kept no checkpoint, or was interrupted.
    """
    place = folder / FOLDS / ALL
    epochs = round(statistics.median(member.epoch for member in members))
    if not (place / _DONE).is_file():
        say(f"all images: {epochs} epochs" if epochs else "all images")
        cfg = member_config(words, 0, place)
        best = _train(_without_val(cfg, epochs), images)
        write_text(place / _DONE, f"{best.relative_to(place).as_posix()}\n")
    file = place / (place / _DONE).read_text(encoding="utf-8").strip()
    content = read_content(file)
    state = network_state(content)
    first = members[0]
    network = restore_network(first.card, state)
    return Member(-1, network, first.card, state, content, epochs, weights_sha256(state))


def _without_val(cfg: TrainConfig, epochs: int) -> TrainConfig:
    """The members' configuration without a val set, whose last epoch is kept."""
    trainer = {**cfg.trainer, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    if epochs:
        trainer["max_epochs"] = epochs
    callbacks = {
        name: {**node, "monitor": "epoch", "mode": "max"}
        if target_of(node).endswith("ModelCheckpoint") and node.get("monitor")
        else node
        for name, node in cfg.callbacks.items()
        if not target_of(node).endswith("EarlyStopping")
    }
    return replace(cfg, trainer=trainer, callbacks=callbacks)


def _train(cfg: TrainConfig, images: Images) -> Path:
    made = make_run(cfg)
    inside = set(images.indices)
    subsets = tuple("train" if i in inside else "excluded" for i in range(len(made.split.subsets)))
    run = replace(made, split=Split(subsets, made.split.groups, made.split.clusters))
    datamodule, classifier = make_datamodule(run), make_classifier(run)
    trainer = make_trainer(cfg.trainer, run.folder, make_callbacks(run, quiet=True), [], quiet=True)
    epochs = -1 if cfg.head.fitted else trainer.max_epochs or -1
    with cached_features(run, datamodule, classifier.network, epochs, trainer.strategy.root_device):
        fit(trainer, classifier, datamodule, run.folder, None)
    best = best_checkpoint(trainer)
    if best is None:
        raise BcdError("members=1: no checkpoint was kept: set callbacks.best")
    return best
