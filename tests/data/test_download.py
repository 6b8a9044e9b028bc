from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import kagglehub
import pytest
import yaml

from bcd.config.compose import with_defaults
from bcd.config.schema import DataConfig
from bcd.data.download import HANDLE, PAGE, download
from bcd.data.layouts import CANONICAL
from bcd.data.load import load_catalog
from bcd.errors import BcdError
from tests.helpers.harness import CONF
from tests.helpers.noise import FOUR, write_classes

Fetch = Callable[..., str]


def offer(monkeypatch: pytest.MonkeyPatch, fetch: Fetch) -> None:
    """Puts `fetch` in kagglehub's place; it must be called as kagglehub can be."""
    signature = inspect.signature(kagglehub.dataset_download)

    def checked(*args: object, **kwargs: object) -> str:
        signature.bind(*args, **kwargs)
        return fetch(*args, **kwargs)

    monkeypatch.setattr(kagglehub, "dataset_download", checked)


def fetch_four(handle: str, output_dir: str) -> str:
    assert handle == HANDLE
    assert not any(Path(output_dir).iterdir())  # kagglehub refuses a folder with something in it
    write_classes(Path(output_dir) / "Original", FOUR)
    (Path(output_dir) / ".complete").mkdir()
    return output_dir


def fail(handle: str, output_dir: str) -> str:
    (Path(output_dir) / "half.zip").write_bytes(b"PK")
    raise ConnectionError("no route to www.kaggle.com\nand much more")


def test_a_root_that_is_not_there_is_downloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    offer(monkeypatch, fetch_four)
    root = tmp_path / "data" / "blood"
    catalog = load_catalog(with_defaults(DataConfig, root=str(root), download=True))
    assert catalog.root == root / "Original"
    assert catalog.counts() == dict.fromkeys(CANONICAL, 3)
    assert [p.name for p in root.parent.iterdir()] == ["blood"]


def test_a_mistyped_root_is_not_downloaded_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    offer(monkeypatch, fetch_four)
    write_classes(tmp_path / "smears" / "mine", ("a", "b"))
    for typed, meant in (("smaers/mine", "smears"), ("smears/mime", "smears/mine"), ("x/y", "")):
        with pytest.raises(BcdError) as error:
            load_catalog(with_defaults(DataConfig, root=str(tmp_path / typed)))
        line, told = str(error.value), f"; did you mean '{tmp_path / meant}'?" if meant else ""
        assert line.startswith(f"data.root={tmp_path / typed} does not exist{told}; ")
        assert f"data.download=true would download the 3,242-image set ({PAGE}) to it" in line
    assert [p.name for p in tmp_path.iterdir()] == ["smears"]


def test_only_the_default_root_is_downloaded_unasked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    offer(monkeypatch, fetch_four)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BcdError, match=r"does not exist; data\.download=true"):
        load_catalog(with_defaults(DataConfig, download=False))
    assert load_catalog(with_defaults(DataConfig)).counts() == dict.fromkeys(CANONICAL, 3)
    assert [p.name for p in tmp_path.iterdir()] == [Path(with_defaults(DataConfig).root).parts[0]]
    written = yaml.safe_load((CONF / "data" / "smears.yaml").read_text(encoding="utf-8"))
    assert (written["root"], written["download"]) == (with_defaults(DataConfig).root, None)


def test_a_root_that_leads_nowhere_is_not_downloaded_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    offer(monkeypatch, fetch_four)
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(BcdError, match="link is a broken link"):
        load_catalog(with_defaults(DataConfig, root=str(tmp_path / "link"), download=True))


def test_a_root_that_is_there_is_not_downloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    offer(monkeypatch, fail)
    write_classes(tmp_path, ("a", "b"))
    assert load_catalog(with_defaults(DataConfig, root=str(tmp_path))).classes == ("a", "b")


def test_what_a_killed_download_left_is_not_in_the_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    places: list[Path] = []

    def look(handle: str, output_dir: str) -> str:
        places.append(Path(output_dir))
        return fetch_four(handle, output_dir)

    offer(monkeypatch, look)
    download(tmp_path / "one")
    places[0].mkdir()
    (places[0] / "half.zip").write_bytes(b"PK")
    (tmp_path / "one").rename(tmp_path / "two")
    download(tmp_path / "one")
    assert places[0] == places[1]
    assert {p.name for p in tmp_path.iterdir()} == {"one", "two"}


def test_a_set_that_a_notebook_keeps_elsewhere_is_copied(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = write_classes(tmp_path / "kaggle" / "input")
    before = sorted(kept.rglob("*"))
    offer(monkeypatch, lambda handle, output_dir: str(kept))
    download(tmp_path / "root")
    assert sorted(kept.rglob("*")) == before
    copied = {p.relative_to(tmp_path / "root") for p in (tmp_path / "root").rglob("*")}
    assert copied == {p.relative_to(kept) for p in before}


def test_a_failed_download_names_three_ways_out_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    offer(monkeypatch, fail)
    root = tmp_path / "some" / "where" / "blood"
    with pytest.raises(BcdError) as error:
        load_catalog(with_defaults(DataConfig, root=str(root), download=True))
    line = str(error.value)
    assert "\n" not in line
    assert "ConnectionError: no route to www.kaggle.com" in line
    for way in (
        "data.root=<folder of class folders>",
        f"unpack {PAGE} at {root}",
        "data=generated",
    ):
        assert way in line
    assert error.value.status == 1
    assert not list(tmp_path.iterdir())


def test_a_failed_download_leaves_the_neighbours_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    offer(monkeypatch, fail)
    write_classes(tmp_path / "data" / "other", ["a"])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BcdError):
        download(tmp_path / "data" / "blood")
    assert sorted(tmp_path.rglob("*")) == before
