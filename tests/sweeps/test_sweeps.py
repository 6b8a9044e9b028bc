"""Trials and the leaderboard of a sweep, in this process."""

from __future__ import annotations

import csv
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

import bcd.training.run
from bcd.data.splits.split import Split
from bcd.errors import BcdError
from bcd.run_folder import RECORD
from bcd.sweeps.configurations import group_trials
from bcd.sweeps.finalize_sweep import finalize_sweep, reproduce_command
from bcd.sweeps.ranking import BEST, INDISTINGUISHABLE, NONE_FINISHED, rank, read_correct
from bcd.sweeps.trials import DONE, FAILED, UNFINISHED, WORST, Trial, read_trials, run_trial
from tests.helpers.harness import CONF, SMALL, assert_same_figures, train_config
from tests.helpers.noise import made_up_catalog
from tests.helpers.pages import Page

TRIALS = [
    (f"model.dropout={d}", f"optimizer.lr={lr}", f"seed={s}")
    for d in (0.0, 0.5) for lr in (0.003,) for s in (0, 1)
]  # fmt: skip


def do(sweep: Path, overrides: Sequence[str], name: str) -> float:
    every = [*SMALL, f"data.root={sweep.parent / 'images'}", *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=every)
    return run_trial(cfg, sweep, name, every)


def table(sweep: Path, name: str = "leaderboard.csv") -> list[dict[str, str]]:
    with (sweep / name).open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "multirun"
    for number, overrides in enumerate(TRIALS):
        do(folder, overrides, str(number))
    assert not list(folder.glob("*/metrics.json"))  # nothing was tested yet
    assert finalize_sweep(folder) == 0
    return folder


def test_trials_are_grouped_over_seeds(sweep: Path) -> None:
    rows = table(sweep)
    trials = {trial.name: trial for trial in read_trials(sweep)}
    assert {row["configuration"] for row in rows} == {"dropout=0", "dropout=0.5"}
    assert rows[0]["verdict"] == BEST
    for row in rows:
        names = ("0", "1") if row["configuration"] == "dropout=0" else ("2", "3")
        shares, right = [trials[n].accuracy for n in names], []
        for name in names:
            with (sweep / name / "predictions_val.csv").open() as stream:
                own = [r["label"] == r["prediction"] for r in csv.DictReader(stream)]
            assert np.mean(own) == pytest.approx(trials[name].accuracy)
            right += own
        assert float(row["val_accuracy_mean"]) == pytest.approx(statistics.mean(shares), abs=1e-6)
        assert float(row["val_accuracy_sd"]) == pytest.approx(statistics.stdev(shares), abs=1e-6)
        assert float(row["val_accuracy_pooled"]) == pytest.approx(np.mean(right), abs=1e-6)
        assert int(row["n_val_predictions"]) == len(right)
        shares = [unsafe_on_val(sweep / name) for name in names]
        assert float(row["val_unsafe_malignant_mean"]) == pytest.approx(
            statistics.mean(shares), abs=1e-6
        )
        assert float(row["val_accuracy_low"]) < np.mean(right) < float(row["val_accuracy_high"])
    page = (sweep / "leaderboard.html").read_text()
    assert page.count("unsafe, malignant</th>") == page.count("unsafe, benign</th>") == 1


def unsafe_on_val(folder: Path) -> float:
    """Share of malignant val images that are called benign and not referred."""
    rows = [row for row in table(folder, "predictions_val.csv") if row["label"] != "Benign"]
    return sum(r["malignant"] == "false" and r["refer"] == "false" for r in rows) / len(rows)


def test_only_the_best_is_tested_and_its_runs_equal_single_runs(
    sweep: Path, tmp_path: Path
) -> None:
    winners = [row["trial"] for row in table(sweep, "trials.csv") if row["test_accuracy"]]
    first = table(sweep)[0]["configuration"]
    named = {"dropout=0": ["0", "1"], "dropout=0.5": ["2", "3"]}
    assert winners == named[first]
    assert [f.parent.name for f in sorted(sweep.glob("*/metrics.json"))] == winners
    for name in winners:
        overrides = [*SMALL, f"data.root={sweep.parent / 'images'}", *TRIALS[int(name)]]
        alone = bcd.training.run.train(train_config(tmp_path / name, *overrides))
        assert alone is not None
        together = json.loads((sweep / name / "metrics.json").read_text())
        assert_same_figures(together, json.loads((tmp_path / name / "metrics.json").read_text()))
        for file in ("predictions.csv", "split.csv", "audit.json"):
            assert (sweep / name / file).read_text() == (tmp_path / name / file).read_text()
        there = {str(f.relative_to(tmp_path / name)) for f in (tmp_path / name).rglob("*.*")}
        kept = {str(f.relative_to(sweep / name)) for f in (sweep / name).rglob("*.*")}
        assert {f for f in there - kept if "tfevents" not in f} == set()
        score = json.loads((sweep / name / RECORD).read_text())["accuracy"]
        assert together["val"]["accuracy"] == score
    pooled = table(sweep, "predictions.csv")
    assert len(pooled) == sum(len(table(sweep / name, "predictions.csv")) for name in winners)
    share = np.mean([row["label"] == row["prediction"] for row in pooled])
    cells = Page((sweep / "leaderboard.html").read_text()).cells
    assert cells[cells.index("accuracy, pooled") + 1].startswith(f"{share:.4f} [")


