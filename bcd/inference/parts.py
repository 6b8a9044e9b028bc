"""The images that a checkpoint is evaluated on: parts of its run's images, and other sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bcd.config.check import command_line
from bcd.config.programs import SUBSETS, ClassNames, CompareConfig, EvalConfig, SiteConfig
from bcd.config.schema import DataConfig
from bcd.console import say
from bcd.data.catalog import Catalog
from bcd.data.class_map import ClassMap
from bcd.data.load import load_catalog
from bcd.data.quality.appearance import kept_sides
from bcd.data.splits.split import recorded_indices
from bcd.errors import BcdError, ConfigError
from bcd.inference.checkpoint import Card
from bcd.storage import typed_path


@dataclass(frozen=True)
class Part:
    """Images to evaluate on.

    Attributes:
        key: In `metrics.json`: `test`, `all` and the like, or the name of a site.
        catalog: Holds the images, with the classes of the model.
        indices: Of the images, in the catalog.
        site: Name of the site; empty for images of the run.
        class_map: What the user said about the site's class names.
    """

    key: str
    catalog: Catalog
    indices: list[int]
    site: str = ""
    class_map: ClassNames = field(default_factory=dict)


def find_parts(cfg: EvalConfig, card: Card) -> list[Part]:
    """Loads the images to evaluate on; of several sites, the run's own test set comes first.

    Without `data.root` these are the images of one subset of the run, found by sha256; with
    another root, all images there, divided by the column `site` of a CSV; with `sites`, all images
    of each.

    Raises:
        BcdError: Images are not there, or a class name is not known.
    """
    if cfg.sites:
        found = [
            part for name, site in cfg.sites.items() for part in _of_site(cfg, card, name, site)
        ]
        return _own_test(cfg, card) + found
    if is_own(cfg, card) or cfg.subset not in (None, "all"):
        return [_subset(cfg, card, cfg.subset or "test")]
    assert cfg.data.root is not None
    site = SiteConfig(cfg.data.root, cfg.data.map, cfg.data.group_pattern)
    found = _of_site(cfg, card, "", site)
    if len(found) > 1:
        return _own_test(cfg, card) + found
    return [replace(found[0], key="all")]


def is_own(cfg: EvalConfig | CompareConfig, card: Card) -> bool:
    """Whether `data.root` is that of the training run."""
    root = cfg.data.root
    return root is None or typed_path(root).resolve() == Path(card.data_root).resolve()


def data_config(cfg: EvalConfig | CompareConfig, card: Card) -> DataConfig:
    """The run's `data` group with the overrides of this evaluation.

    Raises:
        BcdError: The images are not there.
    """
    own = is_own(cfg, card)
    root = typed_path(card.data_root if own or cfg.data.root is None else cfg.data.root)
    if not root.exists():
        if not own:
            raise BcdError(f"there are no images at {root}: give data.root=<where they are>")
        raise BcdError(
            f"the run's images are not at {root}: give data.root=<where they are> and "
            f"subset={cfg.subset or 'test'}"
        )
    recorded = dict(card.config["data"])
    recorded["generate"] = None  # the run generated the images
    recorded["root"] = str(root)
    # Elsewhere all images are evaluated.
    recorded["drop_duplicates"] = recorded["drop_duplicates"] and own
    if cfg.data.variant is not None:
        if own and cfg.data.variant != recorded["variant"]:
            say(f"warning: trained on {recorded['variant']} images, now {cfg.data.variant}")
        recorded["variant"] = cfg.data.variant
    return DataConfig(**recorded)


def load_site(
    cfg: EvalConfig, card: Card, key: str, site: SiteConfig, strict: bool = True
) -> Catalog:
    """Loads all images of another site, with the classes of the model.

    Args:
        cfg: Checked configuration.
        card: That of the checkpoint.
        key: Of the site in the configuration, for errors; empty for `data.root`.
        site: Its root, class map and pattern of groups.
        strict: Whether the map may name only classes that the site has.

    Raises:
        BcdError: The images are not there, or a class name is not known.
    """
    data = replace(cfg.data, root=site.root, map=None)
    config = data_config(replace(cfg, data=data, sites=None), card)
    if site.group_pattern is not None:
        config = replace(config, group_pattern=site.group_pattern)
    class_map = ClassMap(site.map or {}, f"{key or 'data'}.map", strict)
    return load_catalog(config, card.classes, kept_sides(card.input_views), class_map)


def _of_site(cfg: EvalConfig, card: Card, name: str, site: SiteConfig) -> list[Part]:
    """All images of a root, divided by site."""
    catalog = load_site(cfg, card, f"sites.{name}" if name else "", site)
    root = typed_path(site.root)
    own_name = name or (root.stem if root.is_file() else root.resolve().name)
    parts = []
    for inner, images in catalog.by_site().items():
        if not name and inner in SUBSETS:
            raise BcdError(
                f"{root} has a site '{inner}': give the site another name: test, val, train and "
                "all are subsets of the run"
            )
        title = f"{name}/{inner}" if name and inner else inner or own_name
        parts.append(Part(title, images, list(range(len(images.images))), title, site.map or {}))
    return parts


def _subset(cfg: EvalConfig, card: Card, subset: str) -> Part:
    if cfg.data.map is not None:
        raise ConfigError(
            "data.map: applies only to another site: give data.root=<its images> and no subset"
        )
    config = data_config(cfg, card)
    if cfg.data.group_pattern is not None:
        config = replace(config, group_pattern=cfg.data.group_pattern)
    catalog = load_catalog(config, card.classes, kept_sides(card.input_views))
    return Part(subset, catalog, choose_recorded(catalog, card, subset))


def _own_test(cfg: EvalConfig, card: Card) -> list[Part]:
    """The run's test set, which `data.root` may locate if there are `sites`.

    It is empty if its images are not there, and of a release, which has none.
    """
    if card.release is not None:
        return []
    root = typed_path(cfg.data.root if cfg.sites and cfg.data.root else card.data_root)
    if not root.exists():
        say(f"warning: the run's images are not at {root}: its own test set is left out")
        return []
    data = replace(cfg.data, root=str(root), map=None)
    return [_subset(replace(cfg, data=data, sites=None, subset="test"), card, "test")]


def choose_recorded(catalog: Catalog, card: Card, subset: str) -> list[int]:
    """Indices of the images of a subset of the run, found by sha256.

    Raises:
        BcdError: None is there.
    """
    if subset == "all":
        return list(range(len(catalog.images)))
    if card.release is not None and not card.split[subset]:
        raise BcdError(
            f"a release has no {subset} set: all images of {catalog.root} were trained on. Their "
            "answers by members that have not seen them are in the release's metrics.json; give "
            "data.root=<images of another site>, or subset=all"
        )
    indices = recorded_indices(catalog, card.split[subset])
    missing = len(card.split[subset]) - len(indices)
    if not indices:
        raise BcdError(
            f"none of the run's {subset} images is in {catalog.root}: set subset=all to evaluate "
            "all images there"
        )
    if missing:
        say(f"warning: {missing} of the run's {subset} images are not in {catalog.root}")
    return indices


def warn_of_idle(cfg: EvalConfig) -> None:
    """Warns of settings that were given but have no effect."""
    if cfg.recalibrate is None:
        if given := command_line().get("min_sensitivity"):
            say(f"warning: {given} has no effect without recalibrate")
    elif cfg.subset is not None:
        say(f"warning: subset={cfg.subset} has no effect with recalibrate, which uses all images")


def warn_of_relabelled(catalog: Catalog, card: Card) -> None:
    """Warns where all images of the run are there, but some have another class."""
    recorded = [image for part in card.split.values() for image in part]
    found = recorded_indices(catalog, recorded)
    if len(found) == len(recorded) and catalog.fingerprint(found) != card.fingerprint:
        say(
            f"warning: images in {catalog.root} have other classes than in the run; the figures "
            "use the present ones"
        )


def count_trained(catalog: Catalog, card: Card, indices: Sequence[int]) -> int:
    """Counts the images that a model was trained or chosen on; see `Card.seen`."""
    seen = card.seen()
    return sum(catalog.images[i].sha256 in seen for i in indices)


def warn_of_trained(part: Part, card: Card) -> None:
    """Warns where the model was trained or chosen on images that should be new to it."""
    count = count_trained(part.catalog, card, part.indices)
    if count and part.key not in ("train", "val"):
        say(
            f"warning: {count} of {len(part.indices)} images{f' of {part.site}' * bool(part.site)} "
            "were trained or chosen on (same sha256): the figures are too optimistic"
        )


def check_classes_known(parts: Sequence[Part], card: Card) -> None:
    """Checks that every image has a class of the model, which corruptions are measured by.

    Raises:
        ConfigError: Some are only known to be malignant.
    """
    if any(len(part.catalog.classes) > len(card.classes) for part in parts):
        raise ConfigError(
            "corruptions are measured by class, but some images are only mapped to malignant: map "
            "them to "
            f"{', '.join(card.classes)}, or leave corruptions out"
        )


def check_profiled(parts: Sequence[Part], card: Card) -> None:
    """Checks that a profile would change the images of one other site, and no others.

    Raises:
        ConfigError: There are several sites, or images of the run.
    """
    if len(parts) > 1 or not parts[0].site:
        names = ", ".join(part.site or f"the run's own images ({part.key})" for part in parts)
        raise ConfigError(
            f"site.profile: belongs to the images of one site, but here are {names}: give "
            "data.root=<images of that site alone>"
        )
    (part,) = parts
    own = card.sha256s()
    if count := sum(part.catalog.images[i].sha256 in own for i in part.indices):
        raise ConfigError(
            f"site.profile: belongs to the images of one site, but {count} of "
            f"{len(part.indices)} images of {part.site} are the run's own (same sha256): remove "
            "them"
        )
