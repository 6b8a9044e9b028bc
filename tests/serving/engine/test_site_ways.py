"""Images of a site are matched by its profile before the model gets them, and explained so."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.config.serve import LimitsConfig
from bcd.config.sites import Site
from bcd.data.input_views import views_to_read
from bcd.data.items import Item, Wanted
from bcd.data.quality.appearance import FEWEST, SIDE, Appearance, look_at, summarize
from bcd.data.site_profile import SiteProfile, write_profile
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.errors import BcdError
from bcd.evaluation.decision import Decisions
from bcd.serving.engine.queue import Engine
from bcd.serving.engine.sites import AS_TRAINED, Way, read_ways
from bcd.serving.errors import UnprocessableError
from tests.serving.making import IDENTITY, StubModel, smear


class Stub(StubModel):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[NDArray[np.uint8]] = []

    def answer(self, packed: NDArray[np.uint8]) -> Decisions:
        self.got += list(packed)
        return super().answer(packed)


def appearance(tint: float) -> Appearance:
    smears = (draw_smear(CLASS_NAMES[i % 4], slide=i, index=i, size=SIDE) for i in range(FEWEST))
    looks = [look_at((one * [1, tint, 1]).astype(np.uint8)) for one in smears]
    found = summarize(looks)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def model() -> Stub:
    made = Stub()
    made.facts = replace(StubModel.facts, appearance=appearance(1.0).to_plain())
    return made


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    file = tmp_path_factory.mktemp("site") / "east.json"
    write_profile(file, SiteProfile("data", FEWEST, 0, "f" * 64, (), appearance(0.8)))
    return Site("east", profile=str(file), scale=False, colour="reinhard")


def test_the_model_gets_matched_images(model: Stub, site: Site, limits: LimitsConfig) -> None:
    ways = read_ways({"": Site(""), "east": site}, model)
    engine = Engine(model, IDENTITY, limits, ways=ways)
    wanted = Wanted(views_to_read(model.facts.input_views), mask=False)
    data = smear(3)

    async def ask() -> Any:
        plain = await engine.answer([data])
        matched = await engine.answer([data], "east")
        shown = await engine.explain(data, site="east")
        await engine.close()
        return *plain, *matched, shown

    plain, matched, shown = asyncio.run(ask())
    as_read = wanted.read(Item("", data=data))
    as_matched = replace(wanted, match=ways["east"].match).read(Item("", data=data))
    assert not np.array_equal(as_read, as_matched)
    assert np.array_equal(model.got[0], as_read) and np.array_equal(model.got[1], as_matched)
    assert all(np.array_equal(one, as_matched) for one in model.got[2:3]) and shown.png
    assert (plain.profile, plain.match, plain.sha256) == ("", "", matched.sha256)
    assert matched.profile == hashlib.sha256(Path(site.profile or "").read_bytes()).hexdigest()
    other = read_ways({"east": replace(site, colour="white_point")}, model)["east"]
    assert matched.match == ways["east"].match_sha256 != other.match_sha256


def test_a_site_that_is_not_set_up_gets_no_answer(engine: Engine) -> None:
    for ask in (engine.answer([smear()], "east"), engine.explain(smear(), site="east")):
        with pytest.raises(UnprocessableError, match="not set up for images of the site east"):
            asyncio.run(ask)


def test_what_a_model_cannot_be_used_with_is_refused(model: Stub, site: Site) -> None:
    assert read_ways({"": Site("")}, model) == {"": AS_TRAINED}
    assert read_ways({"east": Site("east", threshold=0.3)}, model)["east"] == Way(threshold=0.3)
    gone = replace(site, profile="nowhere.json")
    with pytest.raises(BcdError, match=r"^sites.east.profile=nowhere.json: cannot be read"):
        read_ways({"east": gone}, model)
    changed = Stub()
    for facts, said in (
        ({"appearance": None}, "does not describe its training images"),
        ({"recalibration": {"site": "west"}}, "was recalibrated with images that were not matched"),
    ):
        changed.facts = replace(model.facts, **facts)
        with pytest.raises(BcdError, match=rf"^sites.east.profile=.*{said}"):
            read_ways({"east": site}, changed)
    changed.facts = replace(model.facts, benign=None)
    with pytest.raises(BcdError, match=r"^sites.east.threshold=0.3: the model calls no image"):
        read_ways({"east": Site("east", threshold=0.3)}, changed)
