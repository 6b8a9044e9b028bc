"""What is made of a second reading is about what was predicted, or is not made.

Nor is it made among the images.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from bcd.data.items import Item
from bcd.data.synthetic.smears import draw_smear
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.predictions import Prediction
from bcd.inference.batch.inputs import open_inputs
from bcd.inference.batch.kept import KeptAttributes
from bcd.inference.batch.second_reading import SecondReading
from bcd.inference.batch.shards import Shard
from bcd.inference.dicom_objects import check_writable
from bcd.inference.predict import predict
from tests.helpers.archives import PNG, items, make_tar
from tests.helpers.dicom import make_dicom
from tests.helpers.exported import MODEL, SIDE, asked
from tests.helpers.memory import peak_growth
from tests.helpers.validating import read_again

SMEARS = [draw_smear("Benign", slide=i, index=i, size=SIDE) for i in range(2)]


def of_patient(name: str, number: int) -> bytes:
    return make_dicom(SMEARS[number], change=lambda d: setattr(d, "PatientID", name)).data


def swap(first: Path, second: Path) -> None:
    own = first.read_bytes()
    second.replace(first)
    second.write_bytes(own)


@pytest.mark.parametrize("output", ["rows.csv", "rows/"])
def test_a_file_that_was_replaced_gets_no_object(
    output: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(PNG)
    for number, name in enumerate(("y", "z")):
        (folder / f"{name}.dcm").write_bytes(of_patient(name, number))
    settings = {"model": str(made / MODEL), "output": f"{tmp_path}/{output}"}
    cfg = asked(made, tmp_path / "run", input=str(folder), **settings)
    keep, out = ["PatientID"], tmp_path / "out"
    cfg.dicom = replace(cfg.dicom, output=str(out), objects=["report"], keep=keep)
    rows: list[Prediction] = []

    def each(row: Prediction) -> None:
        rows.append(row)
        if len(rows) == 1:
            swap(folder / "y.dcm", folder / "z.dcm")

    tally = predict(cfg, each)
    assert [row.kept[0][1] for row in rows] == ["", "y", "z"]
    assert tally.without_objects == 2
    assert [file.parent.name[:5] for file in out.glob("*/report.dcm")] == ["a.png"]
    said = capsys.readouterr()
    assert "has changed since it was predicted" in " ".join((said.out + said.err).split())


def test_members_of_archives_have_their_objects(made: Path, tmp_path: Path) -> None:
    names = ("y", "z", "y")  # the first name twice
    for kind in ("tar", "tar.gz"):
        members = {f"{i}{name}.dcm": of_patient(name, i % 2) for i, name in enumerate(names)}
        make_tar(tmp_path / f"a.{kind}", members)
    cfg = asked(made, tmp_path / "run", input=str(tmp_path / "a.tar*"), model=str(made / MODEL))
    out = tmp_path / "out"
    cfg.dicom = replace(cfg.dicom, output=str(out), objects=["report"])
    assert predict(cfg).without_objects == 0
    found = {file.parent.name[1]: read_again(file.read_bytes()) for file in out.rglob("*.dcm")}
    assert len(list(out.iterdir())) == 6
    assert {name: report.PatientID for name, report in found.items()} == {"y": "y", "z": "z"}


def test_a_second_reading_finds_each_member_and_holds_none(tmp_path: Path) -> None:
    """Also one of several with its name, in a shard, and after images that had no answer."""
    size = 1 << 20
    content = {f"{i}.png": PNG + bytes([i]) * size for i in range(30)}
    archive = make_tar(tmp_path / "a.tar", content)
    other = make_tar(tmp_path / "b.tar", {"0.png": PNG, "1.png": PNG + b"1"})
    with archive.open("ab") as stream:  # as `tar --append` leaves it
        stream.truncate(30 * (512 + -(-(len(PNG) + size) // 512) * 512))
        stream.write(make_tar(tmp_path / "c.tar", {"4.png": PNG + b"new"}).read_bytes())
    inputs = [str(archive), str(other)]
    shard = Shard(0, 2)

    def read() -> tuple[SecondReading, int]:
        reading = SecondReading()
        passed = reading.first(shard.of(open_inputs(inputs, "path").items))
        return reading, sum(item.data is not None for item in passed)

    (reading, count), most = peak_growth(read)
    assert count == 17
    assert most < 6 * size / 2**20
    expected = shard.of(iter(items(*inputs)))
    for number, item in enumerate(expected):
        taken = reading.take()
        assert taken[0].name == item.name and taken[0].data is None
        if number != 3:
            assert reading.read(*taken) == item


def test_a_changed_archive_gives_no_member(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar", {"a.png": PNG, "b.png": PNG + b"b"})
    reading = SecondReading()
    assert len(list(reading.first(iter(items(archive))))) == 2
    make_tar(archive, {"a.png": PNG + b"b", "b.png": PNG})
    for _ in range(2):
        with pytest.raises(BcdError, match=r"no longer has it as it was predicted"):
            reading.read(*reading.take())


@pytest.mark.parametrize("gone", [True, False])
def test_a_member_that_is_missing_costs_no_other_one(gone: bool, tmp_path: Path) -> None:
    content = {f"{i}.png": PNG + bytes([i]) for i in range(5)}
    paths = [make_tar(tmp_path / f"{name}.tar", content) for name in "abc"]
    reading = SecondReading()
    passed = list(reading.first(iter(items(*paths))))
    lost = {str(paths[1] / name) for name in content} if gone else {str(paths[1] / "2.png")}
    if gone:
        paths[1].unlink()
    else:  # written anew, also in another order
        new = content | {"2.png": PNG + b"new"}
        make_tar(paths[1], {name: new[name] for name in ("1.png", "0.png", *list(new)[2:])})
    found: list[Item] = []
    for _ in passed:
        with suppress(BcdError):
            found.append(reading.read(*reading.take()))
    assert found == [item for item in passed if item.name not in lost]


@pytest.mark.parametrize("workers", [0, 1])
def test_kept_attributes_are_of_what_is_predicted(workers: int, tmp_path: Path) -> None:
    first, second = tmp_path / "a.dcm", tmp_path / "b.dcm"
    first.write_bytes(of_patient("a", 0))
    second.write_bytes(of_patient("b", 1))
    contents = [first.read_bytes(), second.read_bytes()]
    with KeptAttributes(["PatientID"], workers) as kept:
        one = next(kept.watch(iter(items(first))))
        swap(first, second)
        two = next(kept.watch(iter(items(first))))
        assert [one.data, two.data] == contents
        rows = kept.add_to([Prediction("", "", ())] * 2)
    assert [dict(row.kept)["PatientID"] for row in rows] == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "output", "refused"),
    [
        ("in", "in", True),
        ("in/", "in/objects", True),
        ("link", "in/objects", True),
        ("in/**/*.dcm", "in/a/objects", True),
        ("in/*/*.dcm", "in", True),
        ("in/*", "in/objects", True),
        ("in/*.dcm", "in/objects", False),
        ("in/*.dcm", "in", False),
        ("in/a.dcm", "in/objects", False),
        ("*/*.dcm", "out/objects", False),
        ("in", "in-objects", False),
    ],
)
def test_objects_are_not_written_among_the_images(
    given: str, output: str, refused: bool, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.dcm").write_bytes(b"")
    (tmp_path / "link").symlink_to("in")
    inputs = [str(tmp_path / "in/a.dcm"), f"{tmp_path}/{given}"]
    if not refused:
        check_writable(str(tmp_path / output), inputs)
        assert (tmp_path / output).is_dir()
        return
    with pytest.raises(ConfigError, match=r"dicom\.output=.*: inside input="):
        check_writable(str(tmp_path / output), inputs)
    assert not (tmp_path / "in/objects").exists()
