"""What a release does only where it is asked for: views, curve, gate, model card, jobs."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from bcd.config.compose import with_defaults
from bcd.config.schema import ModelConfig
from bcd.inference.checkpoint import load_checkpoint
from bcd.models.backbones.build import build_backbone
from bcd.models.network import SmearNetwork
from bcd.models.test_time import tta_views
from bcd.release.curve import fit_power
from bcd.run_folder import find_checkpoint
from tests.helpers.harness import fresh
from tests.release.making import FOLDS, FROZEN, metrics, released, rows


def test_the_views_d4_are_the_eight_different_turns_and_reflections() -> None:
    x = torch.randint(0, 255, (2, 3, 8, 8), dtype=torch.uint8)
    views = tta_views(x, "d4")
    assert len(views) == 8 and torch.equal(views[0], x)
    for number, view in enumerate(views):
        assert all(not torch.equal(view, other) for other in views[:number])
        assert torch.equal(view.flatten().sort().values, x.flatten().sort().values)


def test_the_views_scales_keep_size_and_centre() -> None:
    x = torch.zeros(1, 3, 48, 48, dtype=torch.uint8)
    x[:, :, 20:28, 20:28] = 200  # a disc would grow and shrink about the centre
    plain, larger, smaller = tta_views(x, "scales")
    areas = [float((view > 100).float().mean()) for view in (smaller, plain, larger)]
    assert areas == sorted(areas) and areas[0] < areas[2]
    for view in (larger, smaller):
        assert view.shape == x.shape
        assert torch.allclose(view.float(), view.float().flip(2), atol=1)


def test_answers_are_averaged_over_the_views() -> None:
    cfg = with_defaults(ModelConfig, backbone="cnn", weights=None, input_size=48)
    torch.manual_seed(0)
    network = SmearNetwork(build_backbone(cfg), 4, cfg, members=2).eval()
    x = torch.randint(0, 255, (3, 3, 48, 48), dtype=torch.uint8)
    with torch.inference_mode():
        each = torch.stack([network.each(view) for view in (x, x.flip(3))]).exp().mean(dim=0)
        network.test_time = "flips"
        logits, spread = network.outputs(x)
        assert torch.allclose(network.outputs(x.flip(3))[0], logits, atol=1e-5)
    assert torch.allclose(logits.exp(), each.mean(dim=0), atol=1e-6)
    # Of two members, the distance to the other is the total variation between them.
    assert torch.allclose(spread, (each[0] - each[1]).abs().sum(dim=1) / 2, atol=1e-6)


@pytest.mark.slow
def test_views_are_kept_only_if_the_folds_show_a_gain(trained: Path) -> None:
    gain = metrics(trained)["test_time"]
    assert gain["kind"] == "flips"
    assert gain["kept"] == (gain["loss_gain_ci"][0] > 0)
    network, _ = load_checkpoint(find_checkpoint(str(trained)))
    assert network.test_time == ("flips" if gain["kept"] else None)
    said = "They are part of the model." if gain["kept"] else "They were left out."
    assert said in (trained / "model_card.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_learning_curve_trains_on_shares_of_the_slides(trained: Path) -> None:
    curve = metrics(trained)["curve"]
    assert [point["share"] for point in curve["points"]] == [0.25, 0.5, 1.0]
    groups = [point["groups"] for point in curve["points"]]
    assert groups == sorted(groups) and groups[0] < groups[2]
    assert curve["points"][-1]["accuracy"] == metrics(trained)["out_of_fold"]["accuracy"]
    for fold in range(FOLDS):
        subsets = {
            share: {
                row["path"]: row["subset"]
                for row in rows(trained / "folds" / f"{fold}{share}" / "split.csv")
            }
            for share in ("", "-0.5")
        }
        full, half = (
            {path for path, subset in found.items() if subset == "train"}
            for found in (subsets[""], subsets["-0.5"])
        )
        assert half < full
        tests = [{p for p, s in found.items() if s == "test"} for found in subsets.values()]
        assert tests[0] == tests[1]


def test_the_fit_of_a_power_law_recovers_it() -> None:
    groups, n = np.array([10.0, 20.0, 40.0]), 40_000
    rates = 2.0 * groups**-0.8
    wrong = np.stack([np.arange(n) < round(rate * n) for rate in rates])
    fit = fit_power(groups, wrong, None)
    assert fit is not None
    assert fit.exponent == pytest.approx(0.8, abs=0.01)
    assert fit.at_double == pytest.approx(1 - 2.0 * 80**-0.8, abs=0.002)
    assert fit.at_double_ci[0] < fit.at_double < fit.at_double_ci[1]
    assert fit_power(np.array([10.0, 10.0, 10.0]), wrong, None) is None


def worsen(old: Path, copy: Path, wanted: str) -> None:
    """Copies a release whose table is changed to that of a perfect model."""
    shutil.copytree(old, copy, ignore=shutil.ignore_patterns("folds", "checkpoints"))
    lines = (copy / "predictions.csv").read_text(encoding="utf-8").splitlines()
    header, body = lines[0].split(","), [line.split(",") for line in lines[1:]]
    for cells in body:
        row = dict(zip(header, cells, strict=True))
        if wanted == "perfect":
            row["prediction"] = row["label"]
            row["malignant"] = str(row["label"] != "Benign").lower()
            row["refer"] = "false"
        cells[:] = [row[name] for name in header]
    text = "\n".join(",".join(cells) for cells in [header, *body]) + "\n"
    (copy / "predictions.csv").write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_a_release_that_is_worse_than_the_old_one_fails(frozen: Path, base: Path) -> None:
    worsen(frozen, base / "perfect", "perfect")
    before = metrics(frozen)["out_of_fold"]["accuracy"]
    assert before < 0.9  # a random network
    words = (*FROZEN, f"from={base}/perfect")
    folder, status, said = released(base, "gated", *words)
    assert status == 1
    assert "gate: FAIL: worse than" in said
    gate = metrics(folder)["gate"]
    assert gate["passed"] is False and gate["n"] == 96 and gate["n_new"] == 0
    assert gate["accuracy"] == [1.0, before]
    assert gate["differences"]["accuracy"][2] < 0
    assert (folder / "checkpoints" / "best.ckpt").is_file()  # whoever deploys decides


@pytest.mark.slow
def test_hugging_face_reads_the_card_and_no_socket_is_opened(
    frozen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **more: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    card = ModelCard.load(frozen / "model_card.md")
    results = card.data.eval_results
    assert results is not None and card.data.library_name == "bcd"
    measured = metrics(frozen)["out_of_fold"]
    listed = {result.metric_name.partition(",")[0]: result.metric_value for result in results}
    assert {"accuracy", "f1", "unsafe_malignant", "referred"} <= listed.keys()
    assert listed == {name: measured[name] for name in listed}


@pytest.mark.slow
def test_the_first_section_has_what_a_reader_must_know(frozen: Path) -> None:
    page = (frozen / "model_card.md").read_text(encoding="utf-8")
    first = page.partition("## Summary")[2].partition("\n## ")[0]
    measured = metrics(frozen)
    for name in ("accuracy", "unsafe_malignant", "unsafe_benign", "referred"):
        assert f"{measured['out_of_fold'][name]:.4f}" in first, name
    for row in measured["corruptions"][1:]:
        assert f"{row['accuracy']:.4f}" in first
    assert "audit: " in first and "Not established: " in first
    assert "how the model does at other hospitals" in first


@pytest.mark.slow
@pytest.mark.exhaustive  # a launcher's sweep is in tests/cli/test_multirun.py
def test_folds_are_jobs_of_a_launcher(frozen: Path, base: Path) -> None:
    done = fresh(
        "train.py", "-m", *FROZEN, f"data.root={base}/images", f"hydra.sweep.dir={base}/jobs",
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"#{FOLDS - 1} : split.fold={FOLDS - 1}" in done.stdout + done.stderr
    assert rows(base / "jobs" / "folds.csv") == rows(frozen / "folds.csv")
    assert metrics(base / "jobs")["out_of_fold"] == metrics(frozen)["out_of_fold"]
