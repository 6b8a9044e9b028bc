"""Rows of predict are written as they come, and stay whatever ends the run."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bcd.data.items import Answer, Item, Wanted
from bcd.errors import BcdError
from bcd.evaluation.predictions import Prediction
from bcd.inference.row_writer import RowWriter
from bcd.storage import write_csv
from tests.helpers.harness import predict_config, predicted
from tests.helpers.noise import noise, write_image

posix = pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")


@pytest.fixture(scope="module")
def ckpt(small: Path) -> Path:
    return small / "checkpoints" / "best.ckpt"


def test_rows_so_far_are_kept_where_something_unforeseen_ends_the_run(
    ckpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(6):
        write_image(tmp_path / "in" / f"{i}.png", noise(i))
    settings = ["batch_size=2", "num_workers=0", "device=cpu", f"input={tmp_path / 'in'}"]
    settings.append(f"ckpt={ckpt}")
    whole = predicted(predict_config(tmp_path / "whole", *settings))
    real = Wanted.read

    def fail(wanted: Wanted, item: Item) -> Answer:
        if Path(item.name).name == "4.png":
            raise KeyboardInterrupt
        return real(wanted, item)

    monkeypatch.setattr(Wanted, "read", fail)
    for form in ("csv", "json"):
        folder = tmp_path / form
        capsys.readouterr()
        with pytest.raises(KeyboardInterrupt):
            predicted(predict_config(folder, *settings, f"format={form}"))
        (part,) = folder.iterdir()
        assert f"the first 4 rows: {part}" in capsys.readouterr().err
        assert part.name.startswith(f"predictions.{form}.")
        if form == "json":
            paths = [row["path"] for row in json.loads(part.read_text())]
        else:
            paths = [row["path"] for row in csv.DictReader(part.open(newline=""))]
        assert paths == [p.path for p in whole[:4]]


def test_an_output_that_cannot_be_written_is_told_before_anything_is_read(
    tmp_path: Path,
) -> None:
    write_image(tmp_path / "in" / "a.png", noise(1))
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("")
    for output in ("folder.csv", "file/rows.csv"):
        settings = (f"input={tmp_path / 'in'}", f"output={tmp_path / output}", "ckpt=nothing")
        with pytest.raises(BcdError, match=rf"output=.*{output}: cannot be written \("):
            predicted(predict_config(tmp_path, *settings))
    assert not list((tmp_path / "folder.csv").iterdir())


@pytest.fixture
def hundred_kilobytes() -> Iterator[None]:
    """No file may become larger, as on a full disk."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@posix
@pytest.mark.usefixtures("hundred_kilobytes")
@pytest.mark.parametrize("form", ["csv", "json"])
def test_a_full_disk_keeps_the_rows_that_fit(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / f"rows.{form}"
    batch = [Prediction(f"{i:0900d}.png", "", (0.25, 0.75)) for i in range(7)]
    with pytest.raises(BcdError, match="cannot be written"), RowWriter(file) as rows:
        rows.begin(("a", "b"))
        for _ in range(1000):
            rows.write(batch)
    (part,) = file.parent.iterdir()
    text = part.read_text()
    kept = json.loads(text) if form == "json" else list(csv.DictReader(text.splitlines()))
    assert len(kept) % 7 == 0
    assert 50 < len(kept) < 110
    assert f"the first {len(kept)} rows: {part}" in capsys.readouterr().err


@posix
@pytest.mark.usefixtures("hundred_kilobytes")
def test_a_disk_without_any_room_is_found_out_at_the_start(tmp_path: Path) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
    with pytest.raises(BcdError, match="cannot be written"), RowWriter(tmp_path / "a" / "b.csv"):
        pytest.fail("begun")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["a\rb", "a\nb", "a\r\nb", '"a"', "a,b", ""])
def test_any_name_is_one_cell_of_a_table(name: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    write_csv(file, ["path", "class"], [[name, "x"]])
    with file.open(newline="", encoding="utf-8") as stream:
        assert list(csv.reader(stream, strict=True)) == [["path", "class"], [name, "x"]]
