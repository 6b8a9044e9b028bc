"""Loads the model that the server answers with, and checks it; nothing is served otherwise."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bcd.config.serve import ServeConfig
from bcd.config.sites import read_sites
from bcd.data.input_views import views_to_read
from bcd.data.items import Wanted
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.errors import BcdError, ConfigError
from bcd.inference.exported import SUFFIX, ExportedModel, read_exported
from bcd.inference.model import Model
from bcd.inference.self_test import check_self_test
from bcd.serving.answers import ModelIdentity
from bcd.serving.engine.demo import DEMO_NAME, demo_model
from bcd.serving.engine.queue import Engine
from bcd.serving.engine.sites import read_ways
from bcd.storage import typed_path

if TYPE_CHECKING:
    from bcd.inference.checkpoint_model import CheckpointModel

_SAME = 1e-4  # largest difference of a probability between an image alone and in a batch


def load_engine(cfg: ServeConfig) -> Engine:
    """Loads the model, checks that it answers as it should, and starts reading processes.

    Args:
        cfg: Checked configuration.

    Raises:
        BcdError: There is no such model; it has not the expected sha256 or signature, no decision
            policy or no card; it does not answer as when it was exported, or not the same twice;
            or images cannot be read.
        BcdError: A site's profile or threshold cannot be used with it.
        ConfigError: `verify` is given for a checkpoint.
    """
    model, identity = load_model(cfg)
    ways = read_ways(read_sites(cfg), model)
    engine = Engine(model, identity, cfg.limits, ways=ways)
    engine.check()
    return engine


def load_model(cfg: ServeConfig) -> tuple[Model, ModelIdentity]:
    """Loads and checks the model of `load_engine`."""
    if cfg.model is None:
        if cfg.sha256 is not None or cfg.verify is not None:
            raise ConfigError("model=null: the demo model has no expected sha256 or signature")
        file = demo_model(Path(cfg.folder))
        return _exported(str(file), cfg, cfg.name or DEMO_NAME)
    if Path(cfg.model).suffix.lower() == SUFFIX:
        return _exported(cfg.model, cfg, cfg.name or Path(cfg.model).name)
    if cfg.verify is not None:
        raise ConfigError(f"verify={cfg.verify}: needs an exported model (*{SUFFIX})")
    return _checkpoint(cfg.model, cfg)


def _exported(file: str, cfg: ServeConfig, name: str) -> tuple[ExportedModel, ModelIdentity]:
    given = f"model={file}"
    data = read_exported(file, cfg.verify)
    sha256 = _check_sha256(given, data, cfg.sha256)
    model = ExportedModel(file, True, cfg.device, data=data)
    _check_calibrated(given, model)
    precision = str(model.content.get("precision"))
    check_self_test(given, model, model.content.get("self_test"), precision)
    version = str(model.content.get("bcd_version", ""))
    return model, _identity(model, name, sha256, version, "export")


def _checkpoint(text: str, cfg: ServeConfig) -> tuple[CheckpointModel, ModelIdentity]:
    given = f"model={text}"
    try:
        from bcd.inference.checkpoint import load_checkpoint
        from bcd.inference.checkpoint_model import CheckpointModel
    except ModuleNotFoundError as error:
        raise BcdError(
            f"{given}: needs the package {error.name}: pip install bcd, or give a file from "
            "bcd export"
        ) from error

    file = _checkpoint_file(text)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BcdError(f"{given}: cannot be read ({error.strerror})") from error
    sha256 = _check_sha256(given, data, cfg.sha256)
    try:
        network, card = load_checkpoint(file, uncalibrated=True, data=data)
    except BcdError as error:
        raise BcdError(str(error).replace("ckpt=", "model=", 1)) from error
    model = CheckpointModel(network, card, cfg.device)
    _check_calibrated(given, model)
    _check_steady(given, model)
    version = str(card.versions.get("bcd", ""))
    return model, _identity(
        model, cfg.name or Path(text).name or file.name, sha256, version, "checkpoint"
    )


def _checkpoint_file(text: str) -> Path:
    """The checkpoint that is meant; never one that is only somewhere below a folder."""
    path = typed_path(text).absolute()
    if not path.is_dir():
        return path
    file = path / "checkpoints" / "best.ckpt"
    if not file.is_file():
        raise BcdError(
            f"model={text}: not the folder of one run (no checkpoints/best.ckpt in it): give that "
            "folder, a checkpoint, or a file from bcd export"
        )
    return file


def _identity(model: Model, name: str, sha256: str, version: str, kind: str) -> ModelIdentity:
    facts = model.facts
    return ModelIdentity(
        name, sha256, version, kind, facts.card_sha256, tuple(facts.classes), facts.benign
    )


def _check_sha256(given: str, data: bytes, expected: str | None) -> str:
    """The sha256 of what is loaded, which must be the expected one."""
    found = hashlib.sha256(data).hexdigest()
    if expected is not None and found != expected.strip().lower():
        raise BcdError(f"{given}: its sha256 is {found}, not the one that sha256= gives")
    return found


def _check_calibrated(given: str, model: Model) -> None:
    if not model.facts.calibrated:
        raise BcdError(
            f"{given}: uncalibrated: it has no decision policy, so nothing would be known about "
            "its answers: give best.ckpt of a run that ended, or an export of it"
        )


def _check_steady(given: str, model: Model) -> None:
    """Refuses a checkpoint whose answers for drawn smears are not finite or not the same."""
    views = model.facts.input_views
    pack = Wanted(views_to_read(views), model.facts.mask_scale_bar).pack
    side = max(view.image_side for view in views)
    drawn = [draw_smear(n, slide=i, index=i, size=side) for i, n in enumerate(CLASS_NAMES)]
    packed = np.stack([pack(one) for one in drawn])
    first, again = model.answer(packed), model.answer(packed)
    alone = np.concatenate([model.answer(one[None]).probabilities for one in packed])
    known = np.isfinite(first.probabilities).all() and np.isfinite(first.ood_scores).all()
    twice = np.array_equal(first.probabilities, again.probabilities)
    if not known or not twice or np.abs(first.probabilities - alone).max() > _SAME:
        raise BcdError(
            f"{given}: failed the self-test: its answers for drawn smears are not finite, or not "
            "the same twice: try device=cpu, or another checkpoint"
        )
