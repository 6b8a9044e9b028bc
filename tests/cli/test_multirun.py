"""Sweeps as a user starts them: serial, parallel, as jobs, and searching."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import MissingConfigException

from bcd.cli.app import explain
from tests.helpers.harness import CONF, SMALL, error_lines, fresh, script, verb


def table(sweep: Path, name: str = "leaderboard.csv") -> list[dict[str, str]]:
    """A leaderboard without the columns that differ between runs."""
    with (sweep / name).open(encoding="utf-8") as stream:
        return [{k: v for k, v in r.items() if k != "seconds"} for r in csv.DictReader(stream)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # joblib's processes have one; sums depend on it
        yield tmp_path_factory.mktemp("multirun")


def sweep(base: Path, name: str, *words: str) -> tuple[Path, int, str]:
    """A sweep in which a trial has an invalid learning rate."""
    # Processes that joblib starts from a forked one wait for ever.
    run = fresh if "hydra/launcher=joblib" in words else script
    done = run(
        "train.py", "-m", *SMALL, f"data.root={base}/images", f"hydra.sweep.dir={base / name}",
        *words,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return base / name, done.returncode, done.stderr


SEED_0, GRID = ("seed=0", "optimizer.lr=0.003,-1"), ("seed=0,1", "optimizer.lr=0.003,-1")


@pytest.fixture(scope="module")
def serial(base: Path) -> Path:
    folder, status, said = sweep(base, "serial", *GRID)
    assert status == 1
    assert "trial 1: failed: optimizer.lr=-1" in said
    assert "2 of 4 trials did not finish; to retry:  bcd train -m " in said
    return folder


@pytest.mark.slow
def test_a_sweep_ends_in_a_leaderboard_of_tested_winners(serial: Path) -> None:
    first, last = table(serial)
    assert (first["configuration"], first["n_done"], first["verdict"]) == ("lr=0.003", "2", "best")
    assert (last["configuration"], last["n_done"]) == ("lr=-1", "0")
    assert "optimizer.lr=-1" in last["reason"]
    for trial in "02":
        metrics = json.loads((serial / trial / "metrics.json").read_text())
        assert set(metrics) == {"val", "test"}
        assert (serial / trial / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "grid"),
    [
        pytest.param(
            ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
            GRID,
            marks=pytest.mark.exhaustive,
        ),
        # Each job is an interpreter of its own.
        (("hydra/launcher=submitit_local",), SEED_0),
    ],
    ids=["joblib", "submitit_local"],
)
def test_another_launcher_runs_missing_trials_and_gives_the_same_leaderboard(
    launcher: tuple[str, ...], grid: tuple[str, ...], base: Path, serial: Path
) -> None:
    name = launcher[0].rpartition("=")[2]
    pytest.importorskip(f"hydra_plugins.hydra_{name.split('_')[0]}_launcher")
    folder = base / name
    shutil.copytree(serial, folder)
    shutil.rmtree(folder / "0")  # as if it had never been
    before = (folder / "2" / "trial.json").stat().st_mtime_ns
    try:
        _, status, _ = sweep(base, name, *grid, *launcher)
    except AssertionError as error:
        # On a busy machine submitit starts a job before it has made the folder for its log.
        if "_log.out" not in str(error):
            raise
        _, status, _ = sweep(base, name, *grid, *launcher)
    assert status == 1
    assert (folder / "2" / "trial.json").stat().st_mtime_ns == before
    assert table(folder) == table(serial)
    assert table(folder, "trials.csv") == table(serial, "trials.csv")


@pytest.mark.slow
def test_a_search_is_compared_with_the_default(base: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ("sweep=optuna", "hydra.sweeper.n_trials=2", "model.dropout=choice(0.1,0.9)")
    folder, status, said = sweep(base, "optuna", *words)
    assert status == 0, said
    trials = {row["trial"] for row in table(folder, "trials.csv")}
    assert trials == {"0", "1", "default"}
    assert "default" in {row["configuration"] for row in table(folder)}
    assert "the search" in said
    best = max(json.loads(f.read_text())["accuracy"] for f in folder.glob("*/trial.json"))
    assert float(table(folder)[0]["val_accuracy_mean"]) == pytest.approx(best, abs=1e-6)
    assert "sweep=optuna" not in said.partition("reproduce:")[2].splitlines()[0]


@pytest.mark.parametrize(
    ("choice", "package"),
    [
        ("hydra/launcher=joblib", "hydra-joblib-launcher"),
        ("hydra/launcher=submitit_slurm", "hydra-submitit-launcher"),
        ("hydra/sweeper=optuna", "hydra-optuna-sweeper"),
    ],
)
def test_a_plugin_that_is_not_installed_is_named_with_the_command(
    choice: str, package: str
) -> None:
    group, _, name = choice.partition("=")
    with (
        initialize_config_dir(str(CONF), version_base="1.3"),
        pytest.raises(MissingConfigException) as caught,
    ):
        compose("train", overrides=[f"{group}=absent"], return_hydra_config=True)
    # As Hydra would say it of the plugin, were it not there.
    said = MissingConfigException(str(caught.value).replace("absent", name), None, None)
    plain = explain(said, "train", CONF)
    assert plain is not None
    assert plain.status == 2
    assert str(plain) == f"{choice} needs a package: pip install {package}"
    other = explain(caught.value, "train", CONF)
    assert other is not None and str(other).startswith(f"{group}=absent: no such choice")


def test_a_folder_without_trials_is_an_error(tmp_path: Path) -> None:

    done = verb("sweep", str(tmp_path))
    assert done.returncode == 1
    assert "no trial found" in error_lines(done)[0]
