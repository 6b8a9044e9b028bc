"""Profiles of sites: measuring one, and evaluating and predicting with it."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import bcd
from bcd.config.compose import with_defaults
from bcd.config.programs import EvalConfig, PredictConfig, SiteMatchConfig, SiteProfileConfig
from bcd.data.matching import Match
from bcd.data.site_profile import profile_site, read_profile
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.predictions import Prediction
from bcd.features.bank import all_banks
from bcd.inference.checkpoint import load_checkpoint
from bcd.inference.evaluate import evaluate_checkpoint
from bcd.inference.site import find_match
from bcd.models.checkpoint_content import read_content
from bcd.training.run import train
from tests.helpers.harness import SMALL, error_lines, predicted, train_config, verb

SIDE = 112
SETTINGS = ("data.generate.size=112", "model.input_size=112", "features=bank")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    views = ("model.views=[grey,plain]", "model.unfreeze=0", "head=logreg", "augment=none")
    train(train_config(folder / "run", *SMALL, *SETTINGS, *views, f"data.root={folder / 'images'}"))
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn smears of another laboratory: cells twice as large, on a yellow background."""
    folder = tmp_path_factory.mktemp("site") / "images"
    for number in range(20):
        name = CLASS_NAMES[number % 4]
        (folder / name).mkdir(parents=True, exist_ok=True)
        image = draw_smear(name, slide=number % 4, index=number, seed=9, size=448)
        middle = image[112:336, 112:336] * np.array([1.0, 0.97, 0.8])
        cv2.imwrite(str(folder / name / f"{number}.png"), middle[:, :, ::-1].astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def profile(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("profile") / "site.json"
    measured(site, output=str(file))
    return file


def measured(root: Path, **settings: Any) -> None:
    given = {"root": str(root), "run_dir": str(root.parent), "num_workers": 0, **settings}
    profile_site(with_defaults(SiteProfileConfig, **given))


def asked(trained: Path, run_dir: Path, given: Path, **match: Any) -> PredictConfig:
    matching = with_defaults(SiteMatchConfig, **match)
    return with_defaults(
        PredictConfig, ckpt=str(trained / "run"), input=str(given), run_dir=str(run_dir),
        device="cpu", num_workers=0, site=matching,
    )  # fmt: skip


def evaluated(trained: Path, run_dir: Path, root: Path | None, **match: Any) -> dict[str, Any]:
    cfg = with_defaults(EvalConfig, ckpt=str(trained / "run"), run_dir=str(run_dir), device="cpu")
    cfg.data.root, cfg.data.num_workers = None if root is None else str(root), 0
    cfg.site = with_defaults(SiteMatchConfig, **match)
    evaluate_checkpoint(cfg)
    info: dict[str, Any] = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = next(iter(info["appearance"].values()))
    return found


def factors(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"cells ([0-9.]+) times larger", text)]


def test_a_profile_says_what_was_measured(site: Path, profile: Path) -> None:
    found = read_profile(str(profile))
    assert (found.found, found.unreadable, found.not_measured) == (20, 0, ())
    assert found.appearance.images == 20
    assert found.appearance.cells is not None
    assert found.appearance.cells.median == pytest.approx(2 * 19.7, rel=0.1)


def test_unreadable_files_are_counted_and_few_images_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(6):
        (tmp_path / "images").mkdir(exist_ok=True)
        grey = np.full((64, 64, 3), 200, np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), grey)
    (tmp_path / "images" / "odd.png").write_text("no image")
    measured(tmp_path / "images", output=str(tmp_path / "site.json"))
    found = read_profile(str(tmp_path / "site.json"))
    assert (found.found, found.unreadable) == (7, 1)
    assert [line.partition(":")[0] for line in found.not_measured] == ["red cells", "stains"]
    assert "not measured: red cells" in capsys.readouterr().err
    for number in range(2):
        (tmp_path / "images" / f"{number}.png").write_text("no image")
    with pytest.raises(BcdError, match=r"4 images can be read, and a profile needs 5"):
        measured(tmp_path / "images")
    with pytest.raises(ConfigError, match="limit=4: must be 5 or more"):
        measured(tmp_path / "images", limit=4)
    with pytest.raises(BcdError, match=r"root=.*: no image there"):
        measured(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"must end in \.json"):
        measured(tmp_path / "images", output="site.yaml")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("nonsense", "not a profile that bcd site wrote"),
        ('{"version": 1}', "not a profile that bcd site wrote"),
        ("[1]", "not a profile that bcd site wrote"),
        ("version", "a profile of version 0, not 1"),
        ("changed", "changed since bcd site wrote it"),
    ],
)
def test_a_foreign_or_changed_profile_is_refused(
    content: str | None, said: str, profile: Path, trained: Path, tmp_path: Path
) -> None:
    file = tmp_path / "other.json"
    plain = json.loads(profile.read_text(encoding="utf-8"))
    if content == "version":
        content = json.dumps({**plain, "version": 0})
    elif content == "changed":
        plain["appearance"]["cells"]["median"] = 20.0
        content = json.dumps(plain)
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(BcdError, match=said):
        predicted(asked(trained, tmp_path, trained / "images", profile=str(file)))


