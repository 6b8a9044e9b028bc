"""bcd predict dicom.output=…: objects about each image, and the same rows as without."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from pydicom.dataset import Dataset

from bcd.commands.predict import main
from bcd.config.compose import CONF, with_defaults
from bcd.config.programs import SiteMatchConfig
from bcd.data.synthetic.smears import draw_smear
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.predictions import Prediction
from bcd.inference.batch.tally import Tally
from bcd.inference.dicom_objects import check_writable
from bcd.inference.predict import predict
from bcd.interop.settings import site_settings
from bcd.storage import file_sha256
from tests.helpers.dicom import identified, make_dicom
from tests.helpers.exported import MODEL, SIDE, asked, measured
from tests.helpers.harness import predicted
from tests.helpers.noise import write_image
from tests.helpers.validating import items, read_again

TRUE_COLOUR = "1.2.840.10008.5.1.4.1.1.7.4"  # several frames


@pytest.fixture(scope="module")
def smears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DICOM file full of names, a PNG, a file that is torn, and a DICOM file of two frames."""
    folder = tmp_path_factory.mktemp("smears")
    drawn = [draw_smear("Benign", slide=i, index=i, size=SIDE + 8 * i) for i in range(2)]
    spaced = make_dicom(drawn[0], change=lambda a: setattr(a, "PixelSpacing", [0.001, 0.002]))
    (folder / "a.dcm").write_bytes(identified(spaced.data)[0])
    write_image(folder / "b.png", drawn[1])
    (folder / "c.png").write_bytes(b"\x89PNG\r\n")
    two = np.stack([drawn[0], drawn[0][::-1]])
    (folder / "d.dcm").write_bytes(make_dicom(two, kind=TRUE_COLOUR).data)
    return folder


def run(
    made: Path,
    smears: Path,
    folder: Path,
    objects: list[str] | None,
    keep: Sequence[str] = (),
    **settings: Any,
) -> tuple[list[Prediction], dict[str, dict[str, Dataset]]]:
    """Predictions, and the objects by the name of the image and their kind."""
    cfg = asked(made, folder / "run", **{"input": str(smears), **settings})
    if objects is not None:
        cfg.dicom = replace(cfg.dicom, output=str(folder / "out"), objects=objects, keep=list(keep))
    found: dict[str, dict[str, Dataset]] = {}
    rows = predicted(cfg)
    for file in sorted((folder / "out").rglob("*.dcm")):
        name = file.parent.name.rpartition("-")[0]
        found.setdefault(name, {})[file.stem] = read_again(file.read_bytes())
    return rows, found


@pytest.fixture(scope="module")
def written(
    made: Path, smears: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Prediction], dict[str, dict[str, Dataset]]]:
    """All objects of a checkpoint's answers."""
    kinds = ["report", "parametric", "segmentation", "capture"]
    return run(made, smears, tmp_path_factory.mktemp("all"), kinds, ckpt=str(made / "run"))


Written = tuple[list[Prediction], dict[str, dict[str, Dataset]]]


def test_each_image_that_is_read_has_its_objects(written: Written) -> None:
    kinds = {"report", "parametric", "segmentation", "capture"}
    # What a DICOM file holds already is not written again.
    assert {name: set(found) for name, found in written[1].items()} == {
        "a.dcm": kinds,
        "b.png": kinds | {"image"},
        "d.dcm#1": kinds,
        "d.dcm#2": kinds,
    }


def test_objects_refer_to_their_frame(written: Written) -> None:
    for number in (1, 2):
        found = written[1][f"d.dcm#{number}"]
        ((_, referred),) = items(found["report"], "IMAGE")
        assert referred.ReferencedSOPSequence[0].ReferencedFrameNumber == number
        assert found["capture"].SourceImageSequence[0].ReferencedFrameNumber == number


def test_rows_are_those_without_objects(
    made: Path, smears: Path, written: Written, tmp_path: Path
) -> None:
    rows, none = run(made, smears, tmp_path, None, ckpt=str(made / "run"))
    assert rows == written[0] and none == {}
    assert [bool(row.error) for row in rows] == [False, False, True, False, False]


