"""bcd reference with the settings of a site: the answers are those that its users get."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bcd.config.compose import with_defaults
from bcd.config.reference import ReferenceConfig, ReferenceDataConfig, ReferenceSiteConfig
from bcd.config.sites import Site
from bcd.data.quality.appearance import FEWEST, SIDE, Appearance, look_at, summarize
from bcd.data.site_profile import SiteProfile, write_profile
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.reference_set import FrozenSettings, read_set
from bcd.inference import reference
from bcd.reporting.reference import PAGE
from bcd.serving.engine.queue import Engine
from bcd.serving.engine.sites import read_ways
from tests.serving.making import IDENTITY, StubModel, serve_config, smear

THRESHOLD = 0.9


def appearance(tint: float) -> Appearance:
    smears = (draw_smear(CLASS_NAMES[i % 4], slide=i, index=i, size=SIDE) for i in range(FEWEST))
    found = summarize([look_at((one * [1, tint, 1]).astype("uint8")) for one in smears])
    assert found is not None
    return found


@pytest.fixture(scope="module")
def model() -> StubModel:
    made = StubModel()
    made.facts = replace(StubModel.facts, appearance=appearance(1.0).to_plain())
    return made


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The settings of the site."""
    file = tmp_path_factory.mktemp("site") / "east.json"
    write_profile(file, SiteProfile("data", FEWEST, 0, "f" * 64, (), appearance(0.8)))
    return {"profile": str(file), "scale": False, "colour": "reinhard", "threshold": THRESHOLD}


@pytest.fixture
def asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: StubModel
) -> Callable[..., ReferenceConfig]:
    monkeypatch.setattr(reference, "load_model", lambda **_: model)
    (tmp_path / "m.onnx").write_text("m")
    for number in range(8):
        file = tmp_path / "in" / CLASS_NAMES[number % 4] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(smear(number))

    def make(site: dict[str, Any], folder: str = "out", **more: Any) -> ReferenceConfig:
        return with_defaults(
            ReferenceConfig, model=str(tmp_path / "m.onnx"), num_workers=0,
            data=with_defaults(ReferenceDataConfig, root=str(tmp_path / "in")),
            site=with_defaults(ReferenceSiteConfig, **site), run_dir=str(tmp_path / folder), **more,
        )  # fmt: skip

    return make


def test_frozen_answers_are_those_of_the_server(
    asked: Callable[..., ReferenceConfig], given: dict[str, Any], model: StubModel,
    tmp_path: Path,
) -> None:  # fmt: skip
    frozen = read_set(reference.freeze(asked(given)))
    limits = serve_config(tmp_path / "serve").limits
    engine = Engine(model, IDENTITY, limits, ways=read_ways({"east": Site("east", **given)}, model))

    async def ask() -> Any:
        data = [(tmp_path / "in" / image.path).read_bytes() for image in frozen.images]
        found = await engine.answer(data, "east")
        await engine.close()
        return found

    served = asyncio.run(ask())
    for image, answer in zip(frozen.images, served, strict=True):
        assert image.answer.probabilities == pytest.approx(answer.probabilities)
        assert (image.answer.malignant, image.answer.refer) == (answer.malignant, answer.reasons)
    assert frozen.model.settings.profile == served[0].profile
    plain = read_set(reference.freeze(asked({}, folder="plain")))
    assert plain.sha256 != frozen.sha256
    for one in ("malignant", "probabilities"):
        before, after = (
            [getattr(image.answer, one) for image in s.images] for s in (plain, frozen)
        )
        assert before != after


def test_changed_settings_are_compared_and_said(
    asked: Callable[..., ReferenceConfig], given: dict[str, Any], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    set_ = str(reference.freeze(asked({})))
    assert reference.rerun(asked({}, set=set_)).changed == []
    assert "settings of the site changed" not in "".join(capsys.readouterr())
    assert reference.rerun(asked({"scale": False}, set=set_)).changed == []
    told = "".join(capsys.readouterr())
    assert "site.scale has no effect without site.profile" in told
    assert "settings of the site changed" not in told
    assert reference.rerun(asked(given, set=set_)).changed
    told = "".join(capsys.readouterr())
    facts = json.loads((tmp_path / "out" / "change.json").read_text())
    page = (tmp_path / "out" / PAGE).read_text("utf-8")
    assert "settings of the site changed as well: images as they are, threshold of the" in told
    assert "scale false, colour reinhard), threshold 0.9" in told
    assert "settings of the site changed as well" in page
    assert facts["models"]["old"]["settings"]["threshold"] is None
    assert facts["models"]["new"]["settings"]["threshold"] == THRESHOLD


def test_a_threshold_that_cannot_be_used_is_refused(
    asked: Callable[..., ReferenceConfig], model: StubModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"site\.threshold=1: must be between"):
        asked({"threshold": 1})
    monkeypatch.setattr(model, "facts", replace(model.facts, benign=None))
    with pytest.raises(BcdError, match=r"site\.threshold=0\.9: the model calls no image malignant"):
        reference.freeze(asked({"threshold": THRESHOLD}))


def test_a_profile_is_refused_for_the_own_images_of_a_checkpoint(
    asked: Callable[..., ReferenceConfig], given: dict[str, Any], model: StubModel, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    set_ = reference.freeze(asked({}, folder="plain"))
    own = read_set(set_).images[0].sha256
    card = SimpleNamespace(sha256s=lambda: {own}, seen=set)
    monkeypatch.setattr(model, "card", card, raising=False)
    for run in (
        lambda: reference.freeze(asked(given)),
        lambda: reference.rerun(asked(given, set=str(set_))),
    ):
        with pytest.raises(ConfigError, match=r"site\.profile: .*1 of 8 images .* the run's own"):
            run()
    reference.freeze(asked({}))


def test_a_threshold_is_said_as_it_is() -> None:
    assert str(FrozenSettings("", False, "none", 0.9999999)).endswith("threshold 0.9999999")
