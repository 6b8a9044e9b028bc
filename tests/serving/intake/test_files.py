"""Finding, reading and moving files of a watch folder."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bcd.serving.intake import files
from bcd.serving.intake.files import DONE, FAILED, ChangedError, Found, Signature, TooLongError
from tests.serving.intake.following import files_in


def found(root: Path, name: str) -> Found:
    """A file as a scan finds it."""
    (one,) = [each for each in files.scan(root).files if "/".join(each.parts) == name]
    return one


def put(root: Path, name: str, data: bytes = b"picture") -> Path:
    """Writes a file."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_a_scan_finds_what_is_complete_and_not_what_is_done(tmp_path: Path) -> None:
    for name in ("loose.png", "a/1.png", "a/b/2.png", "a/done/3.png"):
        put(tmp_path, name)
    for name in ("done/a/0.png", "failed/a/0.png", "a/4.png.part", "a/.5.png", "a/6.png~",
                 "a/7.crdownload", ".hidden/8.png", "a/9.TMP"):  # fmt: skip
        put(tmp_path, name)
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    scan = files.scan(tmp_path)
    names = {"/".join(each.parts) for each in scan.files}
    assert names == {"loose.png", "a/1.png", "a/b/2.png", "a/done/3.png"}
    assert scan.empty == (("empty", "inner"),)


def test_links_are_neither_followed_nor_read(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "watch"
    secret = put(outside, "secret.png")
    put(root, "a/1.png")
    (root / "a" / "link.png").symlink_to(secret)
    (root / "linked").symlink_to(outside)
    scan = files.scan(root)
    regular = {"/".join(each.parts): each.regular for each in scan.files}
    assert regular == {"a/1.png": True, "a/link.png": False, "linked": False}
    inside = found(root, "a/1.png")
    (root / "a" / "1.png").unlink()
    (root / "a" / "1.png").symlink_to(secret)
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        files.read(root, inside, 100)
    (root / "a").rename(root / "b")
    (root / "a").symlink_to(outside)  # a folder that has become a link
    with pytest.raises(OSError, match=os.strerror(errno.ENOTDIR)):
        files.read(root, inside, 100)
    (root / DONE).symlink_to(outside)
    with pytest.raises(OSError, match=os.strerror(errno.ENOTDIR)):
        files.move(root, found(root, "b/link.png"), DONE)
    assert files_in(outside) == {"secret.png"}
    assert secret.read_bytes() == b"picture"


def test_a_file_is_read_as_it_was_found_or_not_at_all(tmp_path: Path) -> None:
    path = put(tmp_path, "a/1.png")
    before = found(tmp_path, "a/1.png")
    assert files.read(tmp_path, before, len(b"picture")) == b"picture"
    with pytest.raises(TooLongError):
        files.read(tmp_path, before, len(b"picture") - 1)
    with path.open("ab") as stream:
        stream.write(b"!")
    with pytest.raises(ChangedError):
        files.read(tmp_path, before, 100)
    with pytest.raises(ChangedError):
        files.move(tmp_path, before, DONE)
    assert path.read_bytes() == b"picture!"


def test_no_file_is_moved_over_another(tmp_path: Path) -> None:
    for content in (b"one", b"two", b"three"):
        put(tmp_path, "a/1.png", content)
        files.move(tmp_path, found(tmp_path, "a/1.png"), DONE)
    moved = {name: (tmp_path / DONE / name).read_bytes() for name in files_in(tmp_path / DONE)}
    assert moved == {"a/1.png": b"one", "a/1 (2).png": b"two", "a/1 (3).png": b"three"}


def test_a_reason_is_written_beside_a_failed_file(tmp_path: Path) -> None:
    put(tmp_path, "failed/a/1.png.txt", b"a file of this name")
    put(tmp_path, "a/1.png")
    files.move(tmp_path, found(tmp_path, "a/1.png"), FAILED, "Because.")
    assert files_in(tmp_path) == {
        f"failed/a/{n}" for n in ("1.png.txt", "1 (2).png", "1 (2).png.txt")
    }
    assert (tmp_path / "failed/a/1.png.txt").read_text() == "a file of this name"
    assert (tmp_path / "failed/a/1 (2).png.txt").read_text() == "Because.\n"


def test_a_server_that_is_killed_leaves_nothing_that_looks_like_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a/1.png")
    code = (
        "import os, sys; from pathlib import Path; from bcd.serving.intake import files; "
        "os.rename = lambda *_, **__: os._exit(9); root = Path(sys.argv[1]); "
        "files.move(root, files.scan(root).files[0], files.FAILED, 'Because.')"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == 9
    assert {Path(name).name for name in files_in(tmp_path) if "/." not in name} == {"1.png"}
    files.move(tmp_path, found(tmp_path, "a/1.png"), FAILED, "Because.")
    shown = {name for name in files_in(tmp_path) if "/." not in name}
    assert shown == {"failed/a/1 (2).png", "failed/a/1 (2).png.txt"}


def test_an_empty_file_is_not_overwritten_however_old(tmp_path: Path) -> None:
    os.utime(put(tmp_path, "failed/a/1.png", b""), (0.0, 0.0))
    put(tmp_path, "a/1.png")
    files.move(tmp_path, found(tmp_path, "a/1.png"), FAILED, "Because.")
    assert (tmp_path / "failed/a/1.png").read_bytes() == b""


@pytest.mark.parametrize("stem", ["x" * 251, "\N{GREEK SMALL LETTER ALPHA}" * 125])
def test_long_names_are_shortened(tmp_path: Path, stem: str) -> None:
    for content in (b"one", b"two"):
        put(tmp_path, f"a/{stem}.png", content)
        files.move(tmp_path, found(tmp_path, f"a/{stem}.png"), FAILED, "Because.")
    moved = sorted((tmp_path / FAILED / "a").glob("*.png"))
    assert {path.read_bytes() for path in moved} == {b"one", b"two"}
    for path in moved:
        assert path.name.startswith(stem[:100])
        assert path.with_name(path.name + ".txt").read_text() == "Because.\n"


def test_a_file_that_is_replaced_in_the_last_moment_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path, "a/1.png", b"old")
    before, rename = found(tmp_path, "a/1.png"), os.rename

    def late(source: str, target: str, **folders: int) -> None:
        monkeypatch.setattr(os, "rename", rename)
        path.unlink()
        put(tmp_path, "a/1.png", b"another")
        rename(source, target, **folders)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(ChangedError):
        files.move(tmp_path, before, DONE)
    assert path.read_bytes() == b"another"
    assert files_in(tmp_path) == {"a/1.png"}


def test_what_cannot_be_moved_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a/1.png")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="full"):
        files.move(tmp_path, found(tmp_path, "a/1.png"), FAILED, "Because.")
    assert files_in(tmp_path) == {"a/1.png"}


def test_a_signature_tells_another_file_of_the_same_size_and_time(tmp_path: Path) -> None:
    first = put(tmp_path, "1.png")
    second = put(tmp_path, "2.png")
    facts = first.stat()
    os.utime(second, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert Signature.of(facts) != Signature.of(second.stat())
