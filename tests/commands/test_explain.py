"""Pictures of where the evidence for predictions is."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from bcd.config.compose import with_defaults
from bcd.config.programs import PredictConfig, SiteMatchConfig
from bcd.data.items import Wanted
from bcd.errors import BcdError, ConfigError
from bcd.explain.attribution import explain
from bcd.explain.overlay import draw_overlay
from bcd.inference.checkpoint_model import CheckpointModel, network_inputs
from bcd.inference.predictor import Predictor
from bcd.models.heads.scikit_learn import LogregHead
from bcd.training.run import train
from tests.commands.test_site import measured
from tests.helpers.harness import SMALL, predicted, train_config
from tests.helpers.noise import noise, write_image

SETTINGS = ("data.generate.size=112", "model.input_size=112", "features=bank")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two input views, whose head has no gradient only if a test says so."""
    folder = tmp_path_factory.mktemp("trained")
    views = ("model.views=[grey@64,plain]", "model.unfreeze=0", "head=logreg", "augment=none")
    train(train_config(folder / "run", *SMALL, *SETTINGS, *views, f"data.root={folder / 'images'}"))
    return folder


@pytest.fixture
def unknown(tmp_path: Path) -> Path:
    """Images, two of which differ in the suffix alone, and a file that is none."""
    folder = tmp_path / "new"
    for place, seed in (("a/1.png", 1), ("a/1.bmp", 2), ("b/deep er/1.png", 3), ("2.PNG", 4)):
        write_image(folder / place, noise(seed, seed, size=60))
    (folder / "a" / "odd.png").write_text("no image")
    return folder


def asked(trained: Path, run_dir: Path, **settings: Any) -> PredictConfig:
    given: dict[str, Any] = {"ckpt": str(trained / "run"), "run_dir": str(run_dir)}
    given |= {"device": "cpu", "num_workers": 0, **settings}
    return with_defaults(PredictConfig, **given)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def picture(file: Path) -> Any:
    found = cv2.imread(str(file))
    assert found is not None
    return found[:, :, ::-1]


def seen(predictor: Predictor, file: Path) -> tuple[torch.Tensor, Any]:
    """What the network gets of an image, and its plain view as pixels."""
    wanted = Wanted(predictor.facts.input_views, predictor.facts.mask_scale_bar, predictor.match)
    packed = wanted.read(file)
    assert not isinstance(packed, str)
    return network_inputs([packed]), packed[64 * 64 * 3 :].reshape(112, 112, 3)


def test_every_answer_gets_a_picture_and_no_answer_changes(
    trained: Path, unknown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = predicted(asked(trained, tmp_path / "plain", input=str(unknown), batch_size=2))
    capsys.readouterr()
    made = predicted(asked(trained, tmp_path, input=str(unknown), explain=True, batch_size=2))
    assert [p.probabilities for p in made] == [p.probabilities for p in plain]
    assert "explanations (gradcam): 4 in" in capsys.readouterr().err
    before, after = rows(tmp_path / "plain" / "predictions.csv"), rows(tmp_path / "predictions.csv")
    shown = {Path(row["path"]).relative_to(unknown).as_posix(): row.pop("explanation")
             for row in after}  # fmt: skip
    assert after == before
    assert shown == {
        "a/1.png": "explanations/a/1.png.png",
        "a/1.bmp": "explanations/a/1.bmp.png",
        "b/deep er/1.png": "explanations/b/deep er/1.png.png",
        "2.PNG": "explanations/2.PNG.png",
        "a/odd.png": "",
    }
    written = {p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("explanations/**/*.png")}
    assert written == set(shown.values()) - {""}
    model = CheckpointModel.load(trained / "run", False, "cpu")
    for prediction in made:
        if prediction.explanation and prediction.best is not None:
            x, pixels = seen(Predictor(model), Path(prediction.path))
            maps = explain(model.network, x, torch.tensor([prediction.best])).maps
            given = picture(tmp_path / prediction.explanation)
            assert np.abs(given.astype(int) - draw_overlay(pixels, maps[0])).mean() < 0.5
            assert (given != pixels).any()


def test_a_json_list_has_the_paths_and_another_name_another_folder(
    trained: Path, unknown: Path, tmp_path: Path
) -> None:
    files = [str(unknown / "a" / "1.png"), str(unknown / "2.PNG")]
    settings = {"input": files, "explain": "integrated_gradients"}
    predicted(asked(trained, tmp_path, **settings, output=str(tmp_path / "of may.json")))
    records = json.loads((tmp_path / "of may.json").read_text(encoding="utf-8"))
    assert [record["explanation"] for record in records] == [
        "of may_explanations/a/1.png.png", "of may_explanations/2.PNG.png",
    ]  # fmt: skip
    assert all((tmp_path / record["explanation"]).is_file() for record in records)
    assert not (tmp_path / "explanations").exists()


def test_the_picture_shows_the_matched_pixels(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    for number, file in enumerate(sorted((trained / "images").glob("*/*.png"))[:12]):
        image = cv2.imread(str(file))
        assert image is not None
        site.mkdir(exist_ok=True)
        yellow = np.asarray(image * np.array([0.8, 0.97, 1.0]), np.uint8)
        cv2.imwrite(str(site / f"{number}.png"), cv2.resize(yellow, (224, 224)))
    measured(site, output=str(tmp_path / "site.json"))
    match = with_defaults(
        SiteMatchConfig, profile=str(tmp_path / "site.json"), colour="white_point"
    )
    monkeypatch.setattr("bcd.inference.explanations.draw_overlay", lambda image, _: image)
    file = site / "3.png"
    predicted(asked(trained, tmp_path, input=str(file), explain=True, site=match))
    model = CheckpointModel.load(trained / "run", False, "cpu")
    _, expected = seen(Predictor(model, match), file)
    _, unmatched = seen(Predictor(model), file)
    given = picture(tmp_path / "explanations" / "3.png.png")
    assert (given == expected).all()
    assert np.abs(given.astype(int) - unmatched).mean() > 2


def test_names_that_would_be_equal_or_are_too_long_get_others(
    trained: Path, tmp_path: Path
) -> None:
    names = ["x.png", "X.png", f"{'l' * 246}.png"]
    for number, name in enumerate(names):
        write_image(tmp_path / "in" / name, noise(number))
    made = predicted(asked(trained, tmp_path, input=str(tmp_path / "in"), explain="gradcam"))
    pictures = [p.explanation or "" for p in made]
    assert len({name.casefold() for name in pictures}) == len(names)
    assert "explanations/x.png (2).png" in {name.lower() for name in pictures}
    assert all((tmp_path / name).is_file() for name in pictures)


def test_a_method_that_cannot_be_used_is_an_error_before_any_image(
    trained: Path, unknown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"explain=grad: choose gradcam or .*did you mean"):
        asked(trained, out, input=str(unknown), explain="grad")
    monkeypatch.setattr("bcd.explain.attribution.ForestHead", LogregHead)
    with pytest.raises(BcdError, match=r"explain=gradcam: .* no gradient: set explain=occlusion"):
        predicted(asked(trained, out, input=str(unknown), explain="gradcam"))
    assert not out.exists()
    predicted(asked(trained, out, input=str(unknown), explain=True, limit=1))
    assert len(list(out.glob("explanations/**/*.png"))) == 1
