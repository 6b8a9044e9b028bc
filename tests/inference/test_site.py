"""Which images a profile is for, and how it is described."""

from __future__ import annotations

from pathlib import Path

import pytest

from bcd.data.matching import ColourMap, Match
from bcd.errors import ConfigError
from bcd.inference.site import describe_match
from tests.helpers.harness import eval_config


def test_a_match_is_described_in_one_sentence() -> None:
    assert describe_match(Match(0.5, None)) == [
        "site.profile: every image is reduced to 0.50 of its size and surrounded by mirror images"
    ]
    colour = ColourMap("rgb", (1.0,) * 9, (0.0,) * 3)
    assert describe_match(Match(0.5, colour))[0].endswith(
        "of its size, surrounded by mirror images, and given the colours of the training images"
    )
    assert describe_match(Match(1.0, None)) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((), "site.profile: belongs to the images of one site: give data.root="),
        (("sites={a: x}", "data.root=x"), "site.profile: belongs to the images of one site"),
        (("record=true", "data.root=x"), "site.profile: cannot be combined with record or"),
        (("recalibrate=x.csv", "data.root=x"), "site.profile: cannot be combined with record or"),
    ],
)
def test_a_profile_is_for_the_images_of_one_site(
    settings: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        eval_config(tmp_path, "ckpt=x", "site.profile=site.json", *settings)
