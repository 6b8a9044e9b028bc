"""The page of an audit shows the images: sheets, a map, size and focus, labels to check."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from bcd.audit.embedding import FEWEST, map_images
from bcd.audit.run import audit
from bcd.audit.sheets import spread
from bcd.data.catalog import Catalog, ImageRecord
from bcd.data.splits.slide_groups import Slides
from bcd.data.synthetic.smears import CLASS_NAMES, generate
from tests.helpers.harness import audit_config
from tests.helpers.pages import Page

MAPS = {"map_class.svg", "map_slide.svg", "map_error.svg"}
SECTIONS = ["Images of each class", "Size and focus", "Map of the images", "Labels to check"]


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcd.audit.probes._TREES", 10)


@pytest.fixture(scope="module")
def smears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures") / "smears"
    generate(root, count=120, slides=4, size=48)
    return root


def audited(folder: Path, root: Path, *overrides: str) -> Page:
    small = ("model=cnn", "model.input_size=48", "split.group_size=10")
    audit(audit_config(folder, f"data.root={root}", *small, *overrides))
    return Page((folder / "audit.html").read_text(encoding="utf-8"))


def test_the_page_shows_sheets_maps_and_labels(smears: Path, tmp_path: Path) -> None:
    page = audited(tmp_path, smears)
    at = page.headings.index(SECTIONS[0])
    assert page.headings[at : at + 4] == SECTIONS
    figures = {file.name for file in (tmp_path / "figures").iterdir()}
    assert {*MAPS, "size_and_focus.svg"} <= figures
    counts = json.loads((tmp_path / "audit.json").read_text())
    for name in CLASS_NAMES:
        own = len(list((smears / name).iterdir()))
        assert f"{name}: {min(24, own)} of {own} images" in page.text
    assert "All images have 48 x 48 pixels." in page.text
    with (tmp_path / "label_issues.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert counts["labels_to_check"] == len(rows)
    assert "label_issues.csv" in page.links
    for row in rows[:24]:
        assert f"Labelled {row['class']}, looks like {row['suggested_class']}" in page.text


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("network=false", "network=false leaves out the network's features"),
        ("model.weights=/no/such/weights.pth", "/no/such/weights.pth"),
    ],
)
def test_without_features_the_page_says_why_there_is_no_map(
    smears: Path, tmp_path: Path, override: str, reason: str
) -> None:
    page = audited(tmp_path, smears, override)
    assert not MAPS & {file.name for file in (tmp_path / "figures").iterdir()}
    assert page.text.count("Not computed") == 2 and reason in page.text
    assert not (tmp_path / "label_issues.csv").exists()
    assert "label_issues.csv" not in page.links
    assert json.loads((tmp_path / "audit.json").read_text())["labels_to_check"] is None


def test_the_map_keeps_clusters_together_and_is_the_same_in_each_run() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(3, size=150)
    features = (5.0 * np.eye(3, 20)[truth] + random.standard_normal((150, 20))).astype(np.float32)
    found = map_images(features)
    again = map_images(features)
    assert found is not None and again is not None
    np.testing.assert_array_equal(found.points, again.points)
    distances = np.linalg.norm(found.points[:, None] - found.points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (truth[distances.argmin(axis=1)] == truth).mean() > 0.95


def test_of_many_images_a_sample_is_mapped_and_of_few_none() -> None:
    features = np.random.default_rng(1).random((60, 5)).astype(np.float32)
    found = map_images(features, most=40)
    assert found is not None
    assert len(found.points) == len(found.rows) == len(set(found.rows.tolist())) == 40
    assert list(found.rows) == sorted(found.rows)
    assert map_images(features[: FEWEST - 1]) is None
    least = map_images(features[:FEWEST])
    assert least is not None and np.isfinite(least.points).all()


def test_a_sheet_is_spread_over_the_slides_of_its_class() -> None:
    labels = [0] * 40 + [1] * 5
    groups = tuple(f"a/{i % 4:03d}" for i in range(40)) + ("b/000",) * 5
    images = tuple(ImageRecord(f"{i}.png", k, str(i), 8, 8) for i, k in enumerate(labels))
    catalog, slides = Catalog(Path(), ("a", "b"), 0, images, ()), Slides(groups, {}, {})
    chosen = spread(catalog, slides, 0, most=8)
    assert len(set(chosen)) == 8 and all(labels[row] == 0 for row in chosen)
    counts = [sum(groups[row] == f"a/{g:03d}" for row in chosen) for g in range(4)]
    assert min(counts) >= 1 and max(counts) <= 3
    assert spread(catalog, slides, 1, most=8) == list(range(40, 45))
