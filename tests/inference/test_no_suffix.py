"""Files without a suffix as input of predict: DICOM files from a PACS or a CD are listed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bcd.config.input_views import InputView
from bcd.data.items import Wanted
from bcd.errors import BcdError
from bcd.inference.batch.inputs import open_inputs
from tests.helpers.archives import make_tar
from tests.helpers.dicom import make_dicom
from tests.helpers.noise import noise

PICTURES = np.stack([noise(i, i, size=40) for i in range(3)])


@pytest.mark.parametrize("form", ["folder", "glob", "list", "archive"])
def test_files_without_a_suffix_are_listed_if_they_begin_as_dicom(
    form: str, tmp_path: Path
) -> None:
    several = make_dicom(PICTURES, "rle").data
    members = {
        "DICOM/IM000000": several,
        "DICOM/1.2.840.5": make_dicom(PICTURES[0]).data,
        "DICOM/README": b"text" * 100,
        "DICOM/short": b"DICM",
        "DICOM/.trash": bytes(200),
        "DICOM/a.txt": several,
        "DICOMDIR": several,
    }
    for name, data in members.items():
        (tmp_path / "cd" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cd" / name).write_bytes(data)
    given = {"folder": tmp_path / "cd", "glob": tmp_path / "cd" / "*M" / "I*"}.get(form)
    if form == "list":
        given = tmp_path / "list.txt"
        given.write_text("cd/DICOM\n")
    elif form == "archive":
        given = make_tar(tmp_path / "cd.tar.gz", members)
    found = list(open_inputs([str(given)], "path").items)
    assert not any(item.reason for item in found)
    names = {item.name.rpartition("/")[2]: item for item in found}
    expected = {"IM000000#1", "IM000000#2", "IM000000#3"}
    assert {*names} == (expected if form == "glob" else {*expected, "1.2.840.5"})
    assert len(found) == len(names)
    wanted = Wanted((InputView("plain", 40),), False)
    np.testing.assert_array_equal(wanted.read(names["IM000000#2"]), wanted.pack(PICTURES[1]))


def test_a_cd_with_its_table_of_contents_alone_has_no_image(tmp_path: Path) -> None:
    (tmp_path / "DICOMDIR").write_bytes(make_dicom(PICTURES[0]).data)
    with pytest.raises(BcdError, match="no image there"):
        open_inputs([str(tmp_path)], "path")
