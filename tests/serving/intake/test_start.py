"""What is refused before the server starts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bcd.errors import BcdError, ConfigError
from bcd.serving.intake.start import open_intake
from tests.serving.making import serve_config


def test_a_watch_folder_has_to_be_there_and_apart_from_the_records(tmp_path: Path) -> None:
    cfg = serve_config(tmp_path / "records")
    scans = tmp_path / "scans"
    with pytest.raises(BcdError, match="no such folder: make it"):
        open_intake(replace(cfg, watch=str(scans)))
    with pytest.raises(ConfigError, match=r"watch: is empty"):
        open_intake(replace(cfg, watch=""))
    scans.mkdir()
    (tmp_path / "records").mkdir()
    assert open_intake(replace(cfg, watch=str(scans))).described() == [f"Watches a folder: {scans}"]
    for folder in (tmp_path, tmp_path / "records"):
        with pytest.raises(ConfigError, match=r"overlaps with folder="):
            open_intake(replace(cfg, watch=str(folder)))
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "records")
    with pytest.raises(ConfigError, match=r"overlaps with folder="):
        open_intake(replace(cfg, watch=str(link)))


def test_each_site_has_its_folder(tmp_path: Path) -> None:
    for name in ("north", "south"):
        (tmp_path / name).mkdir()
    cfg = serve_config(
        tmp_path / "records", "site=north", f"watch={tmp_path / 'north'}",
        f"+sites.south.watch={tmp_path / 'south'}",
    )  # fmt: skip
    assert open_intake(cfg).described() == [
        f"Watches a folder of site {name}: {tmp_path / name}" for name in ("north", "south")
    ]


def test_a_sender_belongs_to_one_site(tmp_path: Path) -> None:
    cfg = serve_config(tmp_path, "dicom.allow=[S1]", "site=north", "+sites.south.ae_titles=[S1]")
    with pytest.raises(ConfigError, match=r"sites.south.ae_titles: S1 is in dicom.allow, too"):
        open_intake(cfg)
    both = serve_config(tmp_path, "dicom.allow=[S1]", "site=north", "+sites.north.ae_titles=[S1]")
    assert open_intake(both).described() == []


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == "pynetdicom"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "bcd.serving.intake.node", raising=False)
    monkeypatch.setitem(sys.modules, "pynetdicom", None)
    cfg = serve_config(tmp_path, "dicom.port=0")
    with pytest.raises(BcdError, match=r"dicom.port: needs pynetdicom: pip install 'bcd\[dicom\]'"):
        open_intake(cfg)
