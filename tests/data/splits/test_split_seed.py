"""The split has a seed of its own; what a ranking over several splits has seen is counted."""

from __future__ import annotations

import csv
from html import unescape
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from bcd.cli.overrides import unknown_key
from bcd.config.compose import with_defaults
from bcd.config.schema import SplitConfig
from bcd.sweeps.configurations import group_trials
from bcd.sweeps.exposure import Exposure, exposure_text, find_exposure
from bcd.sweeps.finalize_sweep import finalize_sweep, reproduce_command
from bcd.sweeps.ranking import rank
from bcd.sweeps.trials import Trial, read_trials, run_trial
from bench.seeds import Seeds, count_test_sets, spreads, varied
from tests.helpers.harness import CONF, SMALL, audit_config, train_config
from tests.sweeps.test_sweeps import record, trial

KINDS = sorted(file.stem for file in (CONF / "split").glob("*.yaml"))
SEEN = "ranking used test images"


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_of_the_split_follows_no_other(kind: str, tmp_path: Path) -> None:
    default = with_defaults(SplitConfig).seed
    for seed in (0, 7):
        cfg = train_config(tmp_path, f"split={kind}", f"seed={seed}")
        assert (cfg.seed, cfg.split.seed) == (seed, default)
    assert train_config(tmp_path, f"split={kind}", "split.seed=5").split.seed == 5
    assert audit_config(tmp_path, f"split={kind}", "split.seed=5").split.seed == 5
    assert audit_config(tmp_path, f"split={kind}").split.seed == default
    both = train_config(tmp_path, f"split={kind}", "split.seed=5", "seed=${split.seed}")
    assert (both.seed, both.split.seed) == (5, 5)


def swept(folder: Path, key: str) -> Path:
    """Two configurations with two runs each, which differ in `key`."""
    for number in range(4):
        overrides = [
            *SMALL, f"data.root={folder.parent / 'images'}", "trainer.max_epochs=1",
            f"model.dropout={number // 2 / 2}", f"{key}={number % 2}",
        ]  # fmt: skip
        with initialize_config_dir(str(CONF), version_base="1.3"):
            run_trial(compose("train", overrides=overrides), folder, str(number), overrides)
    return folder


@pytest.fixture(scope="module")
def by_split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return swept(tmp_path_factory.mktemp("seeds") / "by_split", "split.seed")


@pytest.fixture(scope="module")
def by_seed(by_split: Path) -> Path:
    return swept(by_split.parent / "by_seed", "seed")


