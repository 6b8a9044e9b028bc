"""Answers of the members of a release for all images, and metrics under corruption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from bcd.config.training import TrainConfig
from bcd.data.catalog import Catalog
from bcd.data.loading import ViewSampler, make_loader
from bcd.data.splits.split import Split, recorded_indices
from bcd.data.views import PLAIN, Augmenter, ImageViews
from bcd.errors import BcdError
from bcd.evaluation.brief_robustness import BRIEF_IMAGES, brief_robustness, brief_table
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.out_of_fold import MemberAnswers
from bcd.evaluation.robustness_table import Rows
from bcd.features.cached import Need, cached_source
from bcd.features.describe import describe
from bcd.models.network import SmearNetwork
from bcd.release.members import Member


@dataclass(frozen=True)
class Images:
    """The images of a release.

    Attributes:
        cfg: Configuration of the first fold.
        catalog: All images.
        indices: Of the images in folds, ascending.
        folds: The fold of each of `indices`, (n,).
        clusters: Cluster of each of `indices`, as `Split.clusters`.
        groups: Group of each of `indices`; empty if unknown.
        validated: Which members had each of `indices` in val, (members, n).
        device: Where to compute.
    """

    cfg: TrainConfig
    catalog: Catalog
    indices: list[int]
    folds: NDArray[np.int64]
    clusters: list[str]
    groups: list[str]
    validated: NDArray[np.bool_]
    device: torch.device

    def of_fold(self, fold: int) -> list[int]:
        """Indices of a fold's images."""
        return [i for i, own in zip(self.indices, self.folds, strict=True) if own == fold]


def find_folds(
    catalog: Catalog, members: Sequence[Member]
) -> tuple[list[int], NDArray[np.int64], NDArray[np.bool_]]:
    """Finds the images that the members' cards record as left out.

    Returns:
        Their indices, the fold of each, and which members had each in val, (members, n).

    Raises:
        BcdError: An image is in several folds, or not there any more.
    """
    fold_of: dict[int, int] = {}
    for member in members:
        recorded = member.card.split["test"]
        found = recorded_indices(catalog, recorded)
        if len(found) != len(recorded) or fold_of.keys() & set(found):
            raise BcdError(
                f"fold {member.fold}: {len(recorded)} images were left out, but "
                f"{len(set(found) - fold_of.keys())} of them are in {catalog.root} and in no other "
                "fold: restore the images, or start in a new folder"
            )
        fold_of |= dict.fromkeys(found, member.fold)
    indices = sorted(fold_of)
    validated = [set(recorded_indices(catalog, m.card.split["val"])) for m in members]
    return (
        indices,
        np.array([fold_of[i] for i in indices], np.int64),
        np.array([[i in images for i in indices] for images in validated]),
    )


def check_unchanged(member: Member, catalog: Catalog, split: Split) -> None:
    """Checks that a fold was trained on the images that are there now.

    Raises:
        BcdError: Images were added, removed, changed, or have other classes.
    """
    if split.hashes(catalog) != member.card.split:
        raise BcdError(
            f"images in {catalog.root} are not those that fold {member.fold} was trained on: "
            "restore them, or make a release in a new folder"
        )


def collect_members(images: Images, network: SmearNetwork, compared: bool) -> MemberAnswers:
    """Runs an ensemble over all images, keeping the answers of each member.

    Args:
        images: All images.
        network: The ensemble of all members. With test-time views, features are not cached.
        compared: Whether the members are shipped, so that their disagreement counts.
    """
    cfg, source = images.cfg, image_views(images)
    keys = [(i, PLAIN) for i in images.indices]
    described = describe(cfg.features, cfg.model, network, source, keys, images.device)
    logits, labels = _collect(images, network, source, images.indices, network.test_time is None)
    validated = images.validated if compared else None
    return MemberAnswers(logits, images.folds, described, labels, validated)


def collect_own(images: Images, networks: Sequence[SmearNetwork]) -> NDArray[np.float32]:
    """Log-probabilities (n, classes) of each image, by the network of its fold."""
    source, found = image_views(images), np.empty((0, 0), np.float32)
    for fold, network in enumerate(networks):
        rows = np.flatnonzero(images.folds == fold)
        logits, _ = _collect(images, network, source, images.of_fold(fold), True)
        if not found.size:
            found = np.empty((len(images.folds), logits.shape[2]), np.float32)
        found[rows] = logits[0]
    return found


@torch.inference_mode()
def _collect(
    images: Images, network: SmearNetwork, source: ImageViews, indices: Sequence[int], cached: bool
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Log-probabilities (members, n, classes) and labels (n,) of some images."""
    cfg, needs = images.cfg, [Need(indices, (PLAIN,))]
    features = replace(cfg.features, bank=cfg.features.bank and cached)
    network.eval().to(images.device)
    parts, labels = [], []
    with cached_source(features, cfg.model, network, source, needs, images.device) as loaded:
        sampler = ViewSampler(indices, 0, 0)
        for inputs, target in make_loader(
            loaded, sampler, cfg.data.batch_size, cfg.data.num_workers
        ):
            parts.append(network.each(inputs.to(images.device)).float().cpu().numpy())
            labels.append(target.numpy())
    return np.concatenate(parts, axis=1), np.concatenate(labels).astype(np.int64)


def image_views(images: Images) -> ImageViews:
    """The plain images, as the members take them."""
    cfg = images.cfg
    augmenter = Augmenter(cfg.augment, cfg.seed)
    model = cfg.model
    return ImageViews.of(
        images.catalog,
        model.input_size,
        augmenter,
        cfg.data.mask_scale_bar,
        model.views,
        roi=model.roi,
    )


def corrupted_rows(
    images: Images, members: Sequence[Member], parts: Sequence[DecisionPolicy]
) -> Rows:
    """The brief test of robustness: each image by the member and the policy of its fold."""
    cfg, count = images.cfg, BRIEF_IMAGES // len(members)
    found = [
        brief_robustness(
            member.network, policy, images.catalog, images.of_fold(member.fold), cfg.model,
            cfg.features, cfg.data.mask_scale_bar, images.device, count,
        )
        for member, policy in zip(members, parts, strict=True)
    ]  # fmt: skip
    groups = dict(zip(images.indices, images.clusters, strict=True)) if any(images.clusters) else {}
    return brief_table(found, images.catalog.benign, groups)