def test_a_checkpoint_that_does_not_describe_its_images_is_refused(
    trained: Path, profile: Path, tmp_path: Path
) -> None:
    best = trained / "run" / "checkpoints" / "best.ckpt"
    _, card = load_checkpoint(best)
    assert card.appearance is not None
    assert card.appearance["cells"]["median"] == pytest.approx(19.7, rel=0.1)
    content = read_content(best)
    content["card"]["appearance"] = None
    torch.save(content, tmp_path / "without.ckpt")
    cfg = asked(trained, tmp_path, trained / "images", profile=str(profile))
    cfg.ckpt = str(tmp_path / "without.ckpt")
    with pytest.raises(BcdError, match="does not describe its training images"):
        predicted(cfg)


def test_eval_says_how_a_site_differs_and_matching_removes_it(
    trained: Path, site: Path, profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluated(trained, tmp_path / "own", None)["differences"] == []
    assert "differ from the training images" not in capsys.readouterr().err
    banks = {bank.folder for bank in all_banks()}
    plain = evaluated(trained, tmp_path / "a", site)
    said = capsys.readouterr().err
    assert factors(said) == [pytest.approx(2, abs=0.25)]
    assert "yellower by" in said
    assert "warning: these images differ from the training images" in said
    assert len({bank.folder for bank in all_banks()} - banks) == 0  # more rows in the same banks
    match = {"profile": str(profile), "colour": "white_point"}
    matched = evaluated(trained, tmp_path / "b", site, **match)
    said = capsys.readouterr().err
    (factor,) = re.findall(r"every image is reduced to ([0-9.]+) of its size", said)
    assert float(factor) == pytest.approx(0.5, abs=0.04)
    assert len(matched["differences"]) < len(plain["differences"])
    assert not factors(said)
    assert len({bank.folder for bank in all_banks()} - banks) == 3  # two views and the descriptor
    rows = [read(tmp_path / name / "predictions.csv") for name in "ab"]
    assert [r["p_Benign"] for r in rows[0]] != [r["p_Benign"] for r in rows[1]]


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("colour", ["none", "macenko"])
def test_an_answer_does_not_depend_on_the_other_images(
    colour: str, trained: Path, site: Path, profile: Path, tmp_path: Path
) -> None:
    match = {"profile": str(profile), "colour": colour}
    together = predicted(asked(trained, tmp_path / "all", site, **match))
    assert len(together) == 20
    for number in (0, 13):
        file = Path(together[number].path)
        (alone,) = predicted(asked(trained, tmp_path / "one", file, **match))
        same(alone, together[number])
        outside = asked(trained, tmp_path / "outside", file, **match)
        outside.num_workers = 1
        same(predicted(outside)[0], together[number])


def same(one: Prediction, other: Prediction) -> None:
    assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    assert (one.best, one.refer) == (other.best, other.refer)


def test_predict_and_eval_agree_on_matched_images(
    trained: Path, site: Path, profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    match = {"profile": str(profile), "colour": "reinhard"}
    evaluated(trained, tmp_path / "eval", site, **match)
    made = {Path(p.path).name: p for p in predicted(asked(trained, tmp_path, site, **match))}
    for row in read(tmp_path / "eval" / "predictions.csv"):
        prediction = made[Path(row["path"]).name]
        assert float(row["p_Benign"]) == pytest.approx(prediction.probabilities[0], abs=2e-4)
    capsys.readouterr()
    predicted(asked(trained, tmp_path, site))
    assert factors(capsys.readouterr().err) == [pytest.approx(2, abs=0.25)]
    predicted(asked(trained, tmp_path, Path(row_file(site))))
    assert "differ from the training images" not in capsys.readouterr().err  # one image


def row_file(site: Path) -> str:
    return str(next(site.glob("*/*.png")))


def test_python_matches_as_the_command_does(
    trained: Path, site: Path, profile: Path, tmp_path: Path
) -> None:
    match = {"profile": str(profile), "colour": "white_point"}
    rows = bcd.load(trained / "run", device="cpu", site=match).predict(site, num_workers=0)
    expected = predicted(asked(trained, tmp_path, site, **match))
    assert [row["p_Benign"] for row in rows] == [p.probabilities[0] for p in expected]


def test_the_command_line_writes_a_profile(site: Path, tmp_path: Path) -> None:
    file = tmp_path / "a profile [1].json"
    done = verb("site", f"root={site}", f"output={file}", "limit=16")
    assert done.returncode == 0, done.stderr
    assert "red cells, pixels of 224" in done.stderr
    assert read_profile(str(file)).appearance.images == 16
    wrong = verb("predict", "ckpt=x", f"input={site}", "site.colour=reinhard")
    assert error_lines(wrong) == ["error: site.colour=reinhard: needs site.profile=<from bcd site>"]


def test_a_profile_changes_no_image_of_the_run_and_of_one_site_only(
    trained: Path, site: Path, profile: Path, tmp_path: Path
) -> None:
    match = {"profile": str(profile)}
    with pytest.raises(ConfigError, match=r"but here are the run's own images \(test\): give"):
        evaluated(trained, tmp_path, trained / "images", **match)
    file = tmp_path / "sites.csv"
    rows = [(path, path.parent.name, "ab"[i % 2]) for i, path in enumerate(site.rglob("*.png"))]
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("path", "class", "site"), *rows])
    with pytest.raises(ConfigError, match=r"but here are the run's own images \(test\), a, b"):
        evaluated(trained, tmp_path, file, **match)
    mixed = shutil.copytree(trained / "images", tmp_path / "mixed")
    with pytest.raises(ConfigError, match=r"but 48 of 48 images of mixed are the run's own"):
        evaluated(trained, tmp_path, mixed, **match)


def test_a_match_without_effect_is_named(
    trained: Path, profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, card = load_checkpoint(trained / "run" / "checkpoints" / "best.ckpt")
    idle = with_defaults(SiteMatchConfig, profile=str(profile), scale=False)
    assert find_match(idle, card) == Match(1.0, None)
    assert "site.profile has no effect with site.scale=false" in capsys.readouterr().err


def test_a_recalibrated_checkpoint_takes_no_profile(
    trained: Path, profile: Path, tmp_path: Path
) -> None:
    content = read_content(trained / "run" / "checkpoints" / "best.ckpt")
    content["card"]["recalibration"] = {"site": "another"}
    torch.save(content, tmp_path / "recalibrated.ckpt")
    cfg = asked(trained, tmp_path, trained / "images", profile=str(profile))
    cfg.ckpt = str(tmp_path / "recalibrated.ckpt")
    with pytest.raises(BcdError, match="the checkpoint was recalibrated"):
        predicted(cfg)
