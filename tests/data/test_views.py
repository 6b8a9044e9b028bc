from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from omegaconf import OmegaConf

from bcd.config.compose import with_defaults
from bcd.config.schema import AugmentConfig
from bcd.data.catalog import ImageRecord
from bcd.data.views import PLAIN, Augmenter, ImageViews
from tests.helpers.harness import CONF
from tests.helpers.noise import noise

Pixels = NDArray[np.uint8]
SHIPPED = sorted(path.stem for path in (CONF / "augment").glob("*.yaml"))


def shipped(name: str) -> AugmentConfig:
    content: Any = OmegaConf.to_container(OmegaConf.load(CONF / "augment" / f"{name}.yaml"))
    return with_defaults(AugmentConfig, **content)


def one(target: str, **settings: Any) -> dict[str, Any]:
    return {"_target_": f"albumentations.{target}", **settings}


ONE_OF = with_defaults(
    AugmentConfig,
    transforms=[
        one(
            "OneOf",
            p=0.9,
            transforms=[
                one("GaussNoise", std_range=[0.1, 0.3], p=1.0),
                one("Rotate", limit=[-90, 90], p=1.0),
                one(
                    "Sequential",
                    p=1.0,
                    transforms=[
                        one("RandomBrightnessContrast", p=0.5),
                        one("CoarseDropout", p=0.5),
                        one("SomeOf", n=1, p=1.0, transforms=[one("D4", p=1.0), one("ToGray")]),
                    ],
                ),
            ],
        )
    ],
)
CONFIGS = {name: shipped(name) for name in SHIPPED} | {"nested": ONE_OF}


def views_of(augmenter: Augmenter, image: Pixels, sha: str, count: int) -> list[bytes]:
    return [augmenter(image, sha, view).tobytes() for view in range(count)]


def test_shipped_augmentations_are_known() -> None:
    assert {"none", "paper", "strong"} <= set(SHIPPED)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [32, 47])
def test_views_keep_shape_and_type_and_leave_the_image_alone(name: str, size: int) -> None:
    augmenter = Augmenter(CONFIGS[name], seed=0)
    image = noise(seed=0, size=size)
    before = image.copy()
    for view in range(20):
        made = augmenter(image, "a", view)
        assert made.shape == (size, size, 3)
        assert made.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_view_is_the_same_in_any_order_of_access(name: str) -> None:
    images = {sha: noise(seed=i) for i, sha in enumerate(("aa", "bb", "cc"))}
    keys = [(sha, view) for sha in images for view in range(15)]
    one_by_one = Augmenter(CONFIGS[name], seed=7)
    made = {key: one_by_one(images[key[0]], *key).tobytes() for key in keys}
    other = Augmenter(CONFIGS[name], seed=7)
    np.random.default_rng(0).shuffle(keys)
    for key in keys[:30] + keys[:5]:
        np.random.seed(len(keys))
        assert other(images[key[0]], *key).tobytes() == made[key]
        assert Augmenter(CONFIGS[name], seed=7)(images[key[0]], *key).tobytes() == made[key]


@pytest.mark.parametrize("name", ["paper", "strong", "nested"])
def test_views_differ_between_views_images_and_seeds(name: str) -> None:
    image, count = noise(seed=0), 24
    views = views_of(Augmenter(CONFIGS[name], seed=0), image, "aa", count)
    assert len(set(views)) > count / 2
    for other in (
        views_of(Augmenter(CONFIGS[name], seed=1), image, "aa", count),
        views_of(Augmenter(CONFIGS[name], seed=0), image, "bb", count),
    ):
        assert sum(a == b for a, b in zip(views, other, strict=True)) < count / 2


@pytest.mark.parametrize("name", CONFIGS)
def test_the_plain_view_is_the_untouched_image(name: str) -> None:
    image = noise(seed=0)
    assert Augmenter(CONFIGS[name], seed=0)(image, "aa", PLAIN) is image
    plain = all(
        view == image.tobytes() for view in views_of(Augmenter(CONFIGS[name], 0), image, "a", 9)
    )
    assert plain == (name == "none")


