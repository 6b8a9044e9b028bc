"""The sites that one server answers for; fast to import."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

from bcd.config.programs import SITE_COLOURS
from bcd.config.values import one_of
from bcd.errors import ConfigError
from bcd.storage import typed_path

ALL = "all"  # what commands and pages call all sites
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_NAMES = "letters (a to z), digits, _ and -, at most 32, and begin with a letter or digit"


class Configured(Protocol):
    """What is read of a `ServeConfig`."""

    site: str
    sites: dict[str, Any]
    watch: str | None


@dataclass(frozen=True)
class Site:
    """A site of a server.

    Attributes:
        name: As recorded; empty for the own site of a server that has not named it.
        profile: File that `bcd site` wrote; None: images are not matched.
        scale: Whether images are rescaled by the profile.
        colour: How colours are matched by it.
        threshold: Probability from which an image is called malignant; None: the policy's.
        watch: Folder that the site's scanner writes to; None: none.
        ae_titles: Application entity titles of its DICOM senders.
    """

    name: str
    profile: str | None = None
    scale: bool = True
    colour: str = "none"
    threshold: float | None = None
    watch: str | None = None
    ae_titles: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What errors call it."""
        return f"sites.{self.name}"


def read_sites(cfg: Configured) -> dict[str, Site]:
    """The sites of a server by name, its own first.

    The server's own site, `site`, may also be among `sites` to have a profile or a threshold. Its
    watch folder is `watch`.

    Raises:
        ConfigError: A name, a key or a value is not valid; or two sites have the same watch
            folder, or one inside the other's, or the same AE title.
    """
    if cfg.site:
        _check_name("site", cfg.site)
    given = {str(name): values for name, values in cfg.sites.items()}
    names = {cfg.site.casefold(): cfg.site}
    for name in given:
        _check_name(f"sites.{name}", name)
        if names.setdefault(name.casefold(), name) != name:
            raise ConfigError(f"sites.{name}: differs from {names[name.casefold()]} in case only")
    own = _site(cfg.site, given.pop(cfg.site, {}))
    if own.watch is not None and cfg.watch is not None:
        raise ConfigError(f"{own.key}.watch: give watch={own.watch} instead, and no other one")
    own = Site(**{**vars(own), "watch": own.watch if cfg.watch is None else cfg.watch})
    sites = {own.name: own, **{name: _site(name, values) for name, values in given.items()}}
    _check_watch(sites)
    _check_titles(sites)
    return sites


def _check_name(key: str, name: str) -> None:
    if name == ALL:
        raise ConfigError(f"{key}: {ALL} stands for all sites: give the site another name")
    if not NAME.fullmatch(name):
        raise ConfigError(f"{key}: names of sites have {_NAMES}")


def _site(name: str, given: Any) -> Site:
    from bcd.config.check import nearest

    key = f"sites.{name}"
    known = [field.name for field in fields(Site) if field.name != "name"]
    if not isinstance(given, Mapping):
        raise ConfigError(f"{key}={given}: give it keys, such as {key}.threshold=0.3")
    for inner in given:
        if inner not in known:
            raise ConfigError(f"{key}.{inner}: unknown key{nearest(str(inner), known)}")
    values = {**{field.name: field.default for field in fields(Site)}, **given}
    for inner, kind in (("profile", str), ("watch", str), ("scale", bool), ("colour", str)):
        value = values[inner]
        if not isinstance(value, kind) and (value is not None or inner in ("scale", "colour")):
            needs = "true or false" if kind is bool else "text"
            raise ConfigError(f"{key}.{inner}={value}: needs {needs}")
    one_of(f"{key}.colour", values["colour"], SITE_COLOURS)
    if values["profile"] is None and (values["colour"] != "none" or "scale" in given):
        inner = "scale" if "scale" in given else "colour"
        raise ConfigError(f"{key}.{inner}={values[inner]}: needs {key}.profile=<from bcd site>")
    values["threshold"] = _threshold(f"{key}.threshold", values["threshold"])
    titles = values["ae_titles"]
    if not isinstance(titles, list | tuple) or not all(isinstance(one, str) for one in titles):
        raise ConfigError(f"{key}.ae_titles={titles}: needs a list of text, such as [SCANNER2]")
    return Site(**{**values, "name": name, "ae_titles": tuple(one.strip() for one in titles)})


def _threshold(key: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{key}={value}: needs a number")
    if not 0 < value < 1:
        raise ConfigError(f"{key}={value}: must be between 0 and 1")
    return float(value)


def _check_watch(sites: Mapping[str, Site]) -> None:
    """Each subfolder of a watch folder is a case, so none may be another site's folder."""
    known: dict[str, str] = {}
    for key, folder in _watched(sites):
        path = os.path.realpath(typed_path(folder).absolute())
        for other, whose in known.items():
            if os.path.commonpath([path, other]) in (path, other):
                how = "the same folder as" if path == other else "inside, or around, that of"
                raise ConfigError(f"{key}={folder}: {how} {whose}: give each site its own")
        known[path] = key


def _watched(sites: Mapping[str, Site]) -> Iterator[tuple[str, str]]:
    own = next(iter(sites))
    for site in sites.values():
        if site.watch is not None:
            yield "watch" if site.name == own else f"{site.key}.watch", site.watch


def _check_titles(sites: Mapping[str, Site]) -> None:
    known: dict[str, str] = {}
    for site in sites.values():
        for title in site.ae_titles:
            if not title or len(title) > 16 or not title.isascii() or "\\" in title:
                raise ConfigError(
                    f"{site.key}.ae_titles: '{title}' is no AE title: at most 16 ASCII characters"
                )
            if known.setdefault(title, site.key) != site.key:
                raise ConfigError(
                    f"{site.key}.ae_titles: {title} is of {known[title]} already: a sender "
                    "belongs to one site"
                )
