"""Downloads the published 3,242-image set if a data root does not exist yet."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from bcd.console import say
from bcd.errors import BcdError

HANDLE = "mohammadamireshraghi/blood-cell-cancer-all-4class"
PAGE = f"https://www.kaggle.com/datasets/{HANDLE}"


def download(root: Path) -> None:
    """Downloads the set with kagglehub (which shows a progress bar) and moves it to `root`.

    Raises:
        BcdError: No network, no disk space, or no permission; the message names three alternatives.
    """
    say(f"{root} does not exist: downloading the 3,242-image set ({PAGE}) to it")
    partial = root.with_name(f".{root.name}.download")
    missing = [p for p in root.parents if not p.exists()]
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a download that was killed
        partial.mkdir(parents=True)
        import kagglehub

        found = Path(kagglehub.dataset_download(HANDLE, output_dir=str(partial)))
        if not found.is_relative_to(partial):  # hosted notebooks keep it elsewhere
            found = Path(shutil.copytree(found, partial, dirs_exist_ok=True))
        found.replace(root)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BcdError(
            f"data.root={root} does not exist and the download failed "
            f"({type(error).__name__}: {reason[:100]}): give data.root=<folder of class folders>, "
            f"or unpack {PAGE} at {root}, or generate smears with data=generated"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in missing:
            with contextlib.suppress(OSError):  # not empty: it holds what was downloaded
                folder.rmdir()