def test_the_report_says_what_the_row_says(written: Written) -> None:
    for row, name in zip(written[0], ("a.dcm", "b.png"), strict=False):
        report = written[1][name]["report"]
        said = [
            float(item.MeasuredValueSequence[0].NumericValue)
            for meaning, item in items(report, "NUM")
            if meaning.startswith("Calibrated probability")
        ]
        assert said == pytest.approx(list(row.probabilities))
        reasons = [m for m, _ in items(report, "CODE") if m.startswith("Reason for")]
        assert len(reasons) == len(row.refer)


def test_objects_join_the_study_of_the_file(smears: Path, written: Written) -> None:
    source = read_again((smears / "a.dcm").read_bytes())
    for made in written[1]["a.dcm"].values():
        assert made.StudyInstanceUID == source.StudyInstanceUID
        assert (made.PatientID, made.PatientName) == (source.PatientID, source.PatientName)
        # Only what files objects, of more than fifty attributes that name somebody.
        assert not made.get("InstitutionName") and not made.get("OperatorsName")
    for made in written[1]["b.png"].values():
        assert not made.PatientName and made.StudyInstanceUID.startswith("2.25.")


def test_pictures_are_in_the_frame_of_the_image(written: Written) -> None:
    for number, name in enumerate(("a.dcm", "b.png")):
        found, side = written[1][name], SIDE + 8 * number
        assert (found["parametric"].Rows, found["segmentation"].Columns) == (side, side)
        assert found["capture"].Rows > side == found["capture"].Columns


def test_pixels_of_a_map_have_the_size_that_the_file_states(written: Written) -> None:
    for name, stated in (("a.dcm", [0.001, 0.002]), ("b.png", [1, 1])):
        made = written[1][name]["parametric"]
        measures = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert measures.PixelSpacing == stated
        assert made.ContentDescription.startswith("Size of pixels unknown") == (name == "b.png")


def test_an_exported_file_shows_evidence_by_occlusion(
    made: Path, smears: Path, tmp_path: Path
) -> None:
    profile = measured(made, tmp_path / "site.json")
    site = with_defaults(SiteMatchConfig, profile=str(profile), scale=False, colour="reinhard")
    settings: dict[str, Any] = {"model": str(made / MODEL), "input": str(smears / "b.png")}
    _, found = run(made, smears, tmp_path, ["report", "segmentation"], site=site, **settings)
    assert set(found["b.png"]) == {"image", "report", "segmentation"}
    said = [item.TextValue for _, item in items(found["b.png"]["report"], "TEXT")]
    assert f"site_profile_sha256={file_sha256(profile)}" in said
    assert site_settings(file_sha256(profile), None) in said
    (algorithm,) = (
        found["b.png"]["segmentation"]
        .SegmentSequence[0]
        .SegmentationAlgorithmIdentificationSequence
    )
    assert "occlusion" in algorithm.AlgorithmParameters and algorithm.AlgorithmName == MODEL


def test_a_dicom_file_is_told_by_its_content(made: Path, smears: Path, tmp_path: Path) -> None:
    folder = tmp_path / "misnamed"
    folder.mkdir()
    (folder / "named.png").write_bytes((smears / "a.dcm").read_bytes())
    long = "\N{MICROSCOPE}" * 61 + ".dcm"  # 248 bytes
    (folder / long).write_bytes((smears / "b.png").read_bytes())
    rows, found = run(
        made, folder, tmp_path, ["report"], model=str(made / MODEL), keep=["PatientID"]
    )
    source = read_again((smears / "a.dcm").read_bytes())
    assert [dict(row.kept)["PatientID"] for row in rows] == [source.PatientID, ""]
    named, other = found.pop("named.png"), next(iter(found.values()))
    assert named["report"].PatientID == source.PatientID and set(named) == {"report"}
    assert set(other) == {"image", "report"} and not other["report"].PatientName


