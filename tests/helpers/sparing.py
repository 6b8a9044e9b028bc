"""What many tests do again and again is done once: small drawn images, and reading `conf/`.

Modules of bcd are imported where they are needed: `conftest.py` imports this file before coverage
is measured.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import cv2
import pytest
from omegaconf import OmegaConf

_CONF = Path(__file__).resolve().parents[2] / "conf"
_LARGEST = 64  # side of images that are kept, in pixels: a thousand of them take ten megabytes
_load = OmegaConf.load


def draw_once(patch: pytest.MonkeyPatch) -> None:
    """From here on an image that was drawn before is written again, in this process."""
    patch.setattr("bcd.data.synthetic.smears._save", _save)


def parse_once(patch: pytest.MonkeyPatch) -> None:
    """From here on Hydra gets what it has read of a file in `conf/`, unless that has changed."""
    patch.setattr(OmegaConf, "load", staticmethod(_loaded))


def _save(folder: Path, slides: int, size: int, seed: int, number: int) -> None:
    from bcd.data.synthetic.smears import CLASS_NAMES

    name = CLASS_NAMES[number % len(CLASS_NAMES)]
    slide = number // len(CLASS_NAMES) % slides
    draw = _drawn if size <= _LARGEST else _drawn.__wrapped__
    data = draw(name, slide, number, seed, size)
    (folder / name / f"slide{slide:02d}-{number:05d}.png").write_bytes(data)


@lru_cache(1000)
def _drawn(name: str, slide: int, number: int, seed: int, size: int) -> bytes:
    from bcd.data.synthetic.smears import draw_smear

    image = draw_smear(name, slide=slide, index=number, seed=seed, size=size)
    _, code = cv2.imencode(".png", image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return code.tobytes()


def _loaded(file: Any) -> Any:
    path = Path(str(getattr(file, "name", file)))
    if not path.is_relative_to(_CONF):
        return _load(file)
    known = path.stat()
    return OmegaConf.create(_parsed(path, known.st_mtime_ns, known.st_size))


@cache
def _parsed(path: Path, mtime: int, size: int) -> Any:
    del mtime, size
    return OmegaConf.to_container(_load(path))
