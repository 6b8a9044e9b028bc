"""`bcd cache` lists, verifies and removes every cache of the program."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bcd.audit.run import audit
from bcd.commands.cache import all_entries, main
from bcd.errors import BcdError
from bcd.storage import cache_dir
from tests.helpers.harness import audit_config
from tests.helpers.noise import write_classes

KINDS = {"catalogs", "features", "overlaps", "shortcuts", "statistics"}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that an audit filled."""
    folder = tmp_path_factory.mktemp("audit")
    root = write_classes(folder / "in", ("a", "b"), count=20, size=48)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BCD_CACHE", str(folder / "cache"))
        settings = (f"data.root={root}", "model.weights=null", "model.input_size=48")
        audit(audit_config(folder / "run", *settings, "features.engine=torch"))
    return folder / "cache"


@pytest.fixture
def cache(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, with a file that another version may have left."""
    shutil.copytree(filled, tmp_path / "cache")
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "old").mkdir()
    (tmp_path / "cache" / "old" / "thing.bin").write_bytes(bytes(2_000_000))
    return tmp_path / "cache"


def files(folder: Path) -> list[Path]:
    return [f for f in folder.rglob("*") if f.is_file() and f.suffix != ".lock"]


def test_it_lists_every_kind_with_content_and_size(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = all_entries()
    assert {entry.kind for entry in entries} == KINDS | {"other"}
    assert sum(entry.size() for entry in entries) == sum(f.stat().st_size for f in files(cache))
    about = {entry.kind: entry.describe() for entry in entries}
    assert about["statistics"].startswith("40 images of ")
    assert about["overlaps"].startswith("0 pairs among 40 images of ")
    assert "40 views of 40 images" in about["features"]
    assert about["other"] == "old"
    assert main(["list"]) == 0
    listed = capsys.readouterr().err
    assert all(entry.key[:8] in listed for entry in entries)
    assert f"{len(entries)} entries" in listed
    assert "old" not in listed.splitlines()[0]
    assert main(["list", "other"]) == 0
    assert "1 entry, 2.0 MB" in capsys.readouterr().err


def test_an_empty_cache_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "missing"))
    assert main(["list"]) == 0
    assert main(["verify"]) == 0
    assert main(["remove", "--all"]) == 0


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_changed_byte_is_found(
    kind: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify"]) == 0
    victim = max(files(cache / kind), key=lambda f: f.stat().st_size)
    data = bytearray(victim.read_bytes())
    place = len(data) // 2
    data[place] ^= 1
    victim.write_bytes(data)
    assert main(["verify", kind]) == 1
    assert f"damaged: {victim}" in capsys.readouterr().err
    assert main(["verify", *sorted(KINDS - {kind})]) == 0
    capsys.readouterr()
    assert main(["list", kind]) == 0
    assert "damaged" in "".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("text", [None, "{"])
def test_a_shard_without_its_description_is_damaged(
    text: str | None, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = next((cache / "features").rglob("*.npy"))
    shard.with_suffix(".json").unlink()
    if text is not None:
        shard.with_suffix(".json").write_text(text, encoding="utf-8")
    assert main(["verify", "features"]) == 1
    assert f"damaged: {shard}" in capsys.readouterr().err


def test_what_it_cannot_read_is_not_called_ok(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "other"]) == 0
    assert "other old: not checked" in capsys.readouterr().err


def test_links_are_listed_and_removed_but_not_followed(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "big.bin").write_bytes(bytes(1_000_000))
    (cache / "broken").symlink_to(tmp_path / "missing")
    (cache / "statistics" / "broken.npz").symlink_to(tmp_path / "missing")
    (cache / "linked").symlink_to(outside)
    assert main(["list", "broken", "linked"]) == 0
    assert "3 entries, 0.0 MB" in capsys.readouterr().err
    assert main(["verify"]) == 1
    assert "broken.npz" in capsys.readouterr().err
    assert main(["remove", "--all"]) == 0
    assert all_entries() == []
    assert (outside / "big.bin").is_file()


def test_it_removes_what_was_asked_for(cache: Path) -> None:
    entries = all_entries()
    chosen = next(entry for entry in entries if entry.kind == "catalogs")
    assert main(["remove", chosen.key[:8]]) == 0
    assert [e.path for e in all_entries()] == [e.path for e in entries if e.path != chosen.path]
    assert main(["remove", "shortcuts", "features"]) == 0
    assert {entry.kind for entry in all_entries()} == {"overlaps", "statistics", "other"}
    assert main(["remove", "--all"]) == 0
    assert all_entries() == []
    assert files(cache_dir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["remove"], "keys"),
        (["remove", "statistics", "--all"], "keys"),
        (["remove", "--all", "statistics"], "keys"),
        (["list", "--all"], "--all is for remove"),
        (["remove", "nokey"], "nokey: not in the cache"),
        (["verify", "nokey"], "nokey: not in the cache"),
    ],
)
def test_it_refuses_what_it_does_not_know(words: list[str], message: str, cache: Path) -> None:
    before = files(cache)
    with pytest.raises(BcdError, match=message):
        main(words)
    assert files(cache) == before