def full(file: Path, durable: bool) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_object_that_cannot_be_written_costs_no_row(
    made: Path,
    smears: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bcd.inference.dicom_objects.replacing", full)
    rows, _ = run(made, smears, tmp_path, ["report"], ckpt=str(made / "run"))
    assert len(rows) == 5
    said = capsys.readouterr()
    assert "images of which DICOM objects are missing: 4" in " ".join((said.out + said.err).split())


def test_objects_are_there_after_a_kill_and_a_full_disk(
    made: Path,
    smears: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A part counts when its objects are there: what counts is not made again."""
    settings = {"model": str(made / MODEL), "output": f"{tmp_path / 'rows'}/", "part_rows": 2}
    cfg = asked(made, tmp_path / "run", input=str(smears), **settings)
    cfg.dicom = replace(cfg.dicom, output=str(tmp_path / "out"), objects=["report"])
    seen: list[Prediction] = []

    def die(prediction: Prediction) -> None:
        seen.append(prediction)
        if len(seen) == 3:  # the first of the second part
            raise KeyboardInterrupt

    def rows() -> int:
        read = json.loads((tmp_path / "rows" / "manifest.json").read_text())
        return sum(part["rows"] for part in read["parts"])

    with pytest.raises(KeyboardInterrupt):
        predict(cfg, die)
    assert rows() == 2
    with monkeypatch.context() as patched:
        patched.setattr("bcd.inference.dicom_objects.replacing", full)
        with pytest.raises(BcdError, match=r"dicom\.output=.*No space left"):
            predict(cfg)
    assert rows() == 2
    tally = predict(cfg)
    assert (rows(), tally.failed, tally.without_objects) == (5, 1, 0)
    assert len(list((tmp_path / "out").glob("*/report.dcm"))) == 4
    predict(cfg)
    assert "DICOM objects are not written again" in capsys.readouterr().err
    cfg.dicom = replace(cfg.dicom, objects=["report", "capture"])
    with pytest.raises(BcdError, match=r"dicom\.objects was .* and is now"):
        predict(cfg)


def test_missing_objects_have_an_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for missing, status in ((0, 0), (2, 3)):
        tally = Tally(["Benign"], without_objects=missing)
        again = Tally.from_plain(json.loads(json.dumps(tally.to_plain())))  # a finished folder
        assert again == tally
        monkeypatch.setattr("bcd.inference.predict.predict", lambda _, said=again: said)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("predict", overrides=["input=x", "ckpt=x", f"run_dir={tmp_path}"])
        assert main(cfg) == status


def test_what_cannot_be_is_refused_at_the_beginning(
    made: Path, smears: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"dicom\.output=.* needs engine=local"):
        run(made, smears, tmp_path, ["report"], ckpt=str(made / "run"), engine="ray")
    with pytest.raises(ConfigError, match=r"dicom\.objects"):
        run(made, smears, tmp_path, ["pdf"], ckpt=str(made / "run"))
    (tmp_path / "out").write_text("no folder")
    with pytest.raises(BcdError, match=r"dicom\.output=.*out: not a folder"):
        run(made, smears, tmp_path, ["report"], ckpt=str(made / "run"))
    assert not (tmp_path / "run").exists()  # nothing was predicted
    monkeypatch.setattr("bcd.inference.dicom_objects.installed", lambda: False)
    with pytest.raises(BcdError, match=r"pip install 'bcd\[dicom\]'"):
        check_writable(str(tmp_path), [])


def test_no_object_of_an_earlier_run_stays_with_an_image(
    made: Path, smears: Path, tmp_path: Path
) -> None:
    """Exports number their files alike: another patient's object may have the same path."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.dcm").write_bytes((smears / "a.dcm").read_bytes())
    settings = {"input": str(folder), "model": str(made / MODEL)}
    run(made, folder, tmp_path, ["report", "capture"], **settings)
    assert len(list(out.glob("*/*.dcm"))) == 4
    (folder / "b.dcm").write_bytes((folder / "b.dcm").read_bytes()[:-5000])
    (next(out.glob("b.dcm-*")) / "note.txt").write_text("of a user", encoding="utf-8")
    _, found = run(made, folder, tmp_path, ["report"], **settings)
    assert {name: set(objects) for name, objects in found.items()} == {"a.dcm": {"report"}}
    assert len(list(out.glob("b.dcm-*/note.txt"))) == 1