def test_the_page_has_the_table_a_figure_with_alt_text_and_the_command(sweep: Path) -> None:
    page = (sweep / "leaderboard.html").read_text()
    rows = table(sweep)
    assert "http" not in page and "<script src" not in page
    assert all(row["configuration"] in page and row["verdict"] in page for row in rows)
    assert 'role="img" aria-label="Val accuracy of each configuration' in page
    command = reproduce_command(rank(sweep, group_trials(read_trials(sweep)))[0])
    assert command.startswith("bcd train -m ") and command.endswith(" seed=0,1")
    assert rows[0]["overrides"].split()[-2] in command
    assert command.split(" seed")[0] in page


def test_tensorboard_has_every_trial_with_its_final_metrics(sweep: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    trials = read_trials(sweep)
    tested = {r["trial"]: r["test_accuracy"] for r in table(sweep, "trials.csv")}
    assert {f.name for f in (sweep / "hparams").iterdir()} == {t.name for t in trials}
    for trial in trials:
        events = EventAccumulator(str(sweep / "hparams" / trial.name))
        events.Reload()
        plugin = events.summary_metadata["_hparams_/session_start_info"].plugin_data
        given = HParamsPluginData.FromString(plugin.content).session_start_info.hparams
        assert given["model.dropout"].number_value == (0.5 if int(trial.name) > 1 else 0.0)
        assert given["seed"].number_value == int(trial.name) % 2
        (accuracy,) = events.Scalars("final/val_accuracy")
        assert accuracy.value == pytest.approx(trial.accuracy)
        assert ("final/test_accuracy" in events.Tags()["scalars"]) == bool(tested[trial.name])


def test_the_benchmark_summarizes_the_seeds_of_a_sweep(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.seeds import main

    monkeypatch.setattr(sys, "argv", ["seeds", str(sweep)])
    main()
    assert "| mean ± sd |" in capsys.readouterr().out


def test_a_crash_is_a_row_and_only_the_failed_trial_is_rerun(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").symlink_to(sweep.parent / "images")
    folder, trained, crash = tmp_path / "multirun", [], True

    def fragile(cfg: object, tested: bool) -> object:
        name = Path(cfg.run_dir).name  # type: ignore[attr-defined]
        trained.append(name)
        if name == "1" and crash:
            raise MemoryError("no room\nfor more")
        return real(cfg, tested)  # type: ignore[arg-type]

    real = bcd.training.run.train
    monkeypatch.setattr(bcd.training.run, "train", fragile)
    scores = [do(folder, TRIALS[i], str(i)) for i in range(3)]
    assert scores[1] == WORST < min(scores[0], scores[2])
    assert finalize_sweep(folder) == 1
    by_name = {row["trial"]: row for row in table(folder, "trials.csv")}
    assert by_name["1"]["reason"] == "MemoryError: no room"
    assert [by_name[n]["status"] for n in "012"] == [DONE, FAILED, DONE]
    assert "1: MemoryError: no room" in {r["reason"] for r in table(folder)}
    assert "MemoryError: no room" in (folder / "leaderboard.html").read_text()
    assert "MemoryError" in (folder / "1" / "traceback.txt").read_text()

    trained.clear()
    crash = False
    again = [do(folder, TRIALS[i], str(i)) for i in range(3)]
    assert trained == ["1"]
    assert (again[0], again[2]) == (scores[0], scores[2])
    assert finalize_sweep(folder) == 0
    assert not (folder / "1" / "traceback.txt").exists()
    assert "already done" in capsys.readouterr().err


def record(folder: Path, trial: Trial, groups: str = "") -> None:
    """Writes the files of a trial that the leaderboard reads."""
    own = folder / trial.name
    own.mkdir(parents=True)
    plain = {**vars(trial), "run": list(trial.run)}
    (own / RECORD).write_text(json.dumps(plain))
    paths = [f"{i}.png" for i in range(trial.n)]
    right = round(trial.accuracy * trial.n)
    rows = "".join(f"{p},{groups},{p},val\n" for p in paths)
    (own / "split.csv").write_text("path,cluster,sha256,subset\n" + rows)
    predicted = "".join(f"{p},a,{'a' if i < right else 'b'}\n" for i, p in enumerate(paths))
    (own / "predictions_val.csv").write_text("path,label,prediction\n" + predicted)


def trial(name: str, overrides: str, run: int, accuracy: float, **more: Any) -> Trial:
    given: dict[str, Any] = {"status": DONE, "loss": 0.1, "n": 100, "accuracy": accuracy, **more}
    return Trial(name, name, tuple(overrides.split()), run=(run, run, 0), **given)


def test_a_configuration_with_missing_runs_cannot_be_the_best(tmp_path: Path) -> None:
    made = [
        trial("0", "a=1 seed=0", 0, 0.9), trial("1", "a=1 seed=1", 1, 0.8),
        trial("2", "a=2 seed=0", 0, 0.99), trial("3", "a=2 seed=1", 1, 0.0, status=FAILED),
        trial("4", "a=3 seed=0", 0, 0.0, status=UNFINISHED),
    ]  # fmt: skip
    for one in made:
        record(tmp_path, one)
    rows = rank(tmp_path, group_trials(read_trials(tmp_path)))
    assert [row.configuration.label for row in rows] == ["a=1", "a=2", "a=3"]
    assert [row.verdict for row in rows][::2] == [BEST, NONE_FINISHED]
    versus = rows[1].versus_best
    assert versus is not None and versus.n == 100
    assert versus.difference == pytest.approx(0.09)  # on the run that both have


def test_images_that_overlap_are_one_cluster_of_a_trial(tmp_path: Path) -> None:
    catalog = made_up_catalog([3, 2])
    clusters = ("pair", "pair", "", "", "")
    Split(("val",) * 5, clusters=clusters).write(tmp_path / "split.csv", catalog)
    paths = [image.path for image in catalog.images]
    predicted = "".join(f"{path},a,a\n" for path in paths)
    (tmp_path / "predictions_val.csv").write_text("path,label,prediction\n" + predicted)
    reported = read_correct(tmp_path, "predictions_val.csv")
    assert reported[paths[0]][0] == reported[paths[1]][0]
    assert len({group for group, _ in reported.values()}) == 4


def test_ties_are_not_distinguishable_and_the_lower_loss_comes_first(tmp_path: Path) -> None:
    record(tmp_path, trial("0", "a=1", 0, 0.9, loss=0.3))
    record(tmp_path, trial("1", "a=2", 0, 0.9, loss=0.2))
    record(tmp_path, trial("2", "a=3", 0, 0.4))
    rows = rank(tmp_path, group_trials(read_trials(tmp_path)))
    assert [row.configuration.label for row in rows] == ["a=2", "a=1", "a=3"]
    assert [row.verdict for row in rows] == [BEST, INDISTINGUISHABLE, "worse than the best"]


def test_the_loss_only_breaks_ties_of_the_score() -> None:
    scores = [
        trial("0", "", 0, accuracy, loss=loss).score
        for accuracy, loss in [(0.90, 0.9), (0.90, 0.1), (0.91, 5.0), (0.91, float("nan"))]
    ]
    assert scores[0] < scores[1] < scores[3] < scores[2]
    assert trial("0", "", 0, 0.9, status=FAILED).score == WORST


def test_trials_are_identified_by_their_configuration_not_by_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(cfg: object, tested: bool) -> None:
        raise ValueError(Path(cfg.run_dir).name)  # type: ignore[attr-defined]

    monkeypatch.setattr(bcd.training.run, "train", fail)
    for number, seed in enumerate((0, 1)):
        do(tmp_path / "s", [f"seed={seed}"], str(number))
    # The same folder with another command: seed 1 is now the first, seed 2 is new.
    for number, seed in enumerate((1, 2)):
        do(tmp_path / "s", [f"seed={seed}"], str(number))
    found = {t.name: t for t in read_trials(tmp_path / "s")}
    assert len(found) == 3
    assert "seed=1" in found["1"].overrides and found["1"].reason == "ValueError: 1"
    (other,) = set(found) - {"0", "1"}
    assert "seed=2" in found[other].overrides and other.startswith("1-")


def test_an_interruption_ends_the_sweep_and_leaves_the_trial_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(cfg: object, tested: bool) -> None:
        raise BcdError("interrupted", 130)

    monkeypatch.setattr(bcd.training.run, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        do(tmp_path / "s", ["seed=0"], "0")
    (left,) = read_trials(tmp_path / "s")
    assert left.status == UNFINISHED
    assert finalize_sweep(tmp_path / "s", test=False) == 1
    assert table(tmp_path / "s")[0]["reason"] == "0: unfinished"
