"""What `input` may be, and that hostile lists and archives cost only their own rows."""

from __future__ import annotations

import csv
import gzip
import io
import os
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bcd.config.input_views import InputView
from bcd.data.items import Item, Wanted
from bcd.errors import BcdError, ConfigError
from bcd.inference.batch.inputs import open_inputs
from tests.helpers.fuzzing import encoded
from tests.helpers.memory import peak_growth
from tests.helpers.noise import noise

PNG = encoded(noise(1, size=8), "PNG")


def items(*inputs: Path | str, column: str = "path", limit: int | None = None) -> list[Item]:
    return list(open_inputs([str(one) for one in inputs], column, limit).items)


def names(*inputs: Path | str) -> list[str]:
    return [item.name for item in items(*inputs)]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images at several depths, in a folder with a name that is a pattern."""
    root = tmp_path / "a [1]"
    for name in ("b/2.png", "b/10.png", "b.png", "c d/x/1.PNG", "b-/0.png", "notes.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)
    return root


def test_a_folder_is_listed_in_the_order_of_sorted_paths(images: Path) -> None:
    (images / "link").symlink_to(images / "b")
    (images / "broken").symlink_to(images / "nowhere")
    expected = [
        p for p in images.rglob("*") if p.suffix.lower() == ".png" and "link" not in p.parts
    ]
    expected += [images / "link", images / "broken"]
    opened = open_inputs([str(images)], "path")
    assert [item.name for item in opened.items] == [str(path) for path in sorted(expected)]
    assert opened.total == len(expected)


def test_a_text_list_has_files_folders_globs_and_archives(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    (work / "here").mkdir(parents=True)
    (work / "here" / "9.png").write_bytes(PNG)
    make_tar(images / "t.tar", {"m/1.png": PNG})
    monkeypatch.chdir(work)
    lines = ["b.png", "", "b/*.png", "c d", "t.tar", "here/9.png", "gone.png", "gone*.png", "b.png",
             str(images / "b.png"), "./b.png", "x\0.png"]  # fmt: skip
    lines += ["y" * 300 + ".png", "z" * 300 + "*"]
    (images / "list.txt").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    found = items(os.path.relpath(images / "list.txt"))
    assert [item.name for item in found] == [
        "b.png", "b/10.png", "b/2.png", "c d/x/1.PNG", "t.tar/m/1.png", "here/9.png", "gone.png",
        "gone*.png", "b.png", str(images / "b.png"), "./b.png", "x\0.png",
        "y" * 300 + ".png", "z" * 300 + "*",
    ]  # fmt: skip
    wanted = Wanted((InputView("plain", 8),), False)
    answers = [wanted.read(item) for item in found]
    assert {item.name: a for item, a in zip(found, answers, strict=True) if isinstance(a, str)} == {
        "gone.png": "cannot be read (No such file or directory)",
        "gone*.png": "no image there",
        "x\0.png": "cannot be read (its name has a zero byte)",
        "y" * 300 + ".png": "cannot be read (File name too long)",
        "z" * 300 + "*": "no image there",
    }


def test_a_line_that_raises_costs_only_itself(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("bcd.inference.batch.lists.matching_files", denied)
    (images / "list.txt").write_text("b\nb.png\n")
    assert [(item.name, item.reason) for item in items(images / "list.txt")] == [
        ("b", "cannot be read (Permission denied)"),
        ("b.png", ""),
    ]


def write_table(file: Path, column: str, values: Sequence[str]) -> Path:
    if file.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        rows = arrow.table({"n": list(range(len(values))), column: list(values)})
        parquet.write_table(rows, file, row_group_size=2)
    else:
        with file.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([["n", column], *enumerate(values)])
    return file


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_names_files_in_a_column(suffix: str, images: Path) -> None:
    listed = ["b.png", "b/2.png", "b.png", "b/*.png", "", 'odd "name", with\nbreak.png']
    file = write_table(images / f"list{suffix}", "path", listed)
    found = items(file)
    assert [item.name for item in found] == listed
    assert [item.path for item in found[:3]] == [images / name for name in listed[:3]]
    assert found[4].reason == "no path in this row of the list"
    if suffix == ".parquet":
        arrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
        coded = arrow.array(listed).dictionary_encode()
        parquet.write_table(arrow.table({"path": coded}), images / "coded.parquet")
        assert names(images / "coded.parquet") == listed
    other = write_table(images / f"other{suffix}", "Bild", listed)
    assert [item.name for item in items(other, column="Bild")] == listed
    with pytest.raises(ConfigError, match=r"input_column=path: .*has the columns n, Bild"):
        items(other)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("empty.txt", b"\n\n", "no path in it"),
        ("empty.csv", b"path\n", "no path in it"),
        ("none.csv", b"", "no path in it"),
        ("line.txt", b"x" * 70_000, "a line is too long"),
        ("cell.csv", b'path\n"' + b"x" * 140_000, "cannot be read"),
        ("not.parquet", b"PAR1, but nothing else", "not a Parquet file"),
        ("empty.tar", b"\0" * 1024, "no image in this archive"),
        ("none.tar", b"", "no image in this archive"),
        ("utf16.txt", "ä.png\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        ("utf16.csv", "path\n".encode("utf-16-le"), "is UTF-16: save it as UTF-8"),
        ("noise.csv", b"\x1b[2J\x01" * 500 + b"\n1", r"has the columns \\x1b\[2J.{180,200}…$"),
    ],
)
def test_an_unusable_list_is_one_line(name: str, content: bytes, told: str, tmp_path: Path) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BcdError, match=told) as caught:
        items(tmp_path / name)
    assert "\n" not in str(caught.value) and str(tmp_path / name) in str(caught.value)


def make_tar(file: Path, members: Mapping[str, bytes | tarfile.TarInfo], form: int = 1) -> Path:
    """Writes an archive of files and other members; by gzip if its name says so."""
    mode: Any = "w:gz" if file.suffix.lower() in (".gz", ".tgz") else "w"
    with tarfile.open(file, mode, format=form) as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


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


def test_many_members_and_lines_are_never_all_in_memory(tmp_path: Path) -> None:
    def peak(count: int) -> float:
        (tmp_path / "a.txt").write_text("".join(f"{i:09d}.png\n" for i in range(count)))
        make_tar(tmp_path / "a.tar", {f"{i:09d}.png": b"x" for i in range(count)})
        both = open_inputs([str(tmp_path / "a.txt"), str(tmp_path / "a.tar")], "path")
        seen, most = peak_growth(lambda: sum(1 for _ in both.items))
        assert seen == 2 * count
        return most

    assert peak(4000) <= 1.1 * peak(400) + 0.05


def test_of_broken_links_only_the_names_are_in_memory(tmp_path: Path) -> None:
    names = [f"{number:06d} smear.png" for number in range(2000)]
    for name in names:
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
    opened, peak = peak_growth(lambda: open_inputs([str(tmp_path)], "path"))
    count, more = peak_growth(lambda: sum(1 for _ in opened.items))
    assert opened.total == count == len(names)
    assert max(peak, more) < 2 * sum(map(sys.getsizeof, names)) / 2**20
