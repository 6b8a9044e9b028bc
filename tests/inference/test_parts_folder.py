"""Folders of predictions: the same rows however often a run was killed, and whoever makes them."""

from __future__ import annotations

import functools
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bcd.data.items import Wanted
from bcd.errors import BcdError, ConfigError
from bcd.inference.batch import folder as parts
from bcd.inference.batch.shards import Shard
from bcd.inference.predict import predict
from bcd.inference.predictor import load_any
from bcd.storage import file_sha256
from tests.helpers.forking import CAN_FORK
from tests.helpers.harness import error_lines, predict_config, script
from tests.helpers.killing import MOMENTS, kill_at
from tests.helpers.memory import peak_growth
from tests.helpers.parts import (
    COUNT,
    PART_ROWS,
    contents,
    manifest,
    rows_of,
    run,
    settings,
    stop_after,
    written,
)


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
    card = load_any(place / "run", False, "cpu", None).facts.card_sha256
    assert found["card_sha256"] == card != ""
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
    with pytest.raises(BcdError, match=r"part-000002.csv cannot be read .*; restore it, or"):
        run(place, out, input=images)
    file.write_bytes(content)
    folder = parts.PartsFolder(begun / "x", Shard(), "csv", 1, {}, {})
    with folder, pytest.raises(BcdError, match=r"another process is writing manifest\.json"):
        run(place, begun / "x")
    # A batch size is no matter of rows, nor is a slash at the end of a folder.
    run(place, out, input=f"{images}/", batch_size=4)
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
        pixels = Wanted(facts.input_views, False).read(image)
        monkeypatch.setattr(Wanted, "read", lambda *_: pixels)
        changed = {"input": tmp_path / "list.txt", "batch_size": 50, "part_rows": 50}
        made, most = peak_growth(
            lambda: predict(
                predict_config(tmp_path, *settings(place, output=tmp_path / f"{count}", **changed))
            )
        )
        assert sum(made.predicted.values()) == count
        return most

    facts = load_any(place / "run", False, "cpu", None).facts
    peak(50)  # imports
    assert peak(1000) <= 1.1 * peak(100)


@pytest.mark.parametrize("readers", [0, 1])
def test_a_list_that_is_damaged_further_on_keeps_the_parts_before(
    readers: int, place: Path, tmp_path: Path
) -> None:
    lines = [f"{image}\n" for image in sorted((place / "in").iterdir())]
    (tmp_path / "list.txt").write_text("".join([*lines, "x" * 70_000]))
    with pytest.raises(BcdError, match="a line is too long"):
        run(place, tmp_path / "out", input=tmp_path / "list.txt", num_workers=readers)
    assert len(written(tmp_path / "out")) == COUNT // PART_ROWS * PART_ROWS
    # One file gets all rows, though their number is no multiple of a batch.
    with pytest.raises(BcdError, match="a line is too long"):
        run(place, tmp_path / "out.csv", input=tmp_path / "list.txt", num_workers=readers,
            batch_size=4)  # fmt: skip
    assert len(rows_of(*tmp_path.glob("out.csv.*.part"))) == COUNT
