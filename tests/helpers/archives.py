"""Archives of images, and what is found in them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bcd.data.items import Item
from bcd.inference.batch.inputs import open_inputs
from tests.helpers.fuzzing import encoded
from tests.helpers.noise import noise

PNG = encoded(noise(1, size=8), "PNG")


def items(*inputs: Path | str, column: str = "path", limit: int | None = None) -> list[Item]:
    return list(open_inputs([str(one) for one in inputs], column, limit).items)


def make_tar(file: Path, members: Mapping[str, bytes | tarfile.TarInfo], form: int = 1) -> Path:
    """Writes an archive of files and other members; by gzip if its name says so."""
    mode: Any = "w:gz" if file.suffix.lower() in (".gz", ".tgz") else "w"
    with tarfile.open(file, mode, format=form) as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file
