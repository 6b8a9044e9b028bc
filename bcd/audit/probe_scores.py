"""Scores of all probes on each split, including those on features of the frozen network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from bcd.audit.brief import cached_score
from bcd.audit.probes import (
    ProbeScore,
    SkippedProbe,
    fit_indices,
    regress_out_colour,
    score_probe,
)
from bcd.audit.shortcuts import NETWORK, WITHOUT_COLOUR
from bcd.audit.sources import COLOUR, MASKED, SOURCES
from bcd.config.compose import with_defaults
from bcd.config.programs import AuditConfig
from bcd.config.schema import (
    AugmentConfig,
    DataConfig,
    FeaturesConfig,
    ModelConfig,
    SplitConfig,
)
from bcd.console import say, track
from bcd.data.catalog import Catalog
from bcd.data.quality.profile import DataProfile
from bcd.data.splits.split import Split, make_split
from bcd.data.views import PLAIN, Augmenter, ImageViews
from bcd.errors import BcdError
from bcd.evaluation.collect import choose_device
from bcd.features.cached import Need, cached_source
from bcd.models.backbones.build import build_backbone
from bcd.models.cells import mean_of_cells
from bcd.models.network import SmearNetwork


def all_scores(
    cfg: AuditConfig,
    catalog: Catalog,
    profile: DataProfile,
    split: Split,
    features: NDArray[np.float32] | None,
) -> tuple[list[ProbeScore | SkippedProbe], list[ProbeScore]]:
    """Scores of probes on each source, and on the network's features, for each split.

    Args:
        cfg: Checked configuration.
        catalog: The images.
        profile: Of the same.
        split: Of the same.
        features: Of the frozen network, (n, channels); None leaves out the network's scores.
    """
    splits = _splits(cfg.split, catalog, profile, split)
    names = [name for name in SOURCES if not (cfg.data.mask_scale_bar and name == MASKED)]
    jobs = [(name, where) for name in names for where in splits]
    scores = []
    for name, where in track(
        jobs, "Predicting the class from colour, corners and files", len(jobs)
    ):
        scores.append(cached_score(name, catalog, profile, splits[where], where))
    if features is None:
        return scores, []
    colours, network = SOURCES[COLOUR](profile.statistics, catalog), []
    for where, own in splits.items():
        rest = regress_out_colour(features, colours, fit_indices(own))
        for name, values in ((NETWORK, features), (WITHOUT_COLOUR, rest)):
            found = score_probe(name, values, catalog, own, where, linear=True)
            if isinstance(found, ProbeScore):
                network.append(found)
            else:
                say(f"no score for {name} on the {where} split: {found.reason}")
    return scores, network


def network_features(cfg: AuditConfig, catalog: Catalog) -> tuple[NDArray[np.float32] | None, str]:
    """Features of the frozen network, (n, channels), or None and the reason, as a sentence."""
    if not cfg.network:
        return None, "Not computed: network=false leaves out the network's features."
    try:
        return frozen_features(catalog, cfg.data, cfg.model, cfg.features, cfg.device), ""
    except BcdError as error:
        say(f"the network's score, the map and labels to check are skipped: {error}")
        return None, f"Not computed, because the network's features are not available: {error}."


def frozen_features(
    catalog: Catalog, data: DataConfig, model: ModelConfig, features: FeaturesConfig, device: str
) -> NDArray[np.float32]:
    """Pooled features of all images from the frozen network, (n, channels), via the bank.

    Raises:
        BcdError: The weights are not available.
    """
    frozen = replace(model, unfreeze=0)
    network = SmearNetwork(build_backbone(frozen), len(catalog.classes), frozen).eval()
    augmenter = Augmenter(with_defaults(AugmentConfig), 0)
    views = ImageViews.of(
        catalog, model.input_size, augmenter, data.mask_scale_bar, model.views, roi=model.roi
    )
    needs = [Need(range(len(catalog.images)), (PLAIN,))]
    # Features can only be read from a bank; this one is shared with training.
    cached = replace(features, bank=True)
    with cached_source(cached, frozen, network, views, needs, choose_device(device)) as source:
        rows = [source[(i, PLAIN)][0].numpy() for i in range(len(catalog.images))]
    found = np.stack(rows)
    if network.prefix.of_cells:
        found = mean_of_cells(torch.from_numpy(found)).numpy()
    return found


def _splits(
    cfg: SplitConfig, catalog: Catalog, profile: DataProfile, own: Split
) -> dict[str, Split]:
    """The configured split first, then a random and a grouped one if it is neither."""
    splits = {cfg.kind: own}
    wanted = {
        "stratified": replace(cfg, kind="stratified", folds=None, fold=0),
        "grouped": replace(cfg, kind="grouped", groups="auto"),
    }
    for name, other in wanted.items():
        if name not in splits:
            try:
                splits[name] = make_split(catalog, other, profile)
            except BcdError as error:
                say(f"no {name} split for comparison: {error}")
    return splits
