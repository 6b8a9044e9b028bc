"""The drawn smears: repeatable, told apart by shape and not by colour."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.errors import BcdError


def _sample(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """``count`` images as ``generate`` orders them, and their class numbers."""
    numbers = np.arange(count)
    drawn = [
        draw_smear(CLASS_NAMES[k % 4], slide=int(k // 4 % 8), index=int(k), seed=5) for k in numbers
    ]
    return np.stack(drawn), numbers % 4


def _nuclei(image: NDArray[np.uint8]) -> tuple[NDArray[np.float64], float]:
    """Areas (pixels) of the single nuclei off the edge, and the share of the image in nuclei.

    Only the nuclear dye takes this much of the green light.
    """
    green = image[:, :, 1].astype(np.float64)
    depth = np.log(np.percentile(green, 98) / np.maximum(green, 1.0))
    core = (depth > 0.62).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(core)
    side = image.shape[0]
    boxes = stats[1:]
    whole = (boxes[:, 0] > 0) & (boxes[:, 1] > 0)
    whole &= (boxes[:, 0] + boxes[:, 2] < side) & (boxes[:, 1] + boxes[:, 3] < side)
    round_ones = boxes[:, 4] > 0.6 * boxes[:, 2] * boxes[:, 3]  # touching ones leave gaps
    areas = boxes[whole & round_ones & (boxes[:, 4] > 150), 4].astype(np.float64)
    return areas, float(core.mean())


def test_same_arguments_draw_the_same_bytes_in_any_process() -> None:
    here = draw_smear("Pre-B", slide=2, index=7, seed=3, size=96)
    again = draw_smear("Pre-B", slide=2, index=7, seed=3, size=96)
    assert np.array_equal(here, again)
    code = (
        "import sys; from bcd.data.synthetic.smears import draw_smear;"
        "sys.stdout.buffer.write(draw_smear('Pre-B', slide=2, index=7, seed=3, size=96).tobytes())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert there.stdout == here.tobytes()


def test_drawing_neither_reads_nor_moves_the_global_random_state() -> None:
    np.random.seed(1)
    first = draw_smear("Benign", slide=0, index=0, size=64)
    after = np.random.random()
    np.random.seed(1)
    assert np.random.random() == after
    assert np.array_equal(first, draw_smear("Benign", slide=0, index=0, size=64))


@pytest.mark.parametrize("change", [{"slide": 1}, {"index": 1}, {"seed": 1}])
def test_another_slide_index_or_seed_draws_another_image(change: dict[str, int]) -> None:
    base = {"slide": 0, "index": 0, "seed": 0, "size": 64}
    first, second = draw_smear("Pro-B", **base), draw_smear("Pro-B", **(base | change))
    # the scene differs, not only stain or noise: the same cells elsewhere would correlate
    assert abs(np.corrcoef(first[:, :, 1].ravel(), second[:, :, 1].ravel())[0, 1]) < 0.4


def test_each_class_draws_another_scene() -> None:
    drawn = [draw_smear(name, slide=0, index=0, size=64).astype(int) for name in CLASS_NAMES]
    for number, first in enumerate(drawn):
        for second in drawn[number + 1 :]:
            assert np.mean(np.abs(first - second) > 25) > 0.1


def test_images_of_one_slide_share_stain_and_slides_differ() -> None:
    def light(slide: int, index: int) -> NDArray[np.float64]:
        drawn = draw_smear("Benign", slide=slide, index=index, size=64)
        return np.asarray(np.quantile(drawn, [0.2, 0.9], axis=(0, 1)).ravel(), dtype=np.float64)

    levels = np.array([[light(slide, index) for index in range(6)] for slide in range(6)])
    within = levels.std(axis=1).mean()
    between = levels.mean(axis=1).std(axis=0).mean()
    assert between > within


@pytest.mark.parametrize("size", [32, 33, 224, 700])
def test_any_size_gives_rgb_bytes(size: int) -> None:
    drawn = draw_smear("Pro-B", slide=1, index=1, size=size)
    assert drawn.shape == (size, size, 3)
    assert drawn.dtype == np.uint8
    assert drawn.std() > 15


def test_a_larger_image_shows_the_same_scene() -> None:
    small = draw_smear("Pro-B", slide=3, index=5, size=224).astype(float)
    large = draw_smear("Pro-B", slide=3, index=5, size=448).astype(np.float32)
    shrunk = cv2.resize(large, (224, 224), interpolation=cv2.INTER_AREA)
    other = draw_smear("Pro-B", slide=3, index=6, size=224).astype(float)
    assert np.abs(small - shrunk).mean() < 0.25 * np.abs(small - other).mean()


def test_nuclei_differ_in_size_as_the_table_says() -> None:
    sizes = {}
    for name in CLASS_NAMES:
        drawn = [draw_smear(name, slide=k % 8, index=k) for k in range(32)]
        sizes[name] = np.median(np.concatenate([_nuclei(image)[0] for image in drawn]))
    # nuclei of 8.6, 9.0, 10.3 and 12.1 micrometres across
    assert sizes["Benign"] < 0.92 * sizes["Early Pre-B"]
    assert sizes["Pre-B"] < 0.95 * sizes["Early Pre-B"]
    assert sizes["Early Pre-B"] < 0.85 * sizes["Pro-B"]


def test_the_amount_of_nucleus_does_not_give_the_class_away() -> None:
    images, labels = _sample(96)
    share = np.array([_nuclei(image)[1] for image in images])
    means = np.array([share[labels == number].mean() for number in range(4)])
    assert share.mean() > 0.02
    assert means.max() < 1.4 * means.min()


def test_colour_does_not_give_the_class_away() -> None:
    from sklearn.ensemble import RandomForestClassifier

    images, labels = _sample(320)
    levels = np.quantile(images.reshape(320, -1, 3)[:, ::7], np.linspace(0.02, 0.98, 7), axis=1)
    colours = levels.transpose(1, 0, 2).reshape(320, -1)
    order = np.random.default_rng(0).permutation(320)
    train, test = order[:224], order[224:]
    forest = RandomForestClassifier(150, random_state=0).fit(colours[train], labels[train])
    assert (forest.predict(colours[test]) == labels[test]).mean() <= 0.55


def test_an_unknown_class_is_named() -> None:
    with pytest.raises(BcdError, match="Post-B"):
        draw_smear("Post-B", slide=0, index=0)


def test_importing_is_cheap() -> None:
    code = (
        "import sys, bcd.data.synthetic.smears;"
        "print(*{'torch', 'albumentations', 'rich', 'sklearn'} & {*sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert loaded.stdout.strip() == b""
