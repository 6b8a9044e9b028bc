"""Smears that bcd draws itself, for the demo, the documentation and the tests.

No real image is part of the project. The drawn ones have the four classes of the real data
set, several slides that each have their own stain and light, and white cells that differ between
the classes in shape and texture but hardly in colour. They show and test the program; they say
nothing about how well it does on blood.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bcd.data.synthetic.drawing import (
    FIELD,
    Appearance,
    Bytes,
    Layer,
    Morphology,
    debris,
    red_cells,
    slide_appearance,
    white_cells,
)
from bcd.errors import BcdError

CLASS_NAMES: tuple[str, ...] = ("Benign", "Early Pre-B", "Pre-B", "Pro-B")

_VERSION = 1  # raise it when the same parameters draw other images: old folders are made anew

_TABLE: dict[str, tuple[Any, ...]] = {
    "diameter": ((9.3, 0.6), (11.7, 0.8), (12.0, 1.0), (14.6, 1.2)),
    "ratio": ((0.92, 0.015), (0.88, 0.02), (0.75, 0.02), (0.83, 0.025)),
    "eccentricity": ((0.0, 0.8), (0.0, 0.9), (0.3, 1.0), (0.1, 1.0)),
    "elongation": ((0.0, 0.12), (0.0, 0.25), (0.0, 0.15), (0.05, 0.35)),
    "irregularity": ((0.005, 0.02), (0.02, 0.05), (0.01, 0.03), (0.035, 0.07)),
    "indentation": ((0.04, 0.1), (0.26, 0.44), (0.05, 0.12), (0.08, 0.25)),
    "indented": (0.15, 0.8, 0.2, 0.35),
    "nucleoli": (
        (1.0, 0.0, 0.0, 0.0),
        (0.5, 0.45, 0.05, 0.0),
        (0.85, 0.15, 0.0, 0.0),
        (0.0, 0.35, 0.42, 0.23),
    ),
    "nucleolus": ((1.0, 1.2), (1.1, 1.6), (1.0, 1.5), (2.1, 3.0)),
    "grain": (1.6, 0.9, 1.9, 0.8),
    "clumping": ((0.03, 0.08), (0.08, 0.16), (0.24, 0.38), (0.06, 0.14)),
    "density": ((1.06, 0.06), (1.0, 0.06), (1.0, 0.06), (0.96, 0.06)),
    "basophilia": ((0.5, 0.9), (0.6, 1.0), (0.75, 1.15), (0.6, 1.0)),
    "area": ((200.0, 560.0), (260.0, 620.0), (260.0, 620.0), (280.0, 680.0)),
}

MORPHOLOGIES: dict[str, Morphology] = {
    name: Morphology(**{key: column[number] for key, column in _TABLE.items()})
    for number, name in enumerate(CLASS_NAMES)
}
"""What the white cells of each class look like; `Morphology` describes the columns.

Hematogones (Benign) are small, with a scant rim of cytoplasm, condensed and homogeneous
chromatin, round nuclei and no or indistinct nucleoli (McKenna et al., Blood 2001;98:2498).
Lymphoblasts range from small ones with scant cytoplasm and indistinct nucleoli to large ones
with more cytoplasm, dispersed chromatin, indented or convoluted nuclei and several nucleoli
(FAB L1 and L2: Bennett et al., Br J Haematol 1976;33:451 and 1981;47:553; B-ALL NOS in the WHO
classification, revised 4th edition, 2017).

