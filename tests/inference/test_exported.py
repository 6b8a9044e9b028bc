"""Predicting with an exported file: the same rows as with its checkpoint, and no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bcd
from bcd.config.compose import with_defaults
from bcd.config.programs import SiteMatchConfig
from bcd.data.items import Item
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.errors import BcdError
from bcd.evaluation.predictions import NOT_FINITE, UNCALIBRATED, Prediction
from bcd.inference.checkpoint_model import CheckpointModel
from bcd.inference.exported import ExportedModel
from bcd.inference.predictor import Predictor
from tests.helpers.exported import MODEL, SIDE, asked, changed, measured
from tests.helpers.harness import predicted


def assert_same(given: list[Prediction], expected: list[Prediction]) -> None:
    assert [p.path for p in given] == [p.path for p in expected]
    for one, other in zip(given, expected, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
        assert (one.refer, one.malignant, one.error) == (other.refer, other.malignant, other.error)


def test_rows_are_those_of_the_checkpoint_in_any_batch(made: Path, tmp_path: Path) -> None:
    expected = predicted(asked(made, tmp_path / "ckpt", ckpt=str(made / "run")))
    assert len({p.probabilities for p in expected}) == len(expected) == 15
    assert len({p.refer for p in expected}) > 2 and sum(bool(p.error) for p in expected) == 1
    file = str(made / MODEL)
    for batch_size, workers in ((1, 0), (4, 2), (32, None)):
        settings = {"batch_size": batch_size, "num_workers": workers}
        assert_same(predicted(asked(made, tmp_path / "model", model=file, **settings)), expected)
    headers = [(tmp_path / name / "predictions.csv").read_text().splitlines()[0]
               for name in ("ckpt", "model")]  # fmt: skip
    assert headers[0] == headers[1]


def test_python_gives_the_same_dicts(made: Path) -> None:
    rows = bcd.load(made / MODEL, device="cpu").predict(made / "new")
    expected = bcd.load(made / "run", device="cpu").predict(made / "new")
    assert [list(row) for row in rows] == [list(row) for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert {k: v for k, v in row.items() if not isinstance(v, float)} == {
            k: v for k, v in other.items() if not isinstance(v, float)
        }


def test_a_profile_matches_images_as_for_the_checkpoint(made: Path, tmp_path: Path) -> None:
    profile = measured(made, tmp_path / "site.json")
    match = with_defaults(SiteMatchConfig, profile=str(profile), scale=False, colour="reinhard")
    plain, expected, given = (
        predicted(asked(made, tmp_path, **settings))
        for settings in (
            {"ckpt": str(made / "run")},
            {"ckpt": str(made / "run"), "site": match},
            {"model": str(made / MODEL), "site": match},
        )
    )
    assert_same(given, expected)
    assert [p.probabilities for p in expected] != [p.probabilities for p in plain]

    def mask(content: dict[str, Any], card: dict[str, Any]) -> None:
        content["mask_scale_bar"] = card["mask_scale_bar"] = True

    masking = changed(
        made, tmp_path, lambda *both: [one.update(mask_scale_bar=True) for one in both]
    )
    with pytest.raises(BcdError, match=r"site\.profile: model=.* covers the scale bar itself"):
        predicted(asked(made, tmp_path, model=str(masking), site=match))


def test_an_uncalibrated_file_refers_everything_or_is_refused(made: Path, tmp_path: Path) -> None:
    def forget(content: dict[str, Any], card: dict[str, Any]) -> None:
        content["calibrated"], card["policy"] = False, None

    file = changed(made, tmp_path, forget)
    with pytest.raises(BcdError, match="uncalibrated: it has no decision policy"):
        bcd.load(file)
    rows = bcd.load(file, uncalibrated=True).predict(made / "new", num_workers=0)
    assert all(row["refer"] and row["reason"].endswith(UNCALIBRATED) for row in rows)


def test_sets_and_scores_are_those_of_the_checkpoint(made: Path) -> None:
    own, other = (
        ExportedModel(made / MODEL, False, "cpu"),
        CheckpointModel.load(made / "run", False, "cpu"),
    )
    drawn = [draw_smear(name, slide=7, index=i, size=SIDE) for i, name in enumerate(CLASS_NAMES)]
    given, expected = (model.answer(np.stack(drawn)) for model in (own, other))
    assert (given.sets == expected.sets).all() and given.sets.any()
    assert given.ood_scores == pytest.approx(expected.ood_scores, rel=1e-4)
    assert len(set(given.ood_scores)) == len(drawn)


def test_answers_that_contradict_themselves_are_none(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ExportedModel(made / MODEL, False, "cpu")
    images = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    probabilities, malignant, refer, reasons, *rest = model.forward(images)
    names = ["not finite", *("x" for _ in range(reasons.shape[1] - 1))]
    lost = np.where([[True] * 4, [False] * 4], np.nan, probabilities)
    odd = np.zeros_like(reasons)
    odd[:, names.index(NOT_FINITE)] = [True, False]
    monkeypatch.setattr(model, "forward", lambda _: [lost, malignant, odd.any(1), odd, *rest])
    first, second = (model.answer(images).prediction(i, "a") for i in range(2))
    assert (first.probabilities, first.malignant, first.refer) == ((), None, (NOT_FINITE,))
    assert second.probabilities and second.refer == () and second.malignant is not None
    for wrong in (
        [lost, malignant, refer, reasons, *rest],  # NaN without its reason
        [probabilities / 2, malignant, refer, reasons, *rest],
        [probabilities, malignant, ~reasons.any(1), reasons, *rest],
        [probabilities[:1], malignant, refer, reasons, *rest],
        [probabilities, malignant, refer, reasons, rest[0], rest[1][:1]],
    ):
        monkeypatch.setattr(model, "forward", lambda _, wrong=wrong: wrong)
        with pytest.raises(BcdError, match="gives no answers"):
            model.answer(images)


def test_what_was_read_before_a_failure_is_answered(made: Path) -> None:
    data = (made / "new" / "00.png").read_bytes()

    def items() -> Any:
        for number in range(5):
            yield Item(f"archive/{number}", data=data)
        raise KeyboardInterrupt

    predictor = Predictor(ExportedModel(made / MODEL, False, "cpu"))
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        for batch in predictor.batches(items(), 2, 0):
            told += [prediction.path for prediction in batch]
    assert told == [f"archive/{number}" for number in range(4)]
