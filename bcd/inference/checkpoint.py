"""Self-describing checkpoints: plain data with a card."""

from __future__ import annotations

import io
import os
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from bcd.config.head import HeadConfig
from bcd.config.input_views import WHOLE, InputView
from bcd.config.schema import ModelConfig
from bcd.data.input_views import definition, sides_of
from bcd.data.quality.appearance import Appearance
from bcd.data.splits.split import sha256_of
from bcd.errors import BcdError
from bcd.evaluation.calibration import check_priors
from bcd.evaluation.decision import DecisionPolicy
from bcd.models.backbones.build import empty_backbone
from bcd.models.checkpoint_content import (
    CARD_VERSION,
    check_version,
    network_state,
    read_content,
)
from bcd.models.network import SmearNetwork
from bcd.run_folder import versions
from bcd.storage import plain_json, replacing

_OF_IMAGES = ("split", "groups", "pretrained_on")


@dataclass
class Card:
    """What a checkpoint records about itself.

    Attributes:
        classes: Class names; index i of the output is `classes[i]`.
        benign: Index of the class that is not cancer, None where there is none.
        input_size: Height and width in pixels of the input views that name none.
        views: Definition of each input view: its normalization and region with constants, and its
            side.
        mean: Per channel, for values between 0 and 1; RGB.
        std: Per channel.
        interpolation: How images are resized.
        mask_scale_bar: Whether the corner with the scale bar is masked.
        data_root: Folder of the images at the time of the run.
        split: `<sha256> <class>` of each image of train, val and test.
        fingerprint: sha256 over these images and their classes.
        config: The resolved configuration of the run.
        versions: Of Python and the packages that results depend on.
        val_metrics: Figures on the val set at the epoch that was saved.
        groups: Cluster of each image by sha256, as `Split.clusters`; without single images.
        pretrained_on: sha256 of the images that the weights the run started from were trained or
            chosen on.
        policy: The decision policy as `DecisionPolicy.to_plain` writes it: temperature, thresholds,
            their guarantees, and what training images are like. None until it is fitted on val at
            the end of training.
        appearance: What the training images look like, as `Appearance.to_plain` writes it; None
            until the end of training, or if they are too few.
        external: Results on other sites (`bcd eval … record=true`), one dict each: site, date,
            fingerprint and numbers of images and groups, class map, metrics.
        recalibration: If temperature and threshold were fitted to a site's labels afterwards:
            these images, and metrics before and after. None: they are from val.
        members: Number of members whose probabilities the network averages; 1 for a single model.
        test_time: Name of the test-time views that it averages over; None for none.
        release: Of a release, how it was made and its out-of-fold metrics, as `bcd.release` writes
            them: recipe, protocol, split, members with their hashes. None for a training run.
        version: Version of the card's format.
    """

    classes: list[str]
    benign: int | None
    input_size: int
    views: list[dict[str, Any]]
    data_root: str
    split: dict[str, list[str]]
    fingerprint: str
    config: dict[str, Any]
    mean: list[float]
    std: list[float]
    interpolation: str = "area when shrinking, bilinear when enlarging"
    mask_scale_bar: bool = False
    versions: dict[str, str] = field(default_factory=lambda: versions())
    val_metrics: dict[str, float] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    pretrained_on: list[str] = field(default_factory=list)
    policy: dict[str, Any] | None = None
    appearance: dict[str, Any] | None = None
    external: list[dict[str, Any]] = field(default_factory=list)
    recalibration: dict[str, Any] | None = None
    members: int = 1
    test_time: str | None = None
    release: dict[str, Any] | None = None
    version: int = CARD_VERSION

    def sha256s(self, *subsets: str) -> set[str]:
        """sha256 of the images of some subsets; of all subsets where none is given."""
        return {sha256_of(one) for name in subsets or self.split for one in self.split[name]}

    def seen(self) -> set[str]:
        """sha256 of the images that the model was trained, chosen or recalibrated on.

        Includes those that the weights it started from were trained on.
        """
        recalibrated = (self.recalibration or {}).get("images", ())
        return self.sha256s("train", "val") | {*self.pretrained_on, *recalibrated}

    @property
    def view_names(self) -> list[str]:
        """The input views as `model.views` lists them."""
        return [f"{view.normalization}@{view.image_side}" for view in self.input_views]

    @property
    def roi(self) -> str:
        """What of an image the network gets, as `data.roi`."""
        return self.input_views[0].roi

    @property
    def input_views(self) -> tuple[InputView, ...]:
        """The input views, whose features the head takes in this order."""
        return tuple(
            InputView(
                view["normalization"], view["side"], view.get("roi", WHOLE), view.get("cut_from")
            )
            for view in self.views
        )

    @property
    def sides(self) -> tuple[int, ...]:
        """The sides in pixels to which images are resized, ascending."""
        return sides_of(self.input_views)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as the checkpoint stores it."""
        return asdict(self)

    def text(self) -> str:
        """JSON in ASCII, without lists that have an entry for each image and without tensors."""
        plain = {name: value for name, value in self.to_dict().items() if name not in _OF_IMAGES}
        if plain["policy"] is not None:
            plain["policy"] = {k: v for k, v in plain["policy"].items() if k != "subspace"}
        return plain_json(plain)


def save_content(content: dict[str, Any], file: Path) -> None:
    """Writes a checkpoint atomically.

    Raises:
        OSError: The disk is full or not writable; an existing file is left unchanged.
    """
    # Into memory first: when torch writes to the disk, it hides the reason of a failure.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with replacing(file) as stream:
        stream.write(buffer.getbuffer())


def write_policy(
    file: Path, content: dict[str, Any], policy: dict[str, Any], appearance: dict[str, Any] | None
) -> None:
    """Rewrites a checkpoint atomically, with decision policy and appearance in its card."""
    content["card"] |= {"policy": policy, "appearance": appearance}
    save_content(content, file)


def write_external(file: Path, external: list[dict[str, Any]]) -> None:
    """Rewrites a checkpoint atomically, with the results on other sites in its card.

    Its time of modification is kept: the newest checkpoint of a folder is the last one trained.
    """
    content, before = read_content(file), file.stat()
    content["card"]["external"] = external
    save_content(content, file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _check_views(card: Card, model: ModelConfig, file: Path) -> None:
    """Refuses input views that this version makes with other constants."""
    now = [definition(view) for view in model.input_views()]
    for name, recorded, own in zip(model.views, card.views, now, strict=True):
        if recorded != own:
            raise BcdError(
                f"ckpt={file}: its view {name} was made as {recorded}, but this version makes it "
                f"as {own}: use the version it was trained with, or train again"
            )


def restore_network(card: Card, state: dict[str, Any]) -> SmearNetwork:
    """The network of a card with the given weights, in eval mode; tensors are not copied.

    Raises:
        RuntimeError: The weights are not those of this network.
    """
    model, head = ModelConfig(**card.config["model"]), HeadConfig(**card.config["head"])
    backbone = replace(empty_backbone(model), mean=tuple(card.mean), std=tuple(card.std))
    network = SmearNetwork(backbone, len(card.classes), model, head, card.members, card.test_time)
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval().to(memory_format=torch.channels_last)


def load_checkpoint(
    file: Path, uncalibrated: bool = False, data: bytes | None = None
) -> tuple[SmearNetwork, Card]:
    """Loads a network in eval mode and its card; runs no code from the file.

    Args:
        file: The checkpoint.
        uncalibrated: Whether to accept one without a decision policy, whose probabilities are not
            calibrated.
        data: The file's bytes; None: it is read now.

    Raises:
        BcdError: Not a checkpoint of this project, one with another version of the card, or one
            without a policy.
    """
    try:
        content = read_content(file if data is None else io.BytesIO(data))
        values = dict(content["card"])
        state = network_state(content)
    except Exception as error:
        raise BcdError(f"ckpt={file}: not a checkpoint that train.py wrote") from error
    check_version(values, f"ckpt={file}")
    try:
        card = Card(**{f.name: values[f.name] for f in fields(Card)})
        model = ModelConfig(**card.config["model"])
        _check_views(card, model, file)
        network = restore_network(card, state)
        policy = DecisionPolicy.from_plain(card.policy)
        if policy.priors is not None:
            check_priors(policy.priors, len(card.classes))
        if card.appearance is not None:
            Appearance.from_plain(card.appearance)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise BcdError(
            f"ckpt={file}: not a checkpoint that train.py wrote (card and weights disagree)"
        ) from error
    if card.policy is None and not uncalibrated:
        raise BcdError(
            f"ckpt={file}: uncalibrated: it has no decision policy (its run did not end, or it is "
            "not the best epoch's): give best.ckpt of a run that ended, or uncalibrated=true to "
            "predict every image and refer it"
        )
    return network, card
