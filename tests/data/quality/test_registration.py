"""Images of one field are laid over each other wherever, and however, they were taken."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from bcd.config.compose import with_defaults
from bcd.config.schema import DataConfig
from bcd.data.catalog import Catalog
from bcd.data.load import load_catalog
from bcd.data.quality.keypoints import Keypoints, find_keypoints
from bcd.data.quality.overlaps import DUPLICATE_SHARE, Overlap
from bcd.data.quality.profile import profile_images
from bcd.data.quality.registration import Registration, register
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from tests.helpers.fields import SIDE, Pixels, changed, cut, draw_large, draw_pair, shared


def save(folder: Path, images: dict[str, Pixels]) -> list[Path]:
    files = []
    for name, image in images.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(image)).save(file)
        files.append(file)
    return files


def keypoints(folder: Path, images: list[Pixels]) -> Keypoints:
    files = save(folder, {f"{i}.png": image for i, image in enumerate(images)})
    return find_keypoints(
        {sha256(file.read_bytes()).hexdigest(): file for file in files}, small=True
    )


def laid(folder: Path, first: Pixels, second: Pixels, mirror: bool = False) -> Registration | None:
    """How the second image lies over the first; None where no transform is found."""
    points = keypoints(folder, [first, second])
    one = np.zeros(1, np.int64), np.ones(1, np.int64), np.full(1, mirror)
    return next((found for _, found in register(points, *one)), None)


def test_shift_and_share_are_those_that_the_images_were_cut_with(tmp_path: Path) -> None:
    for seed, (x, y) in enumerate([(0.25, 0.0), (-0.4, 0.1), (0.3, 0.3), (0.05, -0.5)]):
        field = draw_large(seed)
        middle, shift = np.full(2, 256.0), SIDE * np.asarray([x, y])
        first, second = cut(field, middle - shift / 2, 0.0), cut(field, middle + shift / 2, 0.0)
        found = laid(tmp_path, first.pixels, changed(second.pixels, np.random.default_rng(seed)))
        assert found is not None
        assert found.holds
        assert (found.dx, found.dy) == pytest.approx((x, y), abs=0.01)
        assert found.overlap == pytest.approx(shared(first, second), abs=0.03)


@pytest.mark.parametrize("mirror", [False, True])
def test_turned_and_mirrored_images_are_laid_over_each_other(tmp_path: Path, mirror: bool) -> None:
    for seed, angle in enumerate((0.4, 1.6, 2.5, 4.0)):
        field = draw_large(seed)
        first = cut(field, np.asarray([240.0, 256.0]), 0.0)
        second = cut(field, np.asarray([280.0, 270.0]), angle, mirror)
        found = laid(tmp_path, first.pixels, second.pixels, mirror)
        assert found is not None
        assert found.holds
        assert found.dx == pytest.approx(40 / SIDE, abs=0.01)
        assert found.dy == pytest.approx(14 / SIDE, abs=0.01)
        assert found.overlap == pytest.approx(shared(first, second), abs=0.03)
        other = laid(tmp_path, first.pixels, second.pixels, not mirror)
        assert other is None or not other.holds


def test_sides_may_have_been_scaled_apart(tmp_path: Path) -> None:
    image = draw_smear("Pre-B", slide=1, index=3)
    squeezed = np.asarray(cv2.resize(image, (160, 140), interpolation=cv2.INTER_AREA), np.uint8)
    found = laid(tmp_path, image, squeezed)
    assert found is not None
    assert found.holds
    assert found.overlap > DUPLICATE_SHARE


def test_a_scale_bar_is_no_part_of_the_field(tmp_path: Path) -> None:
    images = []
    for index in range(2):
        image = draw_smear("Pro-B", slide=0, index=index)
        image[-20:-8, -42:-4] = 255
        cv2.putText(image, "100 um", (SIDE - 40, SIDE - 10), 0, 0.3, (0, 0, 0))
        images.append(image)
    found = laid(tmp_path, images[0], images[1])
    assert found is None or not found.holds


def catalog_of(root: Path, images: dict[str, Pixels]) -> Catalog:
    save(root, images)
    return load_catalog(with_defaults(DataConfig, root=str(root)))


def told_apart(
    folder: Path, pairs: list[tuple[Pixels, Pixels, float]], more: list[Pixels]
) -> tuple[float, float]:
    """Recall where 40 % or more is shared, and precision, of a profile of all images together."""
    rng = np.random.default_rng(0)
    images: dict[str, Pixels] = {}
    wanted: dict[frozenset[str], float] = {}
    names = [f"{rng.integers(10**9):09d}.png" for _ in range(2 * len(pairs) + len(more))]
    for number, (first, second, share) in enumerate(pairs):
        name = CLASS_NAMES[number % 4]
        both = [f"{name}/{names.pop()}" for _ in range(2)]
        images |= dict(zip(both, (first, second), strict=True))
        wanted[frozenset(both)] = share
    for number, image in enumerate(more):
        images[f"{CLASS_NAMES[number % 4]}/{names.pop()}"] = image
    catalog = catalog_of(folder, images)
    paths = [image.path for image in catalog.images]
    profile = profile_images(catalog)
    found = {frozenset((paths[o.first], paths[o.second])) for o in profile.overlaps}
    heavy = {pair for pair, share in wanted.items() if share >= 0.4}
    assert len(heavy) > len(pairs) / 2
    return len(heavy & found) / len(heavy), len(found & wanted.keys()) / max(len(found), 1)


def test_fields_seen_twice_are_found_among_others(tmp_path: Path) -> None:
    """Of all pairs of images far more than twenty times as many show two fields as show one."""
    pairs = [draw_pair(seed) for seed in range(16)]
    # Many of one slide, so that stain tells nothing.
    more = [draw_smear(CLASS_NAMES[i % 4], slide=i % 3, index=i) for i in range(40)]
    recall, precision = told_apart(tmp_path / "in", pairs, more)
    assert recall >= 0.95
    assert precision >= 0.99


@pytest.mark.slow
@pytest.mark.exhaustive  # the test above has fewer fields
def test_many_fields_seen_twice_are_found_among_many_others(tmp_path: Path) -> None:
    pairs = [draw_pair(seed) for seed in range(30)]
    more = [draw_smear(CLASS_NAMES[i % 4], slide=i % 12, index=i) for i in range(110)]
    recall, precision = told_apart(tmp_path / "in", pairs, more)
    assert recall >= 0.95
    assert precision >= 0.99


def test_small_images_are_registered_too(tmp_path: Path) -> None:
    images = [draw_smear(CLASS_NAMES[i % 4], slide=0, index=i, size=64) for i in range(40)]
    copies = {f"Pre-B/{i:02d}b.png": np.rot90(image)[:, ::-1] for i, image in enumerate(images[:9])}
    images_by_name = {f"Pre-B/{i:02d}a.png": image for i, image in enumerate(images)}
    other = {f"Benign/{i}.png": draw_smear("Benign", slide=1, index=i, size=64) for i in range(30)}
    catalog = catalog_of(tmp_path / "in", {**images_by_name, **copies, **other})
    paths = [image.path for image in catalog.images]

    def named(pair: Overlap) -> tuple[str, str, str]:
        return paths[pair.first], paths[pair.second], pair.kind

    found = [named(pair) for pair in profile_images(catalog).overlaps]
    wanted = [(f"Pre-B/{i:02d}a.png", f"Pre-B/{i:02d}b.png", "near") for i in range(9)]
    assert found == wanted
