"""Provides the data root: generates or downloads it if it does not exist and this is configured."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from bcd.config.compose import read_defaults
from bcd.config.schema import DataConfig
from bcd.errors import BcdError
from bcd.storage import typed_path


def provide_root(cfg: DataConfig) -> Path:
    """Returns the data root, generating or downloading the images if configured.

    They are downloaded if `data.download` is true, or if it is null and `data.root` is the default,
    so that a mistyped root is an error instead of another set of images.

    Raises:
        BcdError: It does not exist or cannot be read.
    """
    root = typed_path(cfg.root).absolute()
    if cfg.generate is not None:
        from bcd.data.synthetic.smears import generate

        wanted = cfg.generate
        generate(
            root,
            count=wanted.count,
            slides=wanted.slides,
            size=wanted.size,
            seed=wanted.seed,
            progress=True,
        )
        return root
    try:
        root.stat()
    except FileNotFoundError:
        _download(root, cfg)
    except OSError as error:
        raise BcdError(f"data.root={root} cannot be read ({error.strerror})") from error
    return root


def _download(root: Path, cfg: DataConfig) -> None:
    from bcd.data.download import PAGE, download

    default = root == Path(read_defaults("data/smears")["root"]).absolute()
    asked = default if cfg.download is None else cfg.download
    if root.is_symlink():
        raise BcdError(f"data.root={root} is a broken link: fix or remove it")
    if root.suffix.lower() == ".csv":
        raise BcdError(f"data.root={root} does not exist{_nearest(root)}")
    if not asked:
        raise BcdError(
            f"data.root={root} does not exist{_nearest(root)}; data.download=true would download "
            f"the 3,242-image set ({PAGE}) to it"
        )
    download(root)


def _nearest(path: Path) -> str:
    """Suggests the existing path most similar to a missing one, if there is any."""
    known = path
    while not os.path.exists(known):  # noqa: PTH110  (never raises)
        known, last = known.parent, known.name
    try:
        names = [name for name in os.listdir(known) if not name.startswith(".")]  # noqa: PTH208
    except OSError:
        return ""
    close = difflib.get_close_matches(last, names, n=1, cutoff=0.6)
    return f"; did you mean '{known / close[0]}'?" if close else ""
