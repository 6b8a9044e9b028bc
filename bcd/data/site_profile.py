"""Profiles of sites: what images of one laboratory look like, measured once by `bcd site`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bcd.config.input_views import PLAIN_VIEW, InputView
from bcd.config.programs import SiteProfileConfig
from bcd.console import printable, say, show_table, track
from bcd.data.files import ImageError, read_encoded
from bcd.data.items import Wanted
from bcd.data.load import expand_inputs
from bcd.data.quality.appearance import (
    FEWEST,
    SIDE,
    Appearance,
    choose_evenly,
    look_at,
    summarize,
)
from bcd.data.sandbox import read_all
from bcd.errors import BcdError, ConfigError
from bcd.storage import digest, typed_path, write_text

_ABOUT = "profile of a site, written by bcd site"
_VERSION = 1  # increase it when measurements change


@dataclass(frozen=True)
class SiteProfile:
    """What the images of a site look like.

    Attributes:
        root: Folder that was measured.
        found: Number of image files there.
        unreadable: Number of chosen files that could not be read.
        fingerprint: sha256 over the sha256 of the measured files, in order.
        not_measured: What too few images allow to measure, in words.
        appearance: The measurements.
    """

    root: str
    found: int
    unreadable: int
    fingerprint: str
    not_measured: tuple[str, ...]
    appearance: Appearance


def measure_site(root: str, limit: int, workers: int | None) -> SiteProfile:
    """Measures images of a site; they need no classes.

    Args:
        root: A folder (searched recursively), a file or a glob.
        limit: Largest number of images to measure, evenly spaced over the sorted files.
        workers: Number of processes that read images, as in `read_all`.

    Raises:
        BcdError: There are no images, or fewer than `FEWEST` can be read.
    """
    files = expand_inputs([root], "root")
    chosen = [files[i] for i in choose_evenly(len(files), limit)]
    wanted = Wanted((InputView(PLAIN_VIEW, SIDE),), mask=False)
    looks, names, unreadable = [], [], 0
    answers = read_all(chosen, wanted, workers)
    shown = track(answers, "Measuring", len(chosen))
    for file, (_, answer) in zip(chosen, shown, strict=True):
        try:
            if isinstance(answer, str):
                raise ImageError(answer)
            names.append(read_encoded(file).sha256)
            looks.append(look_at(answer))
        except ImageError as error:
            unreadable += 1
            say(f"could not be read: {printable(str(file))}: {error}")
    appearance = summarize(looks)
    if appearance is None:
        raise BcdError(
            f"root={root}: {len(looks)} images can be read, and a profile needs {FEWEST} or more"
        )
    missing = _missing(appearance)
    fingerprint = digest("".join(names))
    return SiteProfile(root, len(files), unreadable, fingerprint, missing, appearance)


def _missing(found: Appearance) -> tuple[str, ...]:
    known = {"red cells": found.cells, "background": found.white, "stains": found.stains}
    return tuple(f"{name}: too few images allow it" for name, value in known.items() if not value)


def write_profile(file: Path, profile: SiteProfile) -> None:
    """Writes a profile as JSON with its checksum, atomically."""
    content = {
        "about": _ABOUT,
        "version": _VERSION,
        **vars(profile),
        "appearance": profile.appearance.to_plain(),
    }
    content["sha256"] = _checksum(content)
    write_text(file, json.dumps(content, indent=1) + "\n")


def read_profile(text: str) -> SiteProfile:
    """Reads what `write_profile` wrote.

    Args:
        text: The file, as given in `site.profile`.

    Raises:
        BcdError: There is no such file, it is not a profile, one of another version, or it was
            changed.
    """
    try:
        content = json.loads(typed_path(text).read_text(encoding="utf-8"))
    except OSError as error:
        raise BcdError(f"site.profile={text}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise _not_a_profile(text) from error
    if not isinstance(content, dict) or content.get("about") != _ABOUT:
        raise _not_a_profile(text)
    if content.get("version") != _VERSION:
        raise BcdError(
            f"site.profile={text}: a profile of version {content.get('version')}, not {_VERSION}: "
            "measure the site again with bcd site"
        )
    if content.pop("sha256", None) != _checksum(content):
        raise BcdError(
            f"site.profile={text}: changed since bcd site wrote it: measure the site again"
        )
    try:
        return SiteProfile(
            str(content["root"]),
            int(content["found"]),
            int(content["unreadable"]),
            str(content["fingerprint"]),
            tuple(map(str, content["not_measured"])),
            Appearance.from_plain(content["appearance"]),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise _not_a_profile(text) from error


def _not_a_profile(text: str) -> BcdError:
    return BcdError(
        f"site.profile={text}: not a profile that bcd site wrote: bcd site root=<folder> writes one"
    )


def _checksum(content: Mapping[str, Any]) -> str:
    return digest(json.dumps({**content, "sha256": None}, sort_keys=True))


def profile_site(cfg: SiteProfileConfig) -> SiteProfile:
    """Measures a site, writes its profile and prints it.

    Args:
        cfg: Checked configuration.

    Raises:
        BcdError: As in `measure_site`, or the profile cannot be written.
    """
    file = typed_path(cfg.output or f"{cfg.run_dir}/site.json")
    if file.suffix.lower() != ".json":
        raise ConfigError(f"output={cfg.output}: must end in .json")
    profile = measure_site(cfg.root, cfg.limit, cfg.num_workers)
    write_profile(file, profile)
    found = profile.appearance
    rows = [["images", f"{found.images} of {profile.found}"]]
    if found.cells is not None:
        cells = f"{found.cells.median:.1f} ({found.cells.low:.1f} to {found.cells.high:.1f})"
        rows.append(["red cells, pixels of 224", f"{cells}, in {found.cells.count} images"])
    if found.white is not None:
        rows.append(["background, RGB", " ".join(f"{value:.0f}" for value in found.white)])
    rows.append(["CIELAB, mean", " ".join(f"{value:.1f}" for value in found.lab_mean)])
    rows.append(["CIELAB, standard deviation", " ".join(f"{v:.1f}" for v in found.lab_std)])
    show_table(printable(profile.root), ["measured", "value"], rows)
    for line in profile.not_measured:
        say(f"warning: not measured: {line}")
    say(f"profile: {file}")
    return profile
