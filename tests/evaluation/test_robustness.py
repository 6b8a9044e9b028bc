"""Corruptions are the same in every order and process, and their table is correct."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bcd.config.compose import with_defaults
from bcd.config.schema import AugmentConfig
from bcd.data.catalog import ImageRecord
from bcd.data.synthetic.smears import draw_smear
from bcd.data.views import Augmenter, ImageViews
from bcd.errors import ConfigError
from bcd.evaluation.corruption_suites import (
    KINDS,
    SUITES,
    Corruption,
    corruption_suite,
    make_corruption,
)
from bcd.evaluation.intervals import wilson
from bcd.evaluation.robustness import CorruptedViews, run_corruptions
from bcd.evaluation.robustness_table import robustness_table
from tests.helpers.noise import noise, write_image

Pixels = NDArray[np.uint8]
STANDARD = corruption_suite("standard")


def smear(size: int = 64) -> Pixels:
    return draw_smear("Pre-B", slide=2, index=5, size=size)


def distance(corruption: Corruption, pixels: Pixels, sha256: str = "aa") -> float:
    return float(np.abs(corruption.apply(pixels, sha256).astype(float) - pixels).mean())


def test_every_kind_is_in_a_suite_and_the_standard_suite_is_small() -> None:
    assert {corruption.kind for suite in SUITES.values() for corruption in suite} == set(KINDS)
    assert len(STANDARD) <= 40
    assert len({(corruption.kind, corruption.strength_label) for corruption in STANDARD}) == len(
        STANDARD
    )
    kinds = [corruption.kind for corruption in STANDARD]
    assert kinds == sorted(kinds, key=kinds.index)  # grouped by kind


def test_an_unknown_suite_is_an_error_that_suggests_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"corruptions=standart: .*did you mean 'standard'"
    ) as caught:
        corruption_suite("standart")
    assert caught.value.status == 2


@pytest.mark.parametrize("shape", [(33, 50), (7, 5), (1, 1), (64, 64)])
def test_every_corruption_keeps_shape_and_type_and_leaves_the_image_alone(
    shape: tuple[int, int],
) -> None:
    some = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for pixels in (some, np.zeros_like(some), np.full_like(some, 255), some[:, ::-1]):
        before = pixels.copy()
        for corruption in STANDARD:
            made = corruption.apply(pixels, "aa")
            assert made.shape == pixels.shape, corruption
            assert made.dtype == np.uint8, corruption
            assert made.flags.c_contiguous, corruption
            assert not np.shares_memory(made, pixels), corruption
        np.testing.assert_array_equal(pixels, before)


def test_every_corruption_changes_a_smear() -> None:
    for corruption in STANDARD:
        assert distance(corruption, smear()) > 0.1, corruption


STRONGER: dict[str, tuple[str, tuple[float, ...]]] = {
    "darker": ("brightness", (0.9, 0.8, 0.6)),
    "brighter": ("brightness", (1.1, 1.2, 1.4)),
    "hue": ("hue", (10, 20, 30)),
    "other hue": ("hue", (-10, -20, -30)),
    "stain": ("stain", (0.05, 0.1, 0.2)),
    "warmer": ("white balance", (6000, 5000, 4500)),
    "colder": ("white balance", (7000, 9000, 12000)),
    "defocus": ("defocus", (0.5, 1, 1.5, 2)),
    "motion blur": ("motion blur", (1, 3, 5, 9)),
    "jpeg": ("jpeg", (90, 70, 50, 30, 10)),
    "noise": ("noise", (0.02, 0.05, 0.1)),
    "pixelation": ("pixelation", (1.5, 2, 4)),
    "smaller": ("zoom", (0.9, 0.8)),
    "larger": ("zoom", (1.1, 1.25)),
}


@pytest.mark.parametrize("name", STRONGER)
def test_a_stronger_corruption_is_further_from_the_image(name: str) -> None:
    kind, strengths = STRONGER[name]
    for sha256 in ("aa", "bb", "cc"):
        far = [distance(make_corruption(kind, s), smear(112), sha256) for s in strengths]
        assert far[0] > 0
        assert all(b > 1.05 * a for a, b in pairwise(far)), far


def test_corruptions_do_not_depend_on_the_order_or_the_global_state() -> None:
    images = {sha: noise(i) for i, sha in enumerate(("aa", "bb", "cc"))}
    keys = [(sha, number) for sha in images for number in range(len(STANDARD))]
    made = {key: STANDARD[key[1]].apply(images[key[0]], key[0]).tobytes() for key in keys}
    np.random.default_rng(1).shuffle(keys)
    for place, (sha, number) in enumerate(keys):
        np.random.seed(place)
        again = pickle.loads(pickle.dumps(STANDARD[int(number)]))
        assert again.apply(images[sha], sha).tobytes() == made[sha, int(number)]


def test_no_global_random_state_is_used() -> None:
    np.random.seed(5)
    before, of_torch = np.random.get_state(), torch.get_rng_state()
    for corruption in STANDARD:
        corruption.apply(smear(), "aa")
    for one, other in zip(before, np.random.get_state(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert torch.equal(of_torch, torch.get_rng_state())


def test_random_draws_differ_between_images_but_not_between_strengths() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)

    def grain(sd: float, sha256: str) -> NDArray[np.float64]:
        return make_corruption("noise", sd).apply(grey, sha256).ravel() - np.float64(128)

    assert np.corrcoef(grain(0.02, "aa"), grain(0.1, "aa"))[0, 1] > 0.98
    assert abs(np.corrcoef(grain(0.1, "aa"), grain(0.1, "bb"))[0, 1]) < 0.05
    for kind, strength in (("stain", 0.2), ("motion blur", 9)):
        corruption = make_corruption(kind, strength)
        made = {corruption.apply(smear(), f"{i}").tobytes() for i in range(12)}
        assert len(made) > 3, kind  # there are but eight ways to sign three stains
    plain = make_corruption("defocus", 2)
    assert plain.apply(smear(), "aa").tobytes() == plain.apply(smear(), "bb").tobytes()


def test_grey_has_equal_channels() -> None:
    (grey,) = (corruption for corruption in STANDARD if corruption.kind == "grey")
    made = grey.apply(smear(), "aa")
    assert (made == made[..., :1]).all()


@pytest.fixture
def views(tmp_path: Path) -> ImageViews:
    images = []
    for i in range(5):
        write_image(tmp_path / f"{i}.png", noise(i, i))
        images.append(ImageRecord(f"{i}.png", label=i % 3, sha256=f"{i:02d}", width=40, height=40))
    return ImageViews(tmp_path, images, 32, Augmenter(with_defaults(AugmentConfig), 0))


@pytest.mark.parametrize("threads", [1, 2])
def test_outputs_of_all_corruptions_are_in_order(views: ImageViews, threads: int) -> None:
    sizes: list[int] = []

    def forward(inputs: Pixels) -> NDArray[np.float32]:
        sizes.append(len(inputs))
        return np.asarray(inputs.mean((1, 2), dtype=np.float64), dtype=np.float32)

    suite = STANDARD[::5]
    before = torch.get_num_threads()
    answers, labels = run_corruptions(
        CorruptedViews(views, [4, 0, 2], suite), forward, threads, batch=4
    )
    assert answers.shape == (1 + len(suite), 3, 3)
    np.testing.assert_array_equal(labels, [1, 0, 2])
    for place, index in enumerate([4, 0, 2]):
        pixels, sha256 = views.pixels(index), views.images[index].sha256
        made = [pixels, *(corruption.apply(pixels, sha256) for corruption in suite)]
        for version, shown in enumerate(made):
            expected = shown.mean((0, 1), dtype=np.float64)
            np.testing.assert_allclose(answers[version, place], expected, rtol=1e-5)
    assert sorted(sizes) == [1] * 3 + [4] * 6
    assert torch.get_num_threads() == before


def test_a_failing_network_ends_the_run(views: ImageViews) -> None:
    def forward(inputs: Pixels) -> NDArray[np.float32]:
        raise RuntimeError("no memory left")

    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="no memory left"):
        run_corruptions(CorruptedViews(views, range(5), STANDARD), forward, threads=2)
    assert torch.get_num_threads() == before


def test_each_image_is_decoded_once(views: ImageViews, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    pixels = views.pixels

    def counted(index: int) -> Pixels:
        read.append(index)
        return pixels(index)

    monkeypatch.setattr(views, "pixels", counted)
    source = CorruptedViews(views, [3, 1, 2], STANDARD)
    answers, _ = run_corruptions(source, lambda x: x.mean((1, 2), dtype=np.float32))
    assert answers.shape == (41, 3, 3)
    assert read == [3, 1, 2]


def table(refer: NDArray[np.bool_] | None = None) -> list[dict[str, Any]]:
    """Four images with labels 0 0 0 1: all correct, then two wrong, then all predicted as 0."""
    labels = np.array([0, 0, 0, 1])
    predicted = np.array([[0, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0]])
    probabilities = np.where(predicted[..., None] == np.arange(2), 0.8, 0.2)
    suite = [make_corruption("brightness", 0.8), make_corruption("noise", 0.1)]
    return robustness_table(suite, probabilities, labels, refer)


def test_the_table_has_the_metrics_of_every_corruption() -> None:
    rows = table(np.array([[0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0]], dtype=bool))
    assert [(row["kind"], row["strength"]) for row in rows] == [
        ("none", ""),
        ("brightness", "x 0.8"),
        ("noise", "sd 0.1"),
    ]
    assert [row["accuracy"] for row in rows] == [1, 0.5, 0.75]
    assert [row["balanced_accuracy"] for row in rows] == pytest.approx([1, (1 / 3 + 1) / 2, 0.5])
    assert [row["ece"] for row in rows] == pytest.approx([0.2, 0.3, 0.05])
    assert [row["referred"] for row in rows] == [0, 0.25, 0.75]
    assert {row["n"] for row in rows} == {4}
    assert [row["referred"] for row in table()] == [None] * 3


def test_the_table_has_unsafe_answers_if_there_is_a_benign_class() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    called = np.array([[0, 0, 1, 1, 1], [1, 0, 0, 0, 1]], dtype=bool)
    refer = np.array([[0, 0, 0, 0, 0], [0, 0, 1, 0, 0]], dtype=bool)
    probabilities = np.full((2, 5, 2), 0.5)
    suite = [make_corruption("noise", 0.1)]
    plain, noisy = robustness_table(suite, probabilities, labels, refer, called, 0)
    assert (plain["unsafe_malignant"], plain["unsafe_benign"]) == (0, 0)
    assert (plain["unsafe_malignant_low"], plain["unsafe_malignant_high"]) == wilson(0, 3)
    assert noisy["unsafe_malignant"] == pytest.approx(1 / 3)  # of two mistakes one is referred
    assert noisy["unsafe_benign"] == pytest.approx(1 / 2)
    (grouped, _) = robustness_table(
        suite, probabilities, labels, refer, called, 0, ["x", "x", "y", "y", "z"]
    )
    assert grouped["unsafe_benign_high"] == pytest.approx(wilson(0, 1)[1])
    assert "unsafe_malignant" not in table(refer[:, :1].repeat(4, axis=1)[[0, 1, 1]])[0]
    only_benign = robustness_table(suite, probabilities, np.zeros(5, int), refer, called, 0)
    assert only_benign[0]["unsafe_malignant"] is None
    assert only_benign[0]["unsafe_malignant_high"] is None


def test_a_table_of_another_suite_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        robustness_table(STANDARD, np.ones((3, 4, 2)), np.zeros(4, np.int64))