Within the leukemia, stages are distinguished by antigens and not by eye, so their appearance is
a convention that follows maturation: Pro-B, the least mature, is the large L2-like blast with fine
chromatin and large nucleoli; Early Pre-B is smaller, with a notched nucleus, scant cytoplasm and
small nucleoli; Pre-B is round, with coarser chromatin and more, bluer cytoplasm. Numbers per
field are set through the nuclear area, in ranges that overlap: fewer large or more small cells,
so that the amount of dye does not reveal the class (real fields differ far more).
"""


def image(rng: np.random.Generator, appearance: Appearance, kind: Morphology, size: int) -> Bytes:
    """Draws an image.

    Args:
        rng: Source of chance of the image.
        appearance: Stain and light of its slide.
        kind: What its white cells look like.
        size: Side in pixels.

    Returns:
        ``(size, size, 3)`` RGB.
    """
    cytoplasm, nuclei, mask, _ = white_cells(rng, size, kind)
    red = red_cells(rng, size, appearance.pallor) * (1.0 - mask)  # white cells push red ones aside
    smear, specks = debris(rng, size)
    smear *= 1.0 - mask
    amounts = cv2.merge([red + 0.3 * smear, cytoplasm, nuclei + specks + 0.4 * smear])
    blur = appearance.blur * rng.uniform(0.7, 1.6) * size / FIELD
    amounts = cv2.GaussianBlur(amounts, (0, 0), max(blur, 0.3))
    shade = _shade(rng, size, appearance.gradient)
    shade += np.float32(0.007) * rng.standard_normal((size, size), dtype=np.float32)
    dyes = appearance.dyes * rng.normal(1.0, 0.05, (3, 1))
    light = np.log(appearance.background * rng.normal(1.0, 0.015))
    colours = np.concatenate([-dyes.T, -np.ones((3, 1)), light[:, None]], axis=1)
    passing = cv2.exp(cv2.transform(cv2.merge([amounts, shade]), colours))
    return np.asarray(cv2.convertScaleAbs(passing), dtype=np.uint8)


def _shade(rng: np.random.Generator, size: int, gradient: float) -> Layer:
    """Uneven light: ``(size, size)`` optical density, about 0 where it is brightest."""
    side = rng.uniform(0.0, 2 * np.pi)
    ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    across = np.float32(0.5 * gradient) * (0.5 + 1.4 * np.float32(np.cos(side)) * ramp)
    down = np.float32(0.5 * gradient) * (0.5 + 1.4 * np.float32(np.sin(side)) * ramp)
    bowl = np.float32(0.8 * gradient) * ramp**2
    return np.asarray((across + bowl)[None, :] + (down + bowl)[:, None], dtype=np.float32)


def draw_smear(class_name: str, *, slide: int, index: int, seed: int = 0, size: int = 224) -> Bytes:
    """Draws one image, a function of the arguments alone.

    Args:
        class_name: One of ``CLASS_NAMES``.
        slide: Slide that it lies on, from 0; gives stain and light.
        index: Number of the image, from 0.
        seed: Another seed, other slides and images.
        size: Side in pixels; another size shows the same scene coarser or finer.

    Returns:
        ``(size, size, 3)`` RGB, 0 to 255.

    Raises:
        BcdError: The class is unknown, the size is below 32 or a number is below 0.
    """
    rng = random_of(class_name, slide, index, seed, size)
    appearance = slide_appearance(np.random.default_rng([1, seed, slide]))
    return image(rng, appearance, MORPHOLOGIES[class_name], size)


def random_of(name: str, slide: int, index: int, seed: int, size: int) -> np.random.Generator:
    """The random generator of an image, after a check of the arguments of `draw_smear`."""
    if name not in CLASS_NAMES:
        raise BcdError(f"no class {name!r} to draw: class_name is one of {CLASS_NAMES}")
    _check(size=(size, 32), slide=(slide, 0), index=(index, 0), seed=(seed, 0))
    return np.random.default_rng([2, seed, slide, CLASS_NAMES.index(name), index])


def generate(
    root: Path,
    *,
    count: int = 800,
    slides: int = 8,
    size: int = 224,
    seed: int = 0,
    progress: bool = False,
) -> None:
    """Draws a data set: ``root/<class>/slide03-00012.png`` and ``root/generated.json``.

    Image ``k`` is of class ``k % 4`` and slide ``k // 4 % slides``: as equal as ``count`` allows.
    A finished folder with the same parameters is left alone; one of ours with others, or without
    ``generated.json``, is made anew, in a folder beside it that takes its name at the end.

    Args:
        root: Folder to make.
        count: Number of images.
        slides: Number of slides.
        size: Side of an image in pixels.
        seed: Another seed, other slides and images.
        progress: Shows a progress bar.

    Raises:
        BcdError: A parameter is too small, ``root`` holds something that is not ours, or it
            cannot be written.
    """
    _check(count=(count, len(CLASS_NAMES)), slides=(slides, 1), size=(size, 32), seed=(seed, 0))
    wanted = {"count": count, "slides": slides, "size": size, "seed": seed, "drawing": _VERSION}
    root = Path(root).resolve()
    fresh = root.with_name(f".{root.name}.{uuid.uuid4().hex}")
    try:
        if _parameters(root) == wanted:
            return
        _refuse_foreign(root)
        for name in CLASS_NAMES:
            (fresh / name).mkdir(parents=True)
        _draw_all(partial(_save, fresh, slides, size, seed), count, size, progress)
        (fresh / _MARK).write_text(json.dumps(wanted) + "\n", encoding="utf-8")
        _publish(fresh, root, wanted)
    except OSError as error:
        raise BcdError(f"cannot write smears to {root} ({error}): choose another folder") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


_MARK = "generated.json"
_IMAGE = re.compile(r"slide\d{2,}-\d{5,}\.png")
_WORTH = 300 * 224 * 224  # pixels that take longer than the second that starting processes does


def _check(**numbers: tuple[int, int]) -> None:
    """Refuses the first ``name=(value, lowest)`` whose value is too low."""
    for name, (value, lowest) in numbers.items():
        if value < lowest:
            raise BcdError(
                f"{name}={value} is too small to draw smears: give {name}={lowest} or more"
            )


def _save(folder: Path, slides: int, size: int, seed: int, number: int) -> None:
    """Draws and writes image ``number``."""
    name = CLASS_NAMES[number % len(CLASS_NAMES)]
    slide = number // len(CLASS_NAMES) % slides
    drawn = draw_smear(name, slide=slide, index=number, seed=seed, size=size)
    fast = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    _, code = cv2.imencode(".png", drawn[:, :, ::-1], fast)
    (folder / name / f"slide{slide:02d}-{number:05d}.png").write_bytes(code.tobytes())


def _draw_all(work: Callable[[int], None], count: int, size: int, progress: bool) -> None:
    """Calls ``work`` for every number below ``count``, on all cores if that is worth it."""
    worth = count * size * size >= _WORTH
    done: Iterable[None] = _each(work, count, min(os.cpu_count() or 1, 16) if worth else 1)
    if progress:
        from bcd.console import track

        done = track(done, "Drawing smears", count)
    for _ in done:
        pass


def _each(work: Callable[[int], None], count: int, processes: int) -> Iterator[None]:
    """Calls ``work`` for every number below ``count`` and yields as each is done."""
    finished = 0
    if processes > 1:
        # spawn: a fork of a process with threads (torch, OpenCV) may hang
        context = get_context("spawn")
        try:
            with ProcessPoolExecutor(processes, context, cv2.setNumThreads, (1,)) as pool:
                for _ in pool.map(work, range(count), chunksize=16):
                    yield
                    finished += 1
        except BrokenProcessPool:  # no processes to be had here, as in a script without a guard
            pass
    for number in range(finished, count):
        work(number)
        yield


def _parameters(root: Path) -> dict[str, Any] | None:
    """What ``root`` was drawn with; None where it holds no readable ``generated.json`` of ours."""
    try:
        found = json.loads((root / _MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "drawing" in found else None


def _refuse_foreign(root: Path) -> None:
    """Raises BcdError if ``root`` holds anything that ``generate`` did not write."""
    if not root.exists():
        return
    foreign = None if root.is_dir() else root
    for path in root.iterdir() if root.is_dir() else ():
        if path.name in CLASS_NAMES and path.is_dir() and not path.is_symlink():
            inside = (p for p in path.iterdir() if not (_IMAGE.fullmatch(p.name) and p.is_file()))
            foreign = next(inside, foreign)
        elif path.name != _MARK or _parameters(root) is None:
            foreign = path
    if foreign:
        raise BcdError(
            f"{root} was not made by bcd (it holds {foreign.name}) and is left alone: "
            "choose another folder for the generated smears"
        )


def _publish(fresh: Path, root: Path, wanted: dict[str, int]) -> None:
    """Gives ``fresh`` the name ``root``, unless another process has just made the same."""
    for attempt in range(5):
        if _parameters(root) == wanted:
            return
        old = fresh.with_name(f"{fresh.name}.{attempt}")
        try:
            _refuse_foreign(root)
            root.rename(old)
        except FileNotFoundError:  # nothing there, or another process moved it
            pass
        try:
            fresh.rename(root)
            return
        except OSError:  # another process put its own there
            if attempt == 4:
                raise
        finally:
            shutil.rmtree(old, ignore_errors=True)
