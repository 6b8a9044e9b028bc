"""Folders of predictions: the same rows however often a run was killed, and whoever makes them."""

from __future__ import annotations

import csv
import functools
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from bcd.data.items import Item, Wanted
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.predictions import Prediction
from bcd.inference.batch import folder as parts
from bcd.inference.batch.manifest import Manifest, file_sha256
from bcd.inference.batch.shards import Shard, find_shard
from bcd.inference.predict import predict
from bcd.inference.predictor import Predictor
from bcd.training.run import train
from tests.helpers.forking import CAN_FORK
from tests.helpers.harness import SMALL, error_lines, predict_config, script, train_config
from tests.helpers.memory import peak_growth
from tests.helpers.noise import noise, write_image

COUNT, PART_ROWS = 23, 5


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, images, and the rows of one run into one file."""
    place = tmp_path_factory.mktemp("place")
    train(train_config(place / "run", *SMALL, f"data.root={place / 'train'}"))
    for i in range(COUNT - 2):
        write_image(place / "in" / f"{i}.png", noise(i, i, size=48))
    (place / "in" / "0 empty.png").touch()
    (place / "in" / "7 text.png").write_text("no image")
    predict(predict_config(place, *settings(place)))
    return place


def settings(place: Path, **changed: object) -> list[str]:
    given: dict[str, object] = {"ckpt": place / "run", "input": place / "in", "device": "cpu"}
    given |= {"num_workers": 0, "batch_size": 2, "part_rows": PART_ROWS} | changed
    return [f"{key}={value}" for key, value in given.items()]


def run(place: Path, output: Path, **changed: object) -> list[Prediction]:
    made: list[Prediction] = []
    cfg = predict_config(output.parent, *settings(place, output=output, **changed))
    predict(cfg, made.append)
    return made


def rows_of(*files: Path) -> list[dict[str, str]]:
    found = []
    for file in files:
        with file.open(newline="", encoding="utf-8") as stream:
            found += list(csv.DictReader(stream))
    return found


def written(folder: Path) -> list[dict[str, str]]:
    return rows_of(*sorted(folder.glob("part-*.csv")))


def manifest(folder: Path, name: str = "manifest.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text(encoding="ascii"))
    return found


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    visible = [file for file in folder.iterdir() if not file.name.startswith(".")]
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in visible}


def test_parts_have_the_rows_of_one_file(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(place, tmp_path / "out")
    summary = capsys.readouterr().err
    expected = rows_of(place / "predictions.csv")
    assert written(tmp_path / "out") == expected
    assert [p.path for p in made] == [row["path"] for row in expected]
    found = manifest(tmp_path / "out")
    assert [part["rows"] for part in found["parts"]] == [5, 5, 5, 5, 3]
    for part in found["parts"]:
        assert part["sha256"] == file_sha256(tmp_path / "out" / part["file"])
    checkpoint = place / "run" / "checkpoints" / "best.ckpt"
    assert found["model"] == {"file": "best.ckpt", "sha256": file_sha256(checkpoint)}
    assert found["finished"] and found["tally"]["could_not_be_read"] == 2
    before = contents(tmp_path / "out")
    assert run(place, tmp_path / "out") == []
    assert contents(tmp_path / "out") == before
    again = capsys.readouterr().err
    assert f"finished before: {COUNT} rows in 5 parts, nothing to do" in again
    assert summary[summary.index("Predicted\n") :] == again[again.index("Predicted\n") :]


def test_parquet_has_types_and_the_same_values(place: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run(place, tmp_path / "out", format="parquet")
    files = sorted((tmp_path / "out").glob("part-*.parquet"))
    table = [row for file in files for row in parquet.read_table(file).to_pylist()]
    expected = rows_of(place / "predictions.csv")
    assert len(table) == len(expected)
    for row, cells in zip(table, expected, strict=True):
        assert list(row) == list(cells)
        assert row["refer"] is (cells["refer"] == "true")
        assert (row["probability"] is None) is (cells["error"] != "")
        if row["probability"] is not None:
            assert f"{row['probability']:.6f}" == cells["probability"]
        assert row["error"] == cells["error"] and row["path"] == cells["path"]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(moment: str) -> None:
    """Makes predict be killed while it writes its third part, in this process."""
    real, calls = parts.replacing, 0
    read = Wanted.read

    class Dying:
        def __init__(self, stream: IO[bytes], after: bool) -> None:
            self.stream, self.after = stream, after

        def write(self, data: bytes) -> None:
            self.stream.write(data if self.after else data[: len(data) // 2])
            self.stream.flush()
            _die()

    def replacing(file: Path, durable: bool = False) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2 and moment == "after a part":
            _die_after_next_manifest()
        if calls == 2 and moment in ("in a part", "before a part is named"):
            return _Wrapped(real(file, durable), moment != "in a part")
        return real(file, durable)

    class _Wrapped:
        def __init__(self, inner: Any, after: bool) -> None:
            self.inner, self.after = inner, after

        def __enter__(self) -> Dying:
            return Dying(self.inner.__enter__(), self.after)

        def __exit__(self, *_: object) -> None:
            raise AssertionError("not killed")

    write = Manifest.write
    writes = 0

    def write_manifest(self: Manifest, file: Path) -> None:
        nonlocal writes
        writes += 1
        if writes == 3 and moment == "before the manifest":
            _die()
        write(self, file)

    def _die_after_next_manifest() -> None:
        def last(self: Manifest, file: Path) -> None:
            write(self, file)
            _die()

        Manifest.write = last  # type: ignore[method-assign]

    reads = 0

    def counted(wanted: Wanted, item: Item) -> Any:
        nonlocal reads
        reads += 1
        if reads == 8 and moment == "while images are read":
            _die()
        return read(wanted, item)

    parts.replacing = replacing
    Manifest.write = write_manifest  # type: ignore[method-assign]
    Wanted.read = counted  # type: ignore[method-assign]


MOMENTS = ("in a part", "before the manifest", "while images are read", "before a part is named",
           "after a part")  # fmt: skip


@pytest.mark.skipif(not CAN_FORK, reason="kills are those of Linux")
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_rows(
    place: Path, tmp_path: Path
) -> None:
    run(place, tmp_path / "whole", part_rows=3)
    words = settings(place, output=tmp_path / "out", part_rows=3)
    done = [0]
    for moment in MOMENTS:
        killed = script("predict.py", *words, prepare=functools.partial(kill_at, moment),
                        cwd=tmp_path)  # fmt: skip
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        done.append(len(manifest(tmp_path / "out")["parts"]))
    assert done == [0, 1, 2, 4, 5, 7]
    last = script("predict.py", *words, cwd=tmp_path)
    assert (last.returncode, error_lines(last)) == (3, [])
    assert "continued: 21 rows in 7 parts are there already" in last.stderr
    one, other = (contents(tmp_path / name) for name in ("whole", "out"))
    assert one.keys() == other.keys()
    assert all(one[name][0] == other[name][0] for name in one if name != "manifest.json")
    found, expected = manifest(tmp_path / "out"), manifest(tmp_path / "whole")
    assert [(run["rows"]) for run in found["runs"]] == [3, 6, 12, 15, 21, COUNT]
    assert found | {"runs": 0} == expected | {"runs": 0}
    assert not list((tmp_path / "out").glob(".*.part"))


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Interrupts predict when it reads an image after so many."""
    real, reads = Wanted.read, iter(range(count))

    def read(wanted: Wanted, item: Item) -> Any:
        if next(reads, None) is None:
            raise KeyboardInterrupt
        return real(wanted, item)

    monkeypatch.setattr(Wanted, "read", read)


