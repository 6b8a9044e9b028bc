"""Input views: how each is made, and which requests are refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from bcd.config.compose import with_defaults
from bcd.config.input_views import InputView, parse_views
from bcd.config.schema import AugmentConfig, ModelConfig
from bcd.data.catalog import ImageRecord
from bcd.data.input_views import cut_rois, make_views, normalize, pack, packed_shape, prepare_sides
from bcd.data.items import Wanted
from bcd.data.reading import prepare, read_image
from bcd.data.sandbox import read_all
from bcd.data.views import PLAIN, Augmenter, ImageViews
from bcd.errors import ConfigError
from bcd.models.backbones.build import check_backbone
from bcd.models.frozen_prefix import unpack
from tests.helpers.noise import noise, write_image

VIEWS = ["grey", "plain@40", "plain", "reinhard@40"]


def tinted(side: int = 64) -> np.ndarray:
    """A bluish background of (200, 180, 240) with dark cells on a fifth of it, slightly noisy."""
    rng = np.random.default_rng(0)
    pixels = np.full((side, side, 3), (200, 180, 240), np.int64)
    pixels[: side // 2, : side * 2 // 5] = (90, 40, 120)
    return np.asarray(np.clip(pixels + rng.integers(-2, 3, pixels.shape), 0, 255), np.uint8)


def test_plain_changes_nothing_and_grey_has_the_luma_in_all_channels() -> None:
    pixels = noise(0, size=30)
    np.testing.assert_array_equal(normalize(pixels, "plain"), pixels)
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    grey = normalize(pixels, "grey")
    assert np.abs(grey.astype(float) - luma[..., None]).max() <= 0.51


def test_white_balance_makes_the_background_neutral() -> None:
    pixels = tinted()
    before, balanced = pixels.copy(), normalize(pixels, "white_balanced")
    np.testing.assert_array_equal(pixels, before)
    background, cells = balanced[-1].mean(axis=0), balanced[0, :20].mean(axis=0)
    assert background == pytest.approx([230] * 3, abs=2.5)
    assert cells == pytest.approx(np.array([90, 40, 120]) * 230 / [200, 180, 240], abs=2.5)
    # The colour of the light cancels, as far as no channel is clipped.
    other = np.rint(pixels * np.array([0.9, 1.0, 0.8])).astype(np.uint8)
    gap = normalize(other, "white_balanced").astype(int) - balanced
    assert np.abs(gap).max() <= 2


def test_reinhard_gives_every_image_the_same_mean_and_deviation_in_lab() -> None:
    for pixels in (tinted(), np.rint(tinted() * 0.8).astype(np.uint8)):
        lab = cv2.cvtColor(
            normalize(pixels, "reinhard").astype(np.float32) / 255, cv2.COLOR_RGB2LAB
        ).reshape(-1, 3)
        assert lab.mean(axis=0) == pytest.approx([83, 7, -2], abs=1.5)
        assert lab.std(axis=0) == pytest.approx([13, 9, 14], abs=2)
    # An even image has no deviation to stretch: its noise stays noise.
    even = np.full((32, 32, 3), 128, np.uint8)
    even[0, 0] = 129
    assert np.ptp(normalize(even, "reinhard").reshape(-1, 3), axis=0).max() < 40


def test_views_are_made_of_the_decoded_image_not_of_a_smaller_one(tmp_path: Path) -> None:
    file = write_image(tmp_path / "a.png", noise(1, size=90))
    image = ImageRecord("a.png", 1, "0" * 64, 90, 90)
    augmenter = Augmenter(with_defaults(AugmentConfig), 0)
    source = ImageViews(tmp_path, [image], 24, augmenter, mask=True, views=VIEWS)
    packed, label = source[(0, PLAIN)]
    parts = unpack(packed[None], [24, 40, 24, 40])
    decoded = read_image(file)
    for part, view in zip(parts, parse_views(VIEWS, 24), strict=True):
        expected = normalize(prepare(decoded, view.side, True), view.normalization)
        np.testing.assert_array_equal(part[0].numpy(), expected)
    assert label == 1
    assert packed.shape == packed_shape(source.inputs)
    batch, _ = source.collate([source[(0, PLAIN)]] * 2)
    assert batch.shape == (2, 3 * 2 * (24**2 + 40**2))
    assert batch.dtype == torch.uint8


@pytest.mark.parametrize("workers", [0, 1])
def test_predict_reads_the_views_that_training_loads(workers: int, tmp_path: Path) -> None:
    file = write_image(tmp_path / "a.png", noise(2, size=50))
    inputs = parse_views(VIEWS, 24)
    ((_, answer),) = read_all([file], Wanted(inputs, False), workers)
    expected = pack(
        make_views(cut_rois(prepare_sides(read_image(file), inputs, False), inputs), inputs)
    )
    assert not isinstance(answer, str)
    np.testing.assert_array_equal(answer, expected)


def test_a_view_of_one_name_is_an_image_as_before(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", noise(3, size=50))
    image = ImageRecord("a.png", 0, "0" * 64, 50, 50)
    source = ImageViews(tmp_path, [image], 24, Augmenter(with_defaults(AugmentConfig), 0))
    pixels, _ = source[(0, PLAIN)]
    np.testing.assert_array_equal(
        pixels.numpy(), prepare(read_image(tmp_path / "a.png"), 24, False)
    )


def test_augmentation_comes_before_normalization_and_is_alike_in_all_views() -> None:
    jitter = [{"_target_": "albumentations.D4", "p": 1.0}]
    augment = with_defaults(AugmentConfig, views=4, transforms=jitter)
    change = partial(Augmenter(augment, 0), sha256="a", view=1)
    inputs = parse_views(["plain", "white_balanced", "plain@40"], 24)
    resized = prepare_sides(tinted(), inputs, False)
    plain, balanced, large = make_views(cut_rois(resized, inputs), inputs, change)
    assert not np.array_equal(plain, resized[24])
    np.testing.assert_array_equal(balanced, normalize(plain, "white_balanced"))
    turned = [np.rot90(resized[40], k) for k in range(4)]
    turned += [np.rot90(resized[40][:, ::-1], k) for k in range(4)]
    (place,) = [k for k, one in enumerate(turned) if np.array_equal(one, large)]
    small = [np.rot90(resized[24], k) for k in range(4)]
    small += [np.rot90(resized[24][:, ::-1], k) for k in range(4)]
    np.testing.assert_array_equal(plain, small[place])


def config(**settings: Any) -> ModelConfig:
    return with_defaults(ModelConfig, weights=None, **settings)


def test_the_side_of_a_view_is_that_of_the_model_unless_named() -> None:
    views = config(views=["grey", "plain@320"]).input_views()
    assert views == (InputView("grey", 224), InputView("plain", 320))
    assert config().input_views() == (InputView("plain", 224),)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"views": []}, r"model\.views=\[\]: give at least one"),
        ({"views": ["plain", "gray"]}, "gray is unknown; choose plain, .*did you mean 'grey'"),
        ({"views": ["plain@x"]}, r"plain@x: give the side .* whole number, such as plain@320"),
        ({"views": ["plain", "plain"]}, "plain is listed twice; leave one"),
        ({"views": ["grey", "grey@224"]}, r"grey@224 is listed twice \(as grey: .* is 224\)"),
        ({"views": ["plain", "grey@8"]}, "grey@8: sides are 32 to 2048 pixels"),
        ({"views": ["plain", "grey"], "unfreeze": 2}, r"unfreeze=2: .*needs frozen features"),
        ({"views": ["grey"], "unfreeze": "all"}, r"unfreeze=all: .*needs frozen features"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        config(**settings)


def test_blocks_can_be_trained_on_the_plain_view_however_it_is_named() -> None:
    assert config(views=["plain@224"], unfreeze=2).unfreeze == 2


def test_a_network_of_fixed_size_accepts_no_other_side() -> None:
    check_backbone(config(views=["plain", "plain@320", "plain@96"]))
    check_backbone(config(backbone="vit_b_16", views=["plain", "grey"]))
    with pytest.raises(ConfigError, match=r"plain@320: vit_b_16 with model\.input_size=224"):
        check_backbone(config(backbone="vit_b_16", views=["plain", "plain@320"]))
