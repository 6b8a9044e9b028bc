"""Planted faults are found and little else is; every run has an audit verdict."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.audit.run import audit
from bcd.audit.shortcuts import NETWORK, WITHOUT_COLOUR
from bcd.audit.sources import BACKGROUND, BRIEF_SOURCES, COLOUR, PATCHES
from bcd.data.reading import mask_scale_bar, read_image
from bcd.data.synthetic.smears import CLASS_NAMES, generate
from tests.helpers.harness import SMALL, audit_config, script, verb

Pixels = NDArray[np.uint8]
COUNT = 240


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "smears"
    generate(root, count=COUNT, slides=6, size=112)
    return root


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forests of 40 trees instead of 100: planted shortcuts are strong enough for them."""
    monkeypatch.setattr("bcd.audit.probes._TREES", 40)


@pytest.fixture
def smears(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "smears"))


def run_audit(root: Path, tmp_path: Path, *overrides: str) -> tuple[dict[str, Any], int]:
    """Checks by name, and the exit status."""
    run = tmp_path / "audit"
    cfg = audit_config(run, f"data.root={root}", "network=false", *overrides)
    _, status = audit(cfg)
    found = json.loads((run / "audit.json").read_text())
    return {check["name"]: check for check in found["checks"]}, status


def save(file: Path, pixels: Pixels, quality: int | None = None) -> None:
    flags = [] if quality is None else [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, code = cv2.imencode(file.suffix, np.ascontiguousarray(pixels[:, :, ::-1]), flags)
    file.write_bytes(code.tobytes())


def resized(image: Pixels) -> Pixels:
    return np.asarray(cv2.resize(image, (80, 70), interpolation=cv2.INTER_AREA), np.uint8)


def brightened(image: Pixels) -> Pixels:
    return np.asarray(np.clip(image * 1.15 + 5, 0, 255), np.uint8)


def plant(root: Path) -> dict[str, dict[str, str]]:
    """Plants copies; returns, by kind, the path of each copy and of its original."""
    files = sorted(root.rglob("*.png"))
    chosen = iter(np.random.default_rng(0).choice(len(files), 110, replace=False))
    changes: dict[str, Callable[[Pixels], Pixels]] = {
        "reencoded": lambda p: p,
        "resized": resized,
        "brightened": brightened,
        "flipped": lambda p: p[:, ::-1] if p[0, 0, 0] % 2 else p[::-1],
        "other class": lambda p: p,
    }
    planted: dict[str, dict[str, str]] = {}
    for kind, change in changes.items():
        planted[kind] = {}
        for number in range(10 if kind == "other class" else 20):
            source = files[next(chosen)]
            folder = source.parent
            if kind == "other class":
                place = (CLASS_NAMES.index(folder.name) + 1) % len(CLASS_NAMES)
                folder = root / CLASS_NAMES[place]
            copy = folder / f"{kind}-{number}{'.jpg' if kind == 'reencoded' else '.png'}"
            save(copy, change(read_image(source)), 50 if kind == "reencoded" else None)
            planted[kind][copy.relative_to(root).as_posix()] = source.relative_to(root).as_posix()
    for number in range(5):
        source = files[next(chosen)]
        (source.parent / f"truncated-{number}.png").write_bytes(source.read_bytes()[:2000])
    return planted


def test_planted_copies_are_found_and_nothing_else(smears: Path, tmp_path: Path) -> None:
    planted = plant(smears)
    checks, _ = run_audit(smears, tmp_path)
    with (tmp_path / "audit" / "pairs.csv").open(newline="") as stream:
        found = {frozenset((row["path_a"], row["path_b"])) for row in csv.DictReader(stream)}
    every = set()
    for kind, copies in planted.items():
        wanted = {frozenset(pair) for pair in copies.items()}
        every |= wanted
        assert len(found & wanted) / len(wanted) >= 0.95, kind
    assert len(found & every) / len(found) >= 0.95
    conflicts = checks["label conflicts"]
    assert conflicts["status"] == "FAIL"
    reported = {frozenset((p["first"], p["second"])) for p in conflicts["facts"]["pairs"]}
    assert reported == {frozenset(pair) for pair in planted["other class"].items()}
    rejected = {item["path"] for item in checks["files"]["facts"]["rejected"]}
    assert {Path(path).name for path in rejected} == {f"truncated-{n}.png" for n in range(5)}
    odd = set(checks["image sizes"]["facts"]["unusual"])
    assert odd == set(planted["resized"])
    # A random split parts some of the pairs; each such test image is a leak.
    with (tmp_path / "audit" / "split.csv").open(newline="") as stream:
        subset = {row["path"]: row["subset"] for row in csv.DictReader(stream)}
    leaks = {
        path
        for pair in found
        for path in pair
        if subset[path] == "test" and {subset[p] for p in pair} != {"test"}
    }
    assert len(leaks) > 10
    assert set(checks["leaks"]["facts"]["leaked"]) == leaks
    assert checks["leaks"]["status"] == "FAIL"
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert page.count("data:image/jpeg;base64,") > 50
    assert (tmp_path / "audit" / "figures" / "cross_set_pairs.png").is_file()
    assert "data:image/png;base64," in page


def shortcuts(checks: dict[str, Any]) -> dict[str, str]:
    return {
        name.removeprefix("shortcut: "): check["status"]
        for name, check in checks.items()
        if name.startswith("shortcut: ")
    }


def test_clean_smears_pass_the_shortcut_checks(smears: Path, tmp_path: Path) -> None:
    checks, status = run_audit(smears, tmp_path, "strict=true")
    reported = shortcuts(checks)
    for name, found in reported.items():
        if name.startswith("corner") or name in (BACKGROUND, PATCHES, "border"):
            assert found == "PASS", (name, checks[f"shortcut: {name}"]["finding"])
    duplicates = ("exact duplicates", "near duplicates", "overlaps")
    for name in ("files", "image sizes", *duplicates, "label conflicts"):
        assert checks[name]["status"] == "PASS"
    assert checks["leaks"]["facts"]["leaked"] == []
    assert "patient-level separation: not established" in checks["separation"]["finding"]
    assert status == 0


def change_class(root: Path, name: str, change: Callable[[Pixels], Pixels]) -> None:
    for file in (root / name).glob("*.png"):
        save(file, change(read_image(file)))


def marked(image: Pixels) -> Pixels:
    image = image.copy()
    image[-11:-5, -17:-3] = 255
    image[-9:-7, -15:-5] = 0
    return image


def test_a_mark_in_the_corner_of_a_class_is_found_and_can_be_masked(
    smears: Path, tmp_path: Path
) -> None:
    change_class(smears, "Pre-B", marked)
    checks, status = run_audit(smears, tmp_path, "strict=true")
    reported = shortcuts(checks)
    assert reported["corner, bottom right"] == "FAIL"
    assert [
        name for name in reported if name.startswith("corner") and reported[name] != "PASS"
    ] == ["corner, bottom right"]
    corner = checks["shortcut: corner, bottom right"]
    assert corner["fix"] == "data.mask_scale_bar=true"
    assert {score["best_class"] for score in corner["facts"]["scores"]} == {"Pre-B"}
    assert status == 1
    masked, _ = run_audit(smears, tmp_path, "data.mask_scale_bar=true")
    assert "corner, bottom right" not in shortcuts(masked)


def test_the_cover_hides_the_mark_to_the_last_pixel(drawn: Path) -> None:
    files = sorted(drawn.rglob("*.png"))[:20]
    assert files
    for file in files:
        image = read_image(file)
        np.testing.assert_array_equal(mask_scale_bar(marked(image)), mask_scale_bar(image))
        changed = (mask_scale_bar(image) != image).any(axis=2)
        assert not changed[: round(0.85 * 112)].any()
        assert not changed[:, : round(0.78 * 112)].any()


@pytest.mark.exhaustive  # as the mark in a corner is
def test_a_tint_of_a_class_is_found(smears: Path, tmp_path: Path) -> None:
    def tinted(image: Pixels) -> Pixels:
        return np.asarray(image * np.array([1.0, 0.96, 0.9]), np.uint8)

    change_class(smears, "Pro-B", tinted)
    reported = shortcuts(run_audit(smears, tmp_path)[0])
    assert reported[BACKGROUND] == reported[PATCHES] == reported[COLOUR] == "FAIL"
    assert {reported[name] for name in reported if name.startswith("corner")} == {"PASS"}


def test_given_groups_in_single_sets_are_patient_level_separation(
    smears: Path, tmp_path: Path
) -> None:
    pattern = "'data.group_pattern=\"(slide..)\"'".strip("'")
    checks, _ = run_audit(smears, tmp_path, pattern, "split=grouped")
    assert checks["separation"]["status"] == "PASS"
    assert "6 groups" in checks["separation"]["finding"]
    assert "not established" not in checks["separation"]["finding"]
    scores = checks[f"shortcut: {COLOUR}"]["facts"]["scores"]
    assert [score["split"] for score in scores] == ["grouped", "stratified"]


def test_the_program_ends_with_a_verdict_and_strict_with_a_status(tmp_path: Path) -> None:
    smears = tmp_path / "smears"
    generate(smears, count=240, slides=6, size=64)
    change_class(smears, "Pre-B", marked)
    words = [f"data.root={smears}", f"hydra.run.dir={tmp_path}/run", "model=cnn"]
    words += ["split.group_size=20"]
    done = verb("audit", *words, "strict=true")
    assert done.returncode == 1, done.stderr
    assert "verdict: FAIL" in done.stderr
    assert "the network" in (tmp_path / "run" / "audit.html").read_text()
    found = json.loads((tmp_path / "run" / "audit.json").read_text())
    reported = {(score["source"], score["split"]) for score in found["network"]}
    splits = ("stratified", "grouped")
    assert reported == {(name, split) for name in (NETWORK, WITHOUT_COLOUR) for split in splits}
    wrong = verb("audit", *words, "netwrok=false")
    assert wrong.returncode == 2
    assert "did you mean 'network'" in wrong.stderr


def test_a_run_reports_its_leaks_and_eval_repeats_them(tmp_path: Path) -> None:
    root = tmp_path / "in"
    generate(root, count=48, slides=4, size=48)
    files = sorted(root.rglob("*.png"))
    (root / "generated.json").unlink()  # from here on these are anybody's images
    for number, file in enumerate(files[::3]):
        save(file.with_name(f"copy{number}.png"), read_image(file)[:, ::-1])
    small = [word for word in SMALL if not word.startswith("data=") and "generate" not in word]
    run = tmp_path / "run"
    done = script("train.py", *small, f"data.root={root}", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("audit: ")]
    test = json.loads((run / "metrics.json").read_text())["test"]
    assert line.startswith("audit: FAIL")
    assert f"leaks: {test['leaked']} of {test['n']} test images" in line
    with (run / "split.csv").open(newline="") as stream:
        subset = {Path(row["path"]).name: row["subset"] for row in csv.DictReader(stream)}
    with (run / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    partner = {f"copy{n}.png": file.name for n, file in enumerate(files[::3])}
    partner |= {original: copy for copy, original in partner.items()}
    free = [r for r in rows if subset.get(partner.get(Path(r["path"]).name, ""), "test") == "test"]
    assert test["leaked"] == len(rows) - len(free) > 0
    right = [row["prediction"] == row["label"] for row in free]
    assert test["accuracy_without_leaked"] == pytest.approx(np.mean(right))
    report = (run / "report.html").read_text()
    assert "Separation and leaks" in report
    checks = json.loads((run / "audit.json").read_text())["checks"]
    reported = {check["name"]: check["finding"] for check in checks}
    for source in BRIEF_SOURCES:
        assert "balanced" in reported[f"shortcut: {source}"]
        assert source.capitalize() in report
    assert "without seeing a cell" in report or "not above chance" in report
    assert 'class="badge FAIL"' in report
    again = script("eval.py", f"ckpt={run}", f"hydra.run.dir={tmp_path}/eval")
    assert again.returncode == 0, again.stderr
    repeated = json.loads((tmp_path / "eval" / "metrics.json").read_text())["test"]
    assert (repeated["leaked"], repeated["n"]) == (test["leaked"], test["n"])
    assert repeated["accuracy_without_leaked"] == test["accuracy_without_leaked"]