def parts(run: Path) -> dict[str, set[str]]:
    with (run / "split.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {s: {r["path"] for r in rows if r["subset"] == s} for s in ("train", "val", "test")}


def test_runs_that_differ_in_seed_share_the_split(by_seed: Path, by_split: Path) -> None:
    texts = {name: (by_seed / name / "split.csv").read_text() for name in "0123"}
    assert len(set(texts.values())) == 1
    assert (by_split / "0" / "split.csv").read_text() == texts["0"]
    for part in ("train", "val", "test"):  # each is drawn anew with split.seed
        assert parts(by_split / "0")[part] != parts(by_split / "1")[part]


def test_a_ranking_over_splits_states_its_exposure(
    by_split: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finalize_sweep(by_split) == 0
    said = capsys.readouterr().err
    runs = [parts(by_split / name) for name in "01"]  # both configurations have these splits
    tested = runs[0]["test"] | runs[1]["test"]
    val, train = (tested & (runs[0][part] | runs[1][part]) for part in ("val", "train"))
    assert val and train
    n = f"the best configuration's {len(tested)} distinct test images"
    told = f"{SEEN}: of {n}, {len(val)} are in val of another run"
    assert f"the {told}" in said and f"and {len(train)} are in train of one" in said
    assert told in unescape((by_split / "leaderboard.html").read_text())
    assert "used for the best configuration only" not in said
    reports = [
        (file.parent / "report.html").read_text() for file in by_split.glob("*/metrics.json")
    ]
    assert len(reports) == 2
    for report in reports:
        assert "tested after 2 configurations had been ranked on val" in report
        assert told in unescape(report)
        assert "evaluated its test set once" not in report


def test_a_ranking_over_one_split_says_nothing_of_the_kind(
    by_seed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finalize_sweep(by_seed) == 0
    said = capsys.readouterr().err
    assert "split" not in said.partition("best on val")[2]
    assert "the test set was used for the best configuration only, after the ranking" in said
    for text in [said, *(file.read_text() for file in by_seed.glob("**/*.html"))]:
        assert SEEN not in text and "different splits" not in text


def test_the_benchmark_counts_different_test_parts(by_split: Path, by_seed: Path) -> None:
    assert count_test_sets([by_seed / "0", by_seed / "1"]) == "one test set"
    assert count_test_sets([by_split / name for name in "0123"]) == "2 different test sets"


def leave_split(folder: Path, one: Trial, test: set[int], val: set[int]) -> None:
    record(folder, one)
    part = ["test" if i in test else "val" if i in val else "train" for i in range(12)]
    rows = "".join(f"{i}.png,,{i:x},{part[i]}\n" for i in range(12))
    (folder / one.name / "split.csv").write_text("path,group,sha256,subset\n" + rows)


@pytest.mark.parametrize(
    ("val", "configurations", "told"),
    [
        (
            [{3}, {0}],
            2,
            f"{SEEN}: of the best configuration's 6 distinct test images, 2 are in val of another",
        ),
        (
            [{9}, {8}],
            2,
            "of the best configuration's 6 distinct test images, none is in val of another",
        ),
        ([{3}, {0}], 1, "of their 6 distinct test images, 2 are in val and 4 in train of another"),
    ],
)
def test_exposure_is_counted(
    val: list[set[int]], configurations: int, told: str, tmp_path: Path
) -> None:
    """Runs 0 and 1 of the best configuration test 0, 1, 2 and 3, 4, 5."""
    runs = [trial(str(number), f"split.seed={number}", number, 0.9, n=12) for number in range(2)]
    for number, one in enumerate(runs):
        leave_split(tmp_path, one, {3 * number, 3 * number + 1, 3 * number + 2}, val[number])
    seen = find_exposure(tmp_path, runs, runs, configurations)
    others = sum(3 - len(v & t) for v, t in zip(val, ({3, 4, 5}, {0, 1, 2}), strict=True))
    hidden = 6 - others
    assert seen == Exposure(6, hidden, others, configurations)
    assert told in exposure_text(seen)


def test_runs_with_the_same_split_have_no_exposure(tmp_path: Path) -> None:
    runs = [trial(str(number), f"seed={number}", number, 0.9, n=12) for number in range(2)]
    for one in runs:
        leave_split(tmp_path, one, {0, 1}, {2, 3})
    seen = find_exposure(tmp_path, runs, runs, 2)
    assert seen == Exposure(2, 0, 0, 2)
    assert exposure_text(seen) == exposure_text(None) == ""


def test_both_seeds_can_move_together(tmp_path: Path) -> None:
    for number in range(2):
        words = (
            f"model.dropout=0 split.seed={number} seed=$\\{{split.seed\\}}"  # as Hydra writes it
        )
        record(tmp_path, trial(str(number), words, number, 0.9))
    (row,) = rank(tmp_path, group_trials(read_trials(tmp_path)))
    assert len(row.configuration.done) == 2
    assert reproduce_command(row).endswith(" split.seed=0,1 'seed=${split.seed}'")


def test_the_benchmark_says_which_seed_varied() -> None:
    runs = [Seeds(0, 0, 0), Seeds(1, 0, 0)]
    assert varied(runs) == "seed varied: 0, 1; split_seed 0; fold 0"
    assert spreads(runs) == []
    runs = [Seeds(3, 0, 0), Seeds(3, 1, 0)]
    assert varied(runs) == "seed 3; split_seed varied: 0, 1; fold 0"
    assert spreads(runs) == []
    runs = [Seeds(seed, split, 0) for split in (0, 1) for seed in (0, 1)]
    (_, between), (_, within) = spreads(runs)
    assert between([1.0, 3.0, 5.0, 7.0]) == pytest.approx(8**0.5)  # means 2 and 6
    assert within([1.0, 3.0, 5.0, 7.0]) == pytest.approx(2**0.5)


def test_the_audit_which_draws_nothing_but_the_split_names_the_splits_seed() -> None:
    said = unknown_key("seed", ["seed=1"], "audit", CONF)
    assert said.endswith("unknown key 'seed'; did you mean 'split.seed'?")
