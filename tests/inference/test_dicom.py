"""DICOM files as input of predict: a row for each picture, and nothing of the attributes."""

from __future__ import annotations

import csv
import json
import struct
import tarfile
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from bcd.data.dicom.claims import MOST_FRAMES, count_frames
from bcd.data.dicom.reading import read_header
from bcd.data.items import Answer, Item
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.errors import BcdError, ConfigError
from bcd.inference.batch.inputs import open_inputs
from bcd.inference.batch.shards import Shard
from bcd.inference.predict import predict
from tests.helpers.dicom import identified, make_dicom
from tests.helpers.harness import predict_config
from tests.serving.making import StubModel

SMEARS = np.stack([draw_smear(name, slide=2, index=3, size=96) for name in CLASS_NAMES[:3]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same smears as PNG files, in DICOM files of one picture, and in one of three."""
    folder = tmp_path_factory.mktemp("dicom") / "in"
    folder.mkdir()
    syntaxes = ("implicit", "deflated", "jpeg 2000")
    for number, (smear, syntax) in enumerate(zip(SMEARS, syntaxes, strict=True)):
        Image.fromarray(smear).save(folder / f"a{number}.png")
        (folder / f"b{number}.dcm").write_bytes(make_dicom(smear, syntax).data)
    data, _ = identified(make_dicom(SMEARS, "jpeg-ls").data)
    (folder / "c.DICOM").write_bytes(data)
    return folder


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcd.inference.predict.load_model", lambda **_: StubModel())
    facts = {"file": "stub", "sha256": "5" * 64}
    monkeypatch.setattr("bcd.inference.predict.model_facts", lambda _: facts)


def run(place: Path, source: Path, *settings: str) -> list[dict[str, str]]:
    output = place / "rows.csv"
    given = ["ckpt=x", f"input={source}", f"output={output}", "num_workers=1", *settings]
    predict(predict_config(place / "run", *given))
    with output.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def answer(row: dict[str, str]) -> list[str]:
    return [row[name] for name in row if name != "path" and not name.startswith("dicom_")]


@pytest.mark.usefixtures("stub")
def test_each_picture_has_the_row_of_its_png(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, file.name)
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(str(file) for file in sorted(folder.iterdir())))
    names = [*(f"a{i}.png" for i in range(3)), *(f"b{i}.dcm" for i in range(3))]
    names += [f"c.DICOM#{i}" for i in (1, 2, 3)]
    for source, workers in ((folder, 0), (archive, 1), (listed, 0)):
        found = run(tmp_path, source, "batch_size=4", f"num_workers={workers}")
        base = folder if source == listed else source
        assert [row["path"] for row in found] == [f"{base}/{name}" for name in names]
        answers = [answer(row) for row in found]
        assert answers[:3] == answers[3:6] == answers[6:]
        assert not any(row["error"] for row in found)
        assert len({tuple(one) for one in answers}) == 3
    quoted = f"input='{folder / 'c.DICOM#2'}'"  # Hydra takes # in quotes only
    named = run(tmp_path, folder, quoted, "num_workers=0")
    assert [answer(row) for row in named] == [answers[1]]
    listed.write_text("c.DICOM#3\nc.DICOM#1\nc.DICOM#4\n")
    listed.rename(folder.parent / "list.txt")
    (folder.parent / "c.DICOM").symlink_to(folder / "c.DICOM")
    *some, last = run(tmp_path, folder.parent / "list.txt", "num_workers=0")
    assert [answer(row) for row in some] == [answers[2], answers[0]]
    assert (last["path"], last["error"]) == ("c.DICOM#4", "has no picture 4 (holds 3)")
    limited = run(tmp_path, folder / "c.DICOM", "limit=2", "num_workers=0")
    assert [row["path"] for row in limited] == [f"{folder}/c.DICOM#{i}" for i in (1, 2)]


@pytest.mark.usefixtures("stub")
@pytest.mark.parametrize("workers", ["0", "1"])
def test_attributes_are_in_rows_only_if_asked_for(
    workers: str, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, values = identified(make_dicom(SMEARS, "rle").data)
    (tmp_path / "in.dcm").write_bytes(data)
    (tmp_path / "torn.dcm").write_bytes(data[: len(data) // 4])
    sources = f"input=[{tmp_path / 'in.dcm'},{tmp_path / 'torn.dcm'},{folder / 'a0.png'}]"
    found = run(tmp_path, folder, sources, f"num_workers={workers}")
    assert [row["error"] == "" for row in found] == [True] * 3 + [False] * 3 + [True]
    assert not [name for name in found[0] if name.startswith("dicom_")]
    keep = ("dicom.keep=[PatientID,StudyDate,PatientSex]", f"num_workers={workers}")
    kept = run(tmp_path / "kept", folder, sources, *keep)
    assert [answer(row) for row in kept] == [answer(row) for row in found]
    columns = ("dicom_PatientID", "dicom_StudyDate", "dicom_PatientSex")
    expected = [value for value in values if value in kept[0].values()]
    assert len(expected) == 2
    for row in kept[:3]:
        assert [row[name] for name in columns] == [*expected, ""]
    assert [row[name] for row in kept[6:] for name in columns] == ["", "", ""]
    told = capfd.readouterr()
    written = [file for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".dcm"]
    texts = [told.out, told.err, *(file.read_bytes().decode("latin-1") for file in written)]
    leaked = {value for value in values for text in texts if value in text}
    assert leaked == set(expected)  # in the rows where they were asked for, as the last line shows
    texts = [told.out, told.err, (tmp_path / "rows.csv").read_text(encoding="utf-8")]
    assert not [value for value in values for text in texts if value in text]


@pytest.mark.usefixtures("stub")
def test_a_folder_of_parts_is_continued_and_keeps_the_same_attributes(
    folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "parts"
    given = ["ckpt=x", f"input={folder}", f"output={output}/", "num_workers=0", "part_rows=2"]

    def go(*settings: str) -> int:
        cfg = predict_config(tmp_path / "run", *given, *settings)
        return predict(cfg).predicted.total()

    with pytest.raises(KeyboardInterrupt):
        predict(predict_config(tmp_path, *given, "dicom.keep=[StudyID]"), interrupt_after(7))
    made = json.loads((output / "manifest.json").read_text())
    assert 0 < sum(part["rows"] for part in made["parts"]) < 9
    assert made["settings"]["dicom.keep"] == ["StudyID"]
    with pytest.raises(BcdError, match=r"dicom\.keep was \[\"StudyID\"\] and is now \[\]"):
        go()
    assert go("dicom.keep=[StudyID]") == 9
    rows = [
        row
        for file in sorted(output.glob("part-*.csv"))
        for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines())
    ]
    _, values = identified(make_dicom(SMEARS[0]).data)
    assert [row["dicom_StudyID"] in values for row in rows] == [False] * 6 + [True] * 3


def interrupt_after(count: int) -> Any:
    left = iter(range(count - 1))

    def each(_: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return each


@pytest.mark.usefixtures("stub")
def test_json_and_parquet_have_the_attributes(folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    given = ["ckpt=x", f"input={folder}", "num_workers=0", "dicom.keep=[AccessionNumber]"]
    for output in ("rows.json", "parts/"):
        form = "parquet" if output == "parts/" else "json"
        settings = [f"output={tmp_path / output}" + "/" * (form == "parquet"), f"format={form}"]
        predict(predict_config(tmp_path / "run", *given, *settings))
    records = json.loads((tmp_path / "rows.json").read_text())
    (part,) = (tmp_path / "parts").glob("*.parquet")
    column = parquet.read_table(part).column("dicom_AccessionNumber").to_pylist()
    assert column == [record["dicom_AccessionNumber"] for record in records]
    assert len(set(column)) == 2 and column[:6] == [""] * 6


@pytest.mark.usefixtures("stub")
@pytest.mark.parametrize(
    ("keyword", "expected"),
    [
        ("PatientId", "no such attribute of DICOM; did you mean 'PatientID'?"),
        ("PixelData", "its value is no text"),
        ("RequestAttributesSequence", "its value is no text"),
        ("TransferSyntaxUID", "its value is no text"),
    ],
)
def test_attributes_that_cannot_be_kept_are_refused_at_start(
    keyword: str, expected: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, folder, f"dicom.keep=[{keyword}]")
    assert f"dicom.keep={keyword}: {expected}" in str(caught.value)
    assert not (tmp_path / "rows.csv").exists()


def test_workers_of_ray_read_frames_and_attributes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bcd.inference.batch import ray_engine

    monkeypatch.setattr(ray_engine, "load_model", lambda **_: StubModel())
    job = ray_engine.Job(
        model={}, site={"profile": None, "scale": True, "colour": "none"}, inputs=[str(folder)],
        column="path", limit=None, shard=Shard(), done=0, batch_size=5, part=None,
        folder=str(Path.cwd()), keep=("StudyID",),
    )  # fmt: skip
    worker = ray_engine._Worker(job)
    told = [one for batch in job.batches() for one in worker._predict(batch)]
    submit = worker._readers.submit
    bytes_of: list[Future[Answer]] = []

    def later(item: Item) -> Future[Answer]:
        assert all(answer.done() for answer in bytes_of)
        answer: Future[Answer] = Future()
        submit(item).add_done_callback(
            lambda read: Timer(0.02, answer.set_result, [read.result()]).start()
        )
        if item.data is not None:
            bytes_of.append(answer)
        return answer

    monkeypatch.setattr(worker._readers, "submit", later)
    assert len([worker._predict(batch) for batch in job.batches()]) == 2
    assert len(bytes_of) == 6, "DICOM files, and of their bytes one at a time was held"
    worker._readers.close()
    worker._kept.__exit__(None, None, None)
    assert [Path(p.path).name for p, _ in told][6:] == [f"c.DICOM#{i}" for i in (1, 2, 3)]
    probabilities = [p.probabilities for p, _ in told]
    assert probabilities[:3] == probabilities[3:6] == probabilities[6:]
    assert [bool(p.kept[0][1]) for p, _ in told] == [False] * 6 + [True] * 3


def claims(count: str) -> bytes:
    def change(dataset: Dataset) -> None:
        dataset.NumberOfFrames = count

    return make_dicom(SMEARS[0], "explicit", change=change).data


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "many.dcm").write_bytes(claims(str(MOST_FRAMES + 1)))
    (tmp_path / "more.dcm").write_bytes(claims("1000000000"))
    (tmp_path / "no.dcm").write_bytes(claims("0"))
    (tmp_path / "none.dcm").write_bytes(b"")
    (tmp_path / "png.dcm").write_bytes(b"\x89PNG" + bytes(200))
    yield tmp_path


def test_a_claim_of_many_pictures_is_one_row(odd: Path) -> None:
    items = list(open_inputs([str(odd)], "path").items)
    assert [(Path(item.name).name, item.reason) for item in items] == [
        ("many.dcm", f"holds {MOST_FRAMES + 1} pictures (at most {MOST_FRAMES})"),
        ("more.dcm", ""),  # more than it has bytes: what is wrong is said when it is read
        ("no.dcm", ""),
        ("none.dcm", ""),
        ("png.dcm", ""),
    ]
    assert [item.frame for item in items] == [None] * 5


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big endian", "deflated", "rle"])
def test_pictures_are_counted_by_the_first_bytes(syntax: str) -> None:
    data = identified(make_dicom(SMEARS, syntax).data)[0]
    for first in (len(data), 8000):
        assert count_frames(data[:first], len(data)) == 3
    assert count_frames(data[:200], len(data)) is None
    assert count_frames(make_dicom(SMEARS[0], syntax).data, len(data)) == 1


@pytest.mark.parametrize(("stated", "count"), [("+2", 2), ("2.0", 2), ("2.5", 1), ("inf", 1)])
def test_the_count_is_the_number_that_pydicom_reads(stated: str, count: int) -> None:
    data = make_dicom(SMEARS[:2]).data
    place = data.index(b"\x28\0\x08\0IS") + 6
    data = data[:place] + struct.pack("<H", 4) + stated.ljust(4).encode() + data[place + 4 :]
    assert count_frames(data, len(data)) == count
    if count == 2:
        assert read_header(data).frames == count


def test_a_pipe_with_the_name_of_a_dicom_file_is_a_row(tmp_path: Path) -> None:
    import os

    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes with names here")
    os.mkfifo(tmp_path / "p.dcm")
    (item,) = open_inputs([str(tmp_path / "p.dcm")], "path").items
    assert item == Item.of(tmp_path / "p.dcm")
