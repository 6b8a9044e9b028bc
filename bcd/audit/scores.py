"""Scores of sources beside the network's own, on each split."""

from __future__ import annotations

from dataclasses import replace

from bcd.audit.network import frozen_features
from bcd.audit.probes import (
    Score,
    Unmeasured,
    learnt_from,
    remembered,
    score,
    without_colour,
)
from bcd.audit.shortcuts import DECOLOURED, NETWORK
from bcd.audit.sources import COLOUR, MASKED, SOURCES
from bcd.config.programs import AuditConfig
from bcd.config.schema import SplitConfig
from bcd.console import say, track
from bcd.data.catalog import Catalog
from bcd.data.quality.profile import DataProfile
from bcd.data.splits.split import Split, make_split
from bcd.errors import BcdError


def all_scores(
    cfg: AuditConfig, catalog: Catalog, profile: DataProfile, split: Split
) -> tuple[list[Score | Unmeasured], list[Score]]:
    """Scores of each source beside the network and of the network, on each split."""
    splits = _splits(cfg.split, catalog, profile, split)
    names = [name for name in SOURCES if not (cfg.data.mask_scale_bar and name == MASKED)]
    jobs = [(name, where) for name in names for where in splits]
    scores = []
    for name, where in track(jobs, "Telling the class from colour, corners and files", len(jobs)):
        scores.append(cached_score(name, catalog, profile, splits[where], where))
    if not cfg.network:
        return scores, []
    try:
        features = frozen_features(catalog, cfg.data, cfg.model, cfg.features, cfg.device)
    except BcdError as error:
        say(f"the network's own score is left out: {error}")
        return scores, []
    colours, network = SOURCES[COLOUR](profile.statistics, catalog), []
    for where, own in splits.items():
        rest = without_colour(features, colours, learnt_from(own))
        for name, values in ((NETWORK, features), (DECOLOURED, rest)):
            found = score(name, values, catalog, own, where, linear=True)
            if isinstance(found, Score):
                network.append(found)
            else:
                say(f"no score of {name} on the {where} split: {found.reason}")
    return scores, network


def cached_score(
    name: str, catalog: Catalog, profile: DataProfile, split: Split, where: str
) -> Score | Unmeasured:
    """Scores a source on a split; remembered for the same images and split."""

    def compute() -> Score | Unmeasured:
        return score(name, SOURCES[name](profile.statistics, catalog), catalog, split, where)

    return replace(remembered(catalog, split, name, compute), split=where)


def _splits(
    cfg: SplitConfig, catalog: Catalog, profile: DataProfile, own: Split
) -> dict[str, Split]:
    """The user's own split first, then a random and a grouped one where it is neither."""
    splits = {cfg.kind: own}
    wanted = {
        "stratified": replace(cfg, kind="stratified"),
        "grouped": replace(cfg, kind="grouped", groups="auto"),
    }
    for name, other in wanted.items():
        if name not in splits:
            try:
                splits[name] = make_split(catalog, other, profile)
            except BcdError as error:
                say(f"no {name} split to compare with: {error}")
    return splits
