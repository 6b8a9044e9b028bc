"""What `input` may be, and that hostile lists and archives cost only their own rows."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bcd.config.input_views import InputView
from bcd.data.items import Wanted
from bcd.errors import BcdError, ConfigError
from bcd.inference.batch.inputs import open_inputs
from tests.helpers.archives import PNG, items, make_tar
from tests.helpers.memory import peak_growth


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
        for kind in (arrow.dictionary(arrow.int32(), arrow.string()), arrow.string_view()):
            coded = arrow.table({"path": arrow.array(listed).cast(kind)})
            parquet.write_table(coded, images / "coded.parquet")
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


def test_many_members_and_lines_are_never_all_in_memory(tmp_path: Path) -> None:
    def peak(count: int) -> float:
        (tmp_path / "a.txt").write_text("".join(f"{i:09d}.png\n" for i in range(count)))
        make_tar(tmp_path / "a.tar", {f"{i:09d}.png": b"x" for i in range(count)})
        both = open_inputs([str(tmp_path / "a.txt"), str(tmp_path / "a.tar")], "path")
        seen, most = peak_growth(lambda: sum(1 for _ in both.items))
        assert seen == 2 * count
        return most

    peak(1)  # what is imported at the first one
    # The smallest of three: now and then another thread of the process allocates some MB.
    assert min(peak(4000) for _ in range(3)) <= 1.1 * peak(400) + 0.05


def test_of_broken_links_only_the_names_are_in_memory(tmp_path: Path) -> None:
    names = [f"{number:06d} smear.png" for number in range(2000)]
    for name in names:
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
    opened, peak = peak_growth(lambda: open_inputs([str(tmp_path)], "path"))
    count, more = peak_growth(lambda: sum(1 for _ in opened.items))
    assert opened.total == count == len(names)
    assert max(peak, more) < 2 * sum(map(sys.getsizeof, names)) / 2**20
