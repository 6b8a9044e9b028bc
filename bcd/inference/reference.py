"""Freezes a reference set with a model's answers, and re-runs it with another model version."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

import bcd
from bcd.config.reference import ReferenceConfig
from bcd.console import say, track
from bcd.data.files import ImageError, read_encoded, room_for
from bcd.data.frames import split_frame
from bcd.data.items import Item
from bcd.data.layouts import Entry, benign_index, order_classes
from bcd.data.listing import list_images
from bcd.data.load import entry_group, given_group
from bcd.errors import BcdError
from bcd.evaluation.bootstrap import fill_group_names
from bcd.evaluation.model_change import Answers, ModelChange, compare_versions
from bcd.evaluation.predictions import Prediction
from bcd.evaluation.reference_set import (
    NAME,
    FrozenAnswer,
    FrozenModel,
    FrozenSettings,
    ReferenceImage,
    ReferenceSet,
    read_set,
    write_set,
)
from bcd.evaluation.site_threshold import at_threshold
from bcd.inference.predictor import Predictor, load_model
from bcd.inference.reference_images import check_groups, refuse_own, size_text, without_copies
from bcd.reporting.reference import write_change
from bcd.reporting.reference_words import tell_limits_out_of_reach
from bcd.run_folder import find_checkpoint
from bcd.storage import file_sha256, typed_path


def freeze(cfg: ReferenceConfig) -> Path:
    """Writes a reference set: labelled images by sha256, a model's answers, and the limits.

    Args:
        cfg: Checked configuration.

    Returns:
        The file.

    Raises:
        BcdError: No images, one that cannot be read, classes that the model does not know, or a
            model that cannot be used.
    """
    assert cfg.data.root is not None
    file = Path(cfg.run_dir).absolute() / NAME
    if file.exists():
        raise BcdError(f"{file}: is a frozen set, which stays as it is: give another run_dir")
    base, entries = list_images(typed_path(cfg.data.root).absolute(), cfg.data.variant)
    root = _folder(cfg.data.root, base, entries)
    _refuse_unusable(entries)
    check_groups(entries, base, cfg.data.group_pattern)
    model, predictor = _load(cfg)
    names = order_classes(entry.class_name for entry in entries)
    if unknown := [name for name in names if name not in predictor.classes]:
        raise BcdError(
            f"data.root={cfg.data.root}: has the class '{unknown[0]}', but the model knows only "
            f"{', '.join(predictor.classes)}"
        )
    place = benign_index(predictor.classes, cfg.data.benign)
    hashes: list[str] = []
    answers = _answers(cfg, predictor, [entry.path for entry in entries], hashes)
    if unread := next((p for p in answers if p.error), None):
        raise BcdError(
            f"{unread.path}: {unread.error}: every image of a reference set must be read"
        )
    refuse_own(cfg.site.profile, predictor, hashes)
    listed = [
        ReferenceImage(
            entry.path.relative_to(root).as_posix(), sha256, entry.class_name,
            entry_group(entry, base, cfg.data.group_pattern),
            FrozenAnswer.of(answer),
        )
        for entry, sha256, answer in zip(entries, hashes, answers, strict=True)
    ]  # fmt: skip
    given = [given_group(entry, base, cfg.data.group_pattern) for entry in entries]
    images = without_copies(listed, given)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    benign = None if place is None else predictor.classes[place]
    model = _with_trained(model, predictor, [image.sha256 for image in images])
    frozen = ReferenceSet(now, bcd.__version__, str(root), tuple(predictor.classes), benign,
                          cfg.limits, model, tuple(images))  # fmt: skip
    write_set(file, frozen)
    say(f"reference set: {size_text(images)}; answered by {model.name} ({model.sha256[:12]})")
    if model.trained:
        say(
            f"warning: {model.trained} of {len(images)} images were trained or chosen on (same "
            "sha256): the set does not show how the model answers new images"
        )
    same = _frozen_answers(frozen)
    tell_limits_out_of_reach(_compare(frozen, same, same, None))
    say(f"its sha256: {frozen.sha256} (note it elsewhere: a set that is written anew has another)")
    say(f"re-run it with a newer version: bcd reference set={file} model=<file>")
    return file


def rerun(cfg: ReferenceConfig) -> ModelChange:
    """Answers a reference set with another model, and writes what changed.

    Args:
        cfg: Checked configuration.

    Raises:
        BcdError: The set was edited, an image of it is missing or changed, or the model cannot be
            used or has other classes.
    """
    assert cfg.set is not None
    frozen = read_set(typed_path(cfg.set))
    model, predictor = _load(cfg)
    if set(predictor.classes) != set(frozen.classes):
        raise BcdError(
            f"the set was answered with the classes {', '.join(frozen.classes)}, the model has "
            f"{', '.join(predictor.classes)}: only versions with the same classes can be compared"
        )
    root = _root(cfg, frozen)
    paths = [root / image.path for image in frozen.images]
    hashes: list[str] = []
    answers = _answers(cfg, predictor, paths, hashes, [image.sha256 for image in frozen.images])
    refuse_own(cfg.site.profile, predictor, hashes)
    model = _with_trained(model, predictor, hashes)
    if model.trained is None and model.card_sha256 == frozen.model.card_sha256:
        model = replace(model, trained=frozen.model.trained)  # another file of the same training
    order = [predictor.classes.index(name) for name in frozen.classes]
    old = _frozen_answers(frozen)
    new = _answers_of(frozen, [_ordered(p, order) for p in answers])
    change = _compare(frozen, old, new, model.trained)
    write_change(Path(cfg.run_dir).absolute(), root, frozen, model, (old, new), change)
    return change


def _folder(given: str, base: Path, entries: Sequence[Entry]) -> Path:
    """The folder that paths in a set are relative to; of a CSV, what its images have in common."""
    if not typed_path(given).is_file():
        return base
    try:
        return Path(os.path.commonpath([entry.path.parent for entry in entries]))
    except ValueError:
        raise BcdError(f"data.root={given}: all images must be on one drive") from None


def _root(cfg: ReferenceConfig, frozen: ReferenceSet) -> Path:
    """The folder in which the images of a set are now."""
    if cfg.data.root is None:
        return Path(frozen.root)
    folder = typed_path(cfg.data.root)
    if any(split_frame(folder / image.path)[0].is_file() for image in frozen.images):
        return folder
    return _folder(cfg.data.root, *list_images(folder.absolute(), cfg.data.variant))


def _answers_of(frozen: ReferenceSet, predictions: Sequence[Prediction]) -> Answers:
    labels = [image.class_name for image in frozen.images]
    return Answers.of(predictions, labels, frozen.classes, frozen.benign)


def _frozen_answers(frozen: ReferenceSet) -> Answers:
    return _answers_of(frozen, [image.answer.prediction(image.path) for image in frozen.images])


def _compare(frozen: ReferenceSet, old: Answers, new: Answers, trained: int | None) -> ModelChange:
    groups = fill_group_names([image.group for image in frozen.images])
    malignant = None
    if frozen.benign is not None:
        malignant = np.array([one.class_name != frozen.benign for one in frozen.images], bool)
    return compare_versions(old, new, malignant, groups, frozen.limits, trained)


def _with_trained(model: FrozenModel, predictor: Predictor, hashes: Sequence[str]) -> FrozenModel:
    """Adds how many images it was trained on; an exported file does not hold which they were."""
    card = getattr(predictor.model, "card", None)
    if card is None:
        return model
    seen: set[str] = card.seen()
    return replace(model, trained=sum(sha256 in seen for sha256 in hashes))


def _refuse_unusable(entries: Sequence[Entry]) -> None:
    for entry in entries:
        if entry.reason:
            raise BcdError(f"{entry.path}: {entry.reason}: take it out of the reference set")


def _load(cfg: ReferenceConfig) -> tuple[FrozenModel, Predictor]:
    file = typed_path(cfg.model) if cfg.model is not None else find_checkpoint(str(cfg.ckpt))
    loaded = load_model(
        ckpt=None if cfg.model is not None else file, model=cfg.model, uncalibrated=False,
        device=cfg.device, verify=cfg.verify,
    )  # fmt: skip
    try:
        sha256 = file_sha256(file)
    except OSError as error:
        raise BcdError(f"{file}: cannot be read ({error.strerror})") from error
    if cfg.site.threshold is not None and loaded.facts.benign is None:
        raise BcdError(
            f"site.threshold={cfg.site.threshold}: the model calls no image malignant, as it has "
            "no class that is not cancer: leave the threshold out"
        )
    predictor = Predictor(loaded, cfg.site)
    profile = "" if cfg.site.profile is None else file_sha256(typed_path(cfg.site.profile))
    if not profile and not cfg.site.scale:
        say("warning: site.scale has no effect without site.profile")
    match = (cfg.site.scale, cfg.site.colour) if profile else (False, "none")
    used = FrozenSettings(profile, *match, cfg.site.threshold)
    return FrozenModel(file.name, sha256, loaded.facts.card_sha256, used, None), predictor


def _answers(
    cfg: ReferenceConfig,
    predictor: Predictor,
    paths: Sequence[Path],
    hashes: list[str],
    expected: Sequence[str] | None = None,
) -> list[Prediction]:
    """The answers, in order; `hashes` gets the sha256 of what was answered."""
    items = _items(paths, hashes, expected)
    made = predictor.batches(items, cfg.batch_size, cfg.num_workers)
    batches = track(made, "Predicting", len(paths), len)
    return [
        _at_threshold(prediction, cfg.site.threshold, predictor.facts.benign)
        for batch in batches
        for prediction in batch
    ]


def _items(
    paths: Sequence[Path], hashes: list[str], expected: Sequence[str] | None
) -> Iterator[Item]:
    """Images as bytes, so that what is hashed is what is answered."""
    for place, path in enumerate(paths):
        try:
            with room_for(path):
                encoded = read_encoded(path)
        except ImageError as error:
            raise BcdError(
                f"{path}: {error}: every image of a reference set must be read"
            ) from None
        hashes.append(encoded.sha256)
        if expected is not None and hashes[-1] != expected[place]:
            raise BcdError(f"{path}: is not the image that was frozen (its sha256 differs)")
        yield Item(str(path), data=encoded.data, frame=encoded.frame)


def _ordered(prediction: Prediction, order: Sequence[int]) -> Prediction:
    """A prediction with its probabilities in another order of classes."""
    if not prediction.probabilities:
        return prediction
    ordered = tuple(prediction.probabilities[place] for place in order)
    return replace(prediction, probabilities=ordered)


def _at_threshold(
    prediction: Prediction, threshold: float | None, benign: int | None
) -> Prediction:
    """A prediction with the site's threshold for malignancy, as the server answers."""
    if threshold is None or benign is None or not prediction.probabilities:
        return prediction
    row = np.array(prediction.probabilities)
    malignant, refer = at_threshold(row, prediction.refer, threshold, benign)
    return replace(prediction, malignant=malignant, refer=refer)