def test_a_copy_sent_to_another_process_makes_the_same_views() -> None:
    import pickle

    augmenter = Augmenter(CONFIGS["strong"], seed=3)
    image = noise(seed=0)
    before = views_of(augmenter, image, "aa", 8)
    assert views_of(pickle.loads(pickle.dumps(augmenter)), image, "aa", 8) == before


def two_toned() -> Pixels:
    """Darker on its left half, so that a flip can be told from the image."""
    image = np.full((32, 32, 3), 120, dtype=np.uint8)
    image[:, :16] = 80
    return image


def drawn(cfg: AugmentConfig, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each view: is it flipped, and how bright is it."""
    augmenter = Augmenter(cfg, seed=0)
    made = np.stack([augmenter(two_toned(), "aa", view) for view in range(count)]).astype(float)
    return (made[:, :, 4].mean((1, 2)) > made[:, :, -4].mean((1, 2))) * 1.0, made.mean((1, 2, 3))


def test_what_one_transform_draws_tells_nothing_about_another() -> None:
    bright = one("RandomBrightnessContrast", brightness_limit=[-0.2, 0.2], contrast_limit=[0, 0])
    always = with_defaults(
        AugmentConfig, transforms=[one("HorizontalFlip", p=0.5), {**bright, "p": 1.0}]
    )
    sometimes = with_defaults(
        AugmentConfig, transforms=[one("HorizontalFlip", p=0.5), {**bright, "p": 0.5}]
    )
    for cfg in (always, sometimes, shipped("paper")):
        flipped, brightness = drawn(cfg, 300)
        assert 0.4 < flipped.mean() < 0.6
        assert brightness.std() > 2
        assert abs(np.corrcoef(flipped, brightness)[0, 1]) < 0.17  # three standard errors
        changed = abs(brightness - two_toned().mean()) > 0.5
        if 0 < changed.mean() < 1:
            assert abs(np.corrcoef(flipped, changed)[0, 1]) < 0.17


def test_transforms_are_applied_as_often_as_asked() -> None:
    cfg = with_defaults(AugmentConfig, transforms=[one("HorizontalFlip", p=0.25)])
    flipped, _ = drawn(cfg, 400)
    assert abs(flipped.mean() - 0.25) < 3 * np.sqrt(0.25 * 0.75 / 400)


def test_the_choice_of_one_of_is_even_and_independent() -> None:
    shades = [one("ToGray", p=1.0), one("InvertImg", p=1.0)]
    cfg = with_defaults(
        AugmentConfig,
        transforms=[one("HorizontalFlip", p=0.5), one("OneOf", p=1.0, transforms=shades)],
    )
    flipped, brightness = drawn(cfg, 300)
    inverted = brightness > 120
    assert 0.4 < inverted.mean() < 0.6
    # An inverted image is brighter on its left, as a flipped one is.
    assert abs(np.corrcoef(flipped != inverted, inverted)[0, 1]) < 0.17


def test_a_dataset_gives_resized_views_and_labels(tmp_path: Path) -> None:
    from tests.helpers.noise import write_image

    pixels = noise(seed=0, size=40)
    write_image(tmp_path / "a b" / "p.png", pixels)
    image = ImageRecord("a b/p.png", label=2, sha256="aa", width=40, height=40)
    augmenter = Augmenter(shipped("paper"), seed=0)
    source = ImageViews(tmp_path, [image], 20, augmenter)
    assert len(source) == 1
    plain, label = source[(0, PLAIN)]
    assert label == 2
    small = pixels.reshape(20, 2, 20, 2, 3).mean((1, 3))
    assert np.abs(plain.numpy() - small).max() <= 0.5
    for view in range(6):
        expected = augmenter(plain.numpy(), "aa", view)
        np.testing.assert_array_equal(source[(0, view)][0].numpy(), expected)
