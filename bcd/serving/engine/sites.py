"""How images of each site are matched and called malignant."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bcd.config.programs import SiteMatchConfig
from bcd.config.sites import Site
from bcd.data.matching import Match
from bcd.errors import BcdError
from bcd.inference.exported import ExportedModel
from bcd.inference.model import Model
from bcd.inference.site import find_match
from bcd.serving.errors import UnprocessableError
from bcd.storage import digest, plain_json, typed_path


@dataclass(frozen=True)
class Way:
    """How images of a site are answered.

    Attributes:
        match: How they are made to look like training images; None: not at all.
        profile: sha256 of the site's profile, the file; empty without one.
        threshold: Probability from which they are called malignant; None: the policy's.
    """

    match: Match | None = None
    profile: str = ""
    threshold: float | None = None

    @cached_property
    def match_sha256(self) -> str:
        """Tells matches apart; empty without one."""
        return "" if self.match is None else digest(plain_json(self.match.to_plain()))

    def to_plain(self) -> dict[str, Any]:
        """What the records say of it when the server starts."""
        match = None if self.match is None else self.match.to_plain()
        return {"match": match, "profile": self.profile, "threshold": self.threshold}


AS_TRAINED = Way()


def way_of(ways: Mapping[str, Way], site: str) -> Way:
    """The way of a site.

    Raises:
        UnprocessableError: The server has no such site.
    """
    found = ways.get(site)
    if found is None:
        name = f"the site {site[:32]}" if site else "a site without a name"
        raise UnprocessableError(f"This server is not set up for images of {name}.")
    return found


def read_ways(sites: Mapping[str, Site], model: Model) -> dict[str, Way]:
    """Reads the profiles of sites and checks that the model can be used with them.

    Args:
        sites: By name.
        model: That answers.

    Raises:
        BcdError: A profile cannot be read or used, or the model calls no image malignant.
    """
    return {name: _way(site, model) for name, site in sites.items()}


def _way(site: Site, model: Model) -> Way:
    if site.threshold is not None and model.facts.benign is None:
        raise BcdError(
            f"{site.key}.threshold={site.threshold}: the model calls no image malignant, as it has "
            "no class that is not cancer: leave the threshold out"
        )
    if site.profile is None:
        return Way(threshold=site.threshold)
    try:
        match = find_match(SiteMatchConfig(site.profile, site.scale, site.colour), model.facts)
        if match is not None and isinstance(model, ExportedModel):
            model.refuse_match()
        data = typed_path(site.profile).read_bytes()
    except OSError as error:
        raise BcdError(f"{site.key}.profile={site.profile}: {error.strerror}") from error
    except BcdError as error:  # in the words of bcd predict
        text = str(error).replace("site.", f"{site.key}.", 1).replace("ckpt=", "model=")
        raise BcdError(text) from error
    return Way(match, hashlib.sha256(data).hexdigest(), site.threshold)
