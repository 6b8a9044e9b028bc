"""Nothing in DICOM files that names a person gets into what training and predict write or say."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.training.run import train
from tests.helpers.dicom import identified, make_dicom
from tests.helpers.harness import SMALL, predict_config, predicted, train_config
from tests.helpers.searching import files_of, leaks

IMAGES = 24


def named_smears(root: Path) -> set[str]:
    """Writes DICOM files in folders of classes, one of them cut off; returns all values in them."""
    values: set[str] = set()
    for number in range(IMAGES):
        name = CLASS_NAMES[number % 4]
        smear = draw_smear(name, slide=number, index=number, size=64)
        data, more = identified(make_dicom(smear).data)
        values |= set(map(str, more))
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / f"{number}.dcm").write_bytes(data)
    (root / name / "cut off.dcm").write_bytes(data[: len(data) // 2])
    return values


def test_no_attribute_is_in_a_cache_a_run_or_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "cache"))
    values = named_smears(tmp_path / "smears")
    small = [each for each in SMALL if not each.startswith(("data=", "data.generate"))]
    settings = (f"data.root={tmp_path / 'smears'}", "model.unfreeze=1", "report=full")
    train(train_config(tmp_path / "run", *small, *settings))
    with tarfile.open(tmp_path / "smears.tar", "w") as archive:
        archive.add(tmp_path / "smears", "smears")
    rows = {}
    for name, keys in {
        "csv": ("input=smears", "explain=true"),
        "json": ("input=smears.tar", "format=json", "output=json/rows.json"),
        "parquet": ("input=smears", "format=parquet", "output=parquet"),
        "kept": ("input=smears", "dicom.keep=[PatientID]"),
    }.items():
        given = [key.replace("put=", f"put={tmp_path}/") for key in keys]
        run = predict_config(tmp_path / name, f"ckpt={tmp_path / 'run'}", "device=cpu", *given)
        rows[name] = predicted(run)
    assert {len(found) for found in rows.values()} == {IMAGES + 1}
    assert any((tmp_path / "cache" / "features").iterdir())  # the bank was used
    told = dict(enumerate(capfd.readouterr()))
    places = files_of(tmp_path) | {str(number): text.encode() for number, text in told.items()}
    places = {name: data for name, data in places.items() if "/smears" not in name}
    found = leaks(values, places)
    assert {place for _, place in found} == {str(tmp_path / "kept" / "predictions.csv")}
    assert {value for value, _ in found} == {value for value in values if "-PatientID" in value}