@pytest.fixture
def begun(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the first two parts."""
    shutil.copytree(place / "in", tmp_path / "in")
    with monkeypatch.context() as patched:
        stop_after(patched, 12)
        with pytest.raises(KeyboardInterrupt):
            run(place, tmp_path / "out", input=tmp_path / "in")
    assert len(manifest(tmp_path / "out")["parts"]) == 2
    return tmp_path


def test_what_is_continued_has_the_model_settings_and_images_it_began_with(
    place: Path, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, images = begun / "out", begun / "in"
    before = contents(out).keys()

    def refused(told: str, **changed: object) -> None:
        with pytest.raises(BcdError, match=told) as caught:
            run(place, out, **{"input": images, **changed})
        assert str(caught.value).startswith(f"output={out}: ") and "\n" not in str(caught.value)
        assert contents(out).keys() == before

    refused("input was", input=place / "in")
    refused("part_rows was 5 and is now 6", part_rows=6)
    refused("limit was null and is now 9", limit=9)
    refused("format was", format="parquet")
    other = shutil.copy(place / "run" / "checkpoints" / "last.ckpt", begun / "best.ckpt")
    refused("the model's sha256 was", ckpt=other)
    refused("has manifest.json, so it cannot take shard 1/2", shard="1/2")
    (images / "0 new.png").touch()
    refused("part-000001.csv has rows of other images")
    (images / "0 new.png").unlink()
    file = out / "part-000002.csv"
    content = file.read_bytes()
    file.write_bytes(content.replace(b"true", b"false", 1))
    refused("part-000002.csv has changed")
    file.unlink()
    with pytest.raises(BcdError, match=r"part-000002.csv cannot be read \(No such file"):
        run(place, out, input=images)
    file.write_bytes(content)
    folder = parts.PartsFolder(begun / "x", Shard(), "csv", 1, {}, {})
    with folder, pytest.raises(BcdError, match=r"another process is writing manifest\.json"):
        run(place, begun / "x")
    # A batch size is no matter of rows.
    run(place, out, input=images, batch_size=4)
    assert [Path(row["path"]).name for row in written(out)] == [
        Path(row["path"]).name for row in rows_of(place / "predictions.csv")
    ]
    before = contents(out).keys()
    last = sorted(images.iterdir())[-1]
    last.rename(images / "a.png")
    refused("part-000005.csv has rows of other images")
    (images / "a.png").rename(last)
    (images / "z.png").touch()
    refused("it is finished, and there are more images now")
    (out / "manifest.json").unlink()
    with pytest.raises(BcdError, match=r"has parts but no manifest\.json"):
        run(place, out, input=images)


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Limits the size of files, as a full disk does."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_keeps_complete_parts_and_is_continued(
    place: Path, begun: Path, small_files: Callable[[int], None]
) -> None:
    whole, out = begun / "whole", begun / "out"
    kept = manifest(out)["parts"]
    small_files(1500)
    for output in (out, whole):
        with pytest.raises(BcdError, match=f"output={output}: cannot be written"):
            run(place, output, input=begun / "in")
    assert manifest(out)["parts"] == kept
    assert not [file for file in out.iterdir() if file.name.endswith(".part")]
    small_files(1 << 30)
    run(place, out, input=begun / "in")
    assert len(written(out)) == COUNT


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_told_at_the_start(
    output: str, place: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BcdError, match=f"output=.*{output}: cannot be written"):
        run(place, tmp_path / output, ckpt=place / "run")


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
        ("auto", TORCHRUN | SLURM, "both RANK and SLURM"),
        ("auto", {"RANK": "3", "WORLD_SIZE": "3"}, "say 4 of 3"),
        ("auto", {"RANK": "0"}, "WORLD_SIZE= in the environment"),
        ("0/3", {}, "with i from 1 to n"),
        ("4/3", {}, "with i from 1 to n"),
        ("all", {}, "with i from 1 to n"),
    ],
)
def test_a_shard_is_what_the_setting_or_the_environment_says(
    setting: str | None, environment: dict[str, str], expected: tuple[int, int] | str
) -> None:
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=expected):
            find_shard(setting, environment)
        return
    shard = find_shard(setting, environment)
    assert (shard.index, shard.count) == expected


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"format": "json"}, "format=json: output=.* is a folder"),
        ({"explain": "true"}, "explain=True: needs output=<file>"),
        ({"output": "x.csv", "format": "parquet"}, "format=parquet: needs output=<folder>"),
        ({"output": "null", "format": "parquet"}, "format=parquet: needs output=<folder>"),
        ({"part_rows": 0}, "part_rows=0"),
    ],
)
def test_a_setting_that_a_folder_cannot_have_is_told(
    changed: dict[str, object], told: str, place: Path, tmp_path: Path
) -> None:
    words = settings(place, **{"output": tmp_path / "out", **changed})
    with pytest.raises(ConfigError, match=told):
        predict(predict_config(tmp_path, *words))
    assert not (tmp_path / "out").exists()


def test_memory_does_not_grow_with_the_number_of_images(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = place / "in" / "0.png"

    def peak(count: int) -> float:
        (tmp_path / "list.txt").write_text(f"{image}\n" * count)
        pixels = Wanted(predictor.card.input_views, False).read(image)
        monkeypatch.setattr(Wanted, "read", lambda *_: pixels)
        changed = {"input": tmp_path / "list.txt", "batch_size": 50, "part_rows": 50}
        made, most = peak_growth(
            lambda: predict(
                predict_config(tmp_path, *settings(place, output=tmp_path / f"{count}", **changed))
            )
        )
        assert sum(made.predicted.values()) == count
        return most

    predictor = Predictor(place / "run", device="cpu")
    peak(50)  # imports
    assert peak(2000) <= 1.1 * peak(200)
