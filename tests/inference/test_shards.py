"""Shards: several processes share the images, and nothing but a setting makes them do so."""

from __future__ import annotations

from pathlib import Path

import pytest

from bcd.errors import BcdError, ConfigError
from bcd.inference.batch.shards import Shard, find_shard, take_own_gpu, tell_shard
from tests.helpers.parts import manifest, rows_of, run, written


def test_shards_have_the_rows_of_one_process(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "out", rows_of(place / "predictions.csv")
    for index in (2, 0, 3):
        run(place, out, shard=f"{index + 1}/4")
    for name in ("ARRAY_TASK_ID", "ARRAY_TASK_MIN", "ARRAY_TASK_MAX", "ARRAY_TASK_COUNT"):
        monkeypatch.setenv(f"SLURM_{name}", {"ID": "8", "MIN": "7", "MAX": "10", "COUNT": "4"}[
            name.rpartition("_")[2]])  # fmt: skip
    run(place, out, shard="auto")
    for index in range(4):
        assert rows_of(*sorted(out.glob(f"part-000{index + 1}-of-0004-*.csv"))) == whole[index::4]
    with pytest.raises(BcdError, match=r"has manifest-0001-of-0004\.json, so it cannot take"):
        run(place, out)
    with pytest.raises(BcdError, match=r"limit was null and is now 3 \(manifest-0001"):
        run(place, out, shard="2/4", limit=3)
    with pytest.raises(ConfigError, match=r"shard=auto: needs output=<folder>"):
        run(place, tmp_path / "a.csv", shard="auto")
    run(place, tmp_path / "few", shard="7/7", limit=6)
    assert written(tmp_path / "few") == []
    assert manifest(tmp_path / "few", "manifest-0007-of-0007.json")["finished"]


SLURM = {"SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_MAX": "8", "SLURM_ARRAY_TASK_COUNT": "3",
         "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_ID": "8"}  # fmt: skip
SRUN = {"SLURM_PROCID": "2", "SLURM_NTASKS": "4"}
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "3"}


@pytest.mark.parametrize(
    ("setting", "environment", "expected"),
    [
        (None, TORCHRUN | SLURM, (0, 1)),
        ("1/1", TORCHRUN, (0, 1)),
        ("3/3", {}, (2, 3)),
        ("auto", {}, (0, 1)),
        ("auto", TORCHRUN, (1, 3)),
        ("auto", SLURM, (2, 3)),
        ("auto", SLURM | {"SLURM_ARRAY_TASK_STEP": "1"}, "has gaps"),
        ("auto", SLURM | {"SLURM_ARRAY_TASK_ID": "5"}, "has gaps"),
        ("auto", TORCHRUN | SLURM, "RANK and WORLD_SIZE and SLURM"),
        ("auto", {"RANK": "3", "WORLD_SIZE": "3"}, "say 4 of 3"),
        ("auto", {"RANK": "0"}, "WORLD_SIZE is not set"),
        ("auto", {"WORLD_SIZE": "4"}, "RANK is not set"),
        ("auto", {"RANK": "", "WORLD_SIZE": "4"}, "RANK= in the environment"),
        ("auto", SRUN, (2, 4)),
        ("auto", SRUN | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, (0, 1)),
        ("auto", {"SLURM_NTASKS": "4"}, "SLURM_PROCID is not set"),
        ("auto", SRUN | TORCHRUN, (1, 3)),
        ("auto", SRUN | SLURM, "SLURM_NTASKS and SLURM_ARRAY_TASK_ID are set"),
        (1, {}, "shard=1: give <i>/<n>"),
        ("0/3", {}, "with i from 1 to n"),
        ("4/3", {}, "with i from 1 to n"),
        ("all", {}, "with i from 1 to n"),
    ],
)
def test_a_shard_is_what_the_setting_or_the_environment_says(
    setting: str | int | None, environment: dict[str, str], expected: tuple[int, int] | str
) -> None:
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=expected):
            find_shard(setting, environment)
        return
    shard = find_shard(setting, environment)
    assert (shard.index, shard.count) == expected


@pytest.mark.parametrize(
    ("setting", "environment", "told"),
    [
        (None, TORCHRUN, ""),
        ("2/3", {}, "shard 2/3\n"),
        ("auto", {}, "shard=auto: nothing in the environment says which: all images\n"),
        ("auto", SRUN, "shard 3/4 (by SLURM_PROCID and SLURM_NTASKS)\n"),
        ("auto", {"RANK": "0", "WORLD_SIZE": "1"}, "shard 1/1 (by RANK and WORLD_SIZE)\n"),
    ],
)
def test_the_share_is_told(
    setting: str | None, environment: dict[str, str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tell_shard(setting, find_shard(setting, environment))
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (TORCHRUN | {"LOCAL_RANK": "1"}, "1"),
        (TORCHRUN | {"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "4,6"}, "6"),
        (TORCHRUN | {"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "5"}, "5"),
        (TORCHRUN, None),
        (SLURM | {"LOCAL_RANK": "1"}, None),
    ],
)
def test_each_process_of_torchrun_has_a_gpu_of_its_own(
    environment: dict[str, str], expected: str | None
) -> None:
    given = dict(environment)
    take_own_gpu(find_shard("auto", given), given)
    assert given.get("CUDA_VISIBLE_DEVICES") == expected
    take_own_gpu(Shard(1, 3), given := dict(environment))
    assert given == environment
