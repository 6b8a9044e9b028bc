"""Hostile or damaged archives cost only their own rows."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest

from tests.helpers.archives import PNG, items, make_tar
from tests.helpers.memory import peak_growth


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "A.TGZ"])
def test_members_of_an_archive_are_images(form: int, name: str, tmp_path: Path) -> None:
    long = "/".join(["folder with a long name"] * 8) + "/1.png"
    members = {"0.json": b"{}", "ü.png": PNG, long: PNG + b"more", "x/2.jpg": b""}
    file = make_tar(tmp_path / name, members, form)
    with gzip.open(file) if name != "a.tar" else file.open("rb") as stream:
        assert stream.read()
    found = items(file)
    assert [item.name for item in found] == [f"{file}/{member}" for member in [*members][1:]]
    assert [item.data for item in found] == [PNG, PNG + b"more", None]
    assert found[2].reason == "empty file"
    assert len(items(str(tmp_path / "[aA].*"))) == len(items(file, limit=9)) == 3
    assert len(items(file, limit=2)) == 2


def special(name: str, kind: bytes, size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, "/etc/passwd"
    return info


def test_what_is_no_file_in_an_archive_is_a_row_with_the_reason(tmp_path: Path) -> None:
    odd: dict[str, bytes | tarfile.TarInfo] = {
        "/etc/x.png": PNG,
        "../../y.png": PNG,
        "hard.png": special("hard.png", tarfile.LNKTYPE),
        "soft.png": special("soft.png", tarfile.SYMTYPE),
        "pipe.png": special("pipe.png", tarfile.FIFOTYPE),
        "folder.png": special("folder.png", tarfile.DIRTYPE),
        "last.png": PNG,
    }
    file = make_tar(tmp_path / "odd.tar", odd)
    assert [(item.name.removeprefix(f"{file}/"), item.reason) for item in items(file)] == [
        ("/etc/x.png", "not read (its name leads out of the archive)"),
        ("../../y.png", "not read (its name leads out of the archive)"),
        ("hard.png", "cannot be read (a link in an archive)"),
        ("soft.png", "cannot be read (a link in an archive)"),
        ("pipe.png", "cannot be read (a pipe)"),
        ("last.png", ""),
    ]


def header(name: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("cut", [700, 1000, 1536])
def test_an_archive_that_is_cut_off_keeps_what_came_before(
    suffix: str, cut: int, tmp_path: Path
) -> None:
    whole = make_tar(tmp_path / "whole.tar", {"1.png": PNG, "2.png": PNG * 4}).read_bytes()
    file = tmp_path / f"cut{suffix}"
    packed = gzip.compress(whole[:cut]) if suffix == ".tar.gz" else whole[:cut]
    file.write_bytes(packed)
    *before, last = items(file)
    assert [item.data for item in before] == ([PNG] if cut > 512 + len(PNG) else [])
    assert last.name == str(file)
    images = "1 image" if before else "0 images"
    assert last.reason == f"cannot be read after {images} (the archive is cut off)"
    if suffix == ".tar.gz":
        file.write_bytes(packed[:-20])
        assert "Compressed file ended" in items(file)[-1].reason
    file.write_bytes(b"no archive" * 100)
    (one,) = items(file)
    assert one.reason.startswith("cannot be read after 0 images (") and "b'" not in one.reason


def test_an_archive_need_not_end_with_zeros(tmp_path: Path) -> None:
    whole = make_tar(tmp_path / "whole.tar", {"1.png": PNG}).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:1024])
    assert [item.data for item in items(tmp_path / "a.tar")] == [PNG]
    # An extended header without a member is not the end.
    (tmp_path / "b.tar").write_bytes(header("x", b"x", 0) + bytes(512))
    assert items(tmp_path / "b.tar")[0].reason.endswith("(the archive is cut off)")


def test_a_sparse_member_with_a_long_map_costs_only_itself(tmp_path: Path) -> None:
    start = bytearray(header("s.png", tarfile.GNUTYPE_SPARSE, 512))
    start[482] = 1  # a block continues the map
    start[148:156] = b" " * 8
    start[148:156] = b"%06o\0 " % sum(start)
    more, last = bytearray(512), bytes(512)
    more[504] = 1
    file, whole = tmp_path / "a.tar", make_tar(tmp_path / "b.tar", {"1.png": PNG}).read_bytes()
    file.write_bytes(bytes(start) + bytes(more) + last + b"x" * 512 + whole)
    assert [(item.reason, item.data) for item in items(file)] == [
        ("cannot be read (a kind of member that is not supported)", None),
        ("", PNG),
    ]


def test_an_archive_made_to_fill_memory_takes_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "bomb.tar.gz"
    zeros = bytes(1 << 20)

    def write(*start: bytes, count: int = 100) -> None:
        with gzip.open(file, "wb", compresslevel=1) as stream:
            for piece in (*start, *[zeros] * count):
                stream.write(piece)

    bad = "cannot be read after 0 images"
    hostile = {
        f"{bad} (a header is too large)": header("x", b"x", 100 << 20),
        f"{bad} (a member is larger than any disk)": header("x.png", b"0", 1 << 60),
        f"{bad} (an extended header is damaged)": header("x", b"x", 512)
        + b"999 x=y\n"
        + bytes(503),
        f"{bad} (a header has no valid number)": header("x", b"x", 512) + b"x path=y" + bytes(504),
    }
    for reason, start in hostile.items():
        write(start)
        found, peak = peak_growth(lambda: items(file))
        assert [item.reason for item in found] == [reason]
        assert peak < 4
    write(*[header("x", b"x", 0)] * 40)
    assert items(file)[0].reason == f"{bad} (a header is too large)"
    # A member of 400 MB is passed over, unless the archive expands too much.
    write(header("big.png", b"0", 400 << 20), count=400)
    found, peak = peak_growth(lambda: items(file))
    assert found[0].reason.startswith("too large (419 MB")
    assert peak < 8
    monkeypatch.setattr("bcd.inference.batch.archive._FREE", 50 << 20)
    assert items(file)[1].reason.endswith("(it expands more than 100 times)")
