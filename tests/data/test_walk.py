"""Every file under a data root or an input is found, or listed with the reason."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bcd.config.compose import with_defaults
from bcd.config.schema import DataConfig
from bcd.data.catalog import Catalog
from bcd.data.files import ImageError, read_bytes
from bcd.data.load import expand_inputs, load_catalog
from bcd.errors import BcdError
from tests.helpers.noise import noise, write_classes, write_image

NOBODY = 65534


def load(root: Path) -> Catalog:
    return load_catalog(with_defaults(DataConfig, root=str(root)))


def reasons(catalog: Catalog) -> dict[str, str]:
    return {item.path: item.reason for item in catalog.rejected}


def used(catalog: Catalog) -> list[str]:
    return [image.path for image in catalog.images]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_classes(tmp_path / "root", ("a", "b"), count=2)
    write_classes(tmp_path / "root" / "a", ["deep"], count=3)
    return tmp_path / "root"


@pytest.fixture
def as_nobody(root: Path) -> Iterator[Callable[[Callable[[], object]], str]]:
    """Calls something without root's rights, in a process of its own; returns what it says."""
    if not hasattr(os, "fork"):
        pytest.skip("another user's process is made by a fork")
    load(root)  # imports what the other user may not read
    "".encode("utf-8-sig")
    before = {path: path.stat().st_mode for path in (root, *root.rglob("*"))}
    opened = [p for p in root.parents if p.stat().st_mode & 0o005 != 0o005]
    modes = [p.stat().st_mode for p in opened]
    for path in [*opened, *before]:
        path.chmod(path.stat().st_mode | 0o005)

    def call(act: Callable[[], object]) -> str:
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setresgid(NOBODY, NOBODY, NOBODY)
                    os.setresuid(NOBODY, NOBODY, NOBODY)
                said = repr(act())
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            os.write(into, said.encode())
            os._exit(0)
        os.close(into)
        os.waitpid(child, 0)
        with open(out) as stream:  # noqa: PTH123  (of a descriptor)
            return stream.read()

    yield call
    for path, mode in before.items():
        path.chmod(mode)
    for parent, mode in zip(opened, modes, strict=True):
        parent.chmod(mode)


Call = Callable[[Callable[[], object]], str]


def test_a_folder_that_cannot_be_read_is_named(root: Path, as_nobody: Call) -> None:
    (root / "a" / "deep").chmod(0)
    (root / "b" / "001.png").chmod(0)
    told = as_nobody(lambda: [reasons(load(root)), used(load(root))])
    listed = {
        "a/deep": "a folder that cannot be read (Permission denied)",
        "b/001.png": "cannot be read (Permission denied)",
    }
    assert told == repr([listed, ["a/000.png", "a/001.png", "b/000.png"]])


def test_files_of_a_folder_that_may_only_be_listed_are_named(root: Path, as_nobody: Call) -> None:
    (root / "a" / "deep").chmod(0o444)
    told = as_nobody(lambda: reasons(load(root)))
    expected = {f"a/deep/00{i}.png": "cannot be read (Permission denied)" for i in range(3)}
    assert told == repr(expected)


@pytest.mark.parametrize(
    ("closed", "mode", "line"),
    [
        ("a", 0, "class folder {a} is a folder that cannot be read (Permission denied)"),
        (".", 0, "{root} cannot be read (Permission denied)"),
        ("..", 0, "data.root={root} cannot be read (Permission denied)"),
        (".", 0o444, "class folder {a} is a folder that cannot be read (Permission denied)"),
        ("b", 0o444, "{root}: no image of class 'b' can be used (first: cannot be read"),
    ],
)
def test_a_class_or_a_root_that_cannot_be_read_is_one_line(
    closed: str, mode: int, line: str, root: Path, as_nobody: Call
) -> None:
    place = root / closed
    before = place.stat().st_mode
    place.chmod(mode)
    try:
        told = as_nobody(lambda: load(root))
    finally:
        place.chmod(before)
    assert told.startswith(f"BcdError: {line.format(root=root, a=root / 'a')}")
    assert len(told.splitlines()) == 1


def test_inputs_that_cannot_be_read_are_rows_with_the_reason(root: Path, as_nobody: Call) -> None:
    (root / "a" / "deep").chmod(0)

    def act() -> list[str]:
        said = []
        for path in expand_inputs([str(root / "a")]):
            try:
                read_bytes(path)
            except ImageError as error:
                said.append(f"{path.name} {error}")
        return said

    told = as_nobody(act)
    assert told == repr(["deep a folder that cannot be read (Permission denied)"])


def test_a_csv_names_files_that_cannot_be_read(root: Path, as_nobody: Call) -> None:
    table = root / "t.csv"
    table.write_text("path,class\na/000.png,x\nb/000.png,y\nb/001.png,y\n")
    table.chmod(0o644)
    (root / "b" / "001.png").chmod(0)
    told = as_nobody(lambda: reasons(load(table)))
    assert told == repr({"b/001.png": "cannot be read (Permission denied)"})


def test_links_to_folders_are_followed(root: Path, tmp_path: Path) -> None:
    elsewhere = write_classes(tmp_path / "elsewhere", ["slide"], count=2)
    (root / "a" / "link").symlink_to(elsewhere, target_is_directory=True)
    (root / "c").symlink_to(elsewhere / "slide", target_is_directory=True)
    (root / "a" / "link").unlink()
    assert load(root).counts() == {"a": 5, "b": 2, "c": 2}
    (root / "c").unlink()
    (root / "a" / "link").symlink_to(elsewhere, target_is_directory=True)
    catalog = load(root)
    assert catalog.counts() == {"a": 7, "b": 2}
    assert "a/link/slide/000.png" in used(catalog)
    assert root / "a" / "link" / "slide" / "001.png" in expand_inputs([str(root / "a")])


def test_no_folder_is_searched_twice_and_links_cannot_lead_in_circles(root: Path) -> None:
    before = used(load(root))
    (root / "a" / "deep" / "up").symlink_to(root / "a")
    (root / "a" / "above").symlink_to(root.parent)
    (root / "a" / "A").symlink_to(root / "a" / "deep")
    (root / "a" / "other").symlink_to(root / "b")
    catalog = load(root)
    assert used(catalog) == before
    assert reasons(catalog) == {
        "a/A": f"a folder that is searched under the name {root / 'a' / 'deep'}",
        "a/above": "a folder that is searched under another name",
        "a/deep/up": f"a folder that is searched under the name {root / 'a'}",
        "a/other": f"a folder that is searched under the name {root / 'b'}",
    }


def test_broken_links_are_named(root: Path) -> None:
    (root / "a" / "slide7").symlink_to(root / "gone")
    (root / "a" / "x.png").symlink_to(root / "a" / "x.png")
    assert reasons(load(root)) == {"a/slide7": "a broken link", "a/x.png": "a broken link"}
    assert {"slide7", "x.png"} < {path.name for path in expand_inputs([str(root / "a")])}
    with pytest.raises(ImageError, match="a broken link"):
        read_bytes(root / "a" / "slide7")
    (root / "c").symlink_to(root / "gone")
    with pytest.raises(BcdError, match="/c is a broken link: fix or remove it"):
        load(root)


def test_one_folder_cannot_be_two_classes(root: Path) -> None:
    (root / "c").symlink_to(root / "b")
    with pytest.raises(BcdError, match=f"class folder {root}/c is a folder that is searched under"):
        load(root)


def test_images_that_belong_to_no_class_are_named(root: Path) -> None:
    write_image(root / "loose.PNG", noise(7))
    write_image(root / ".thumbs" / "a.png", noise(8))
    (root / "README.md").write_text("about")
    catalog = load(root)
    assert catalog.counts() == {"a": 5, "b": 2}
    assert reasons(catalog) == {
        ".thumbs": "a hidden folder is not a class",
        "loose.PNG": "is beside the class folders",
    }


def test_images_beside_a_wrapping_folder_are_named(root: Path) -> None:
    write_image(root.parent / "cover.jpg", noise(9))
    catalog = load(root.parent)
    assert catalog.counts() == {"a": 5, "b": 2}
    where = str(root.parent / "cover.jpg")
    assert reasons(catalog) == {where: "is beside the class folders"}


def test_what_systems_leave_in_class_folders_is_named(root: Path) -> None:
    (root / "a" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (root / "a" / "._000.png").write_bytes(b"\0\5\x16\7")
    write_image(root / "b" / "UPPER.PNG", noise(4))
    catalog = load(root)
    assert catalog.counts() == {"a": 5, "b": 3}
    assert set(reasons(catalog)) == {"a/.DS_Store", "a/._000.png"}


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("x", "Benign", "benign "), "'Benign' and 'benign '"),
        (("x", "\u00e9", "e\u0301"), "one name"),
    ],
)
def test_two_spellings_of_a_class_are_an_error(
    names: tuple[str, ...], shown: str, tmp_path: Path
) -> None:
    with pytest.raises(BcdError, match=shown):
        load(write_classes(tmp_path / "folders", names))
    write_classes(tmp_path, ["f"], count=len(names))
    rows = "".join(f"f/{i:03d}.png,{name.strip()}\n" for i, name in enumerate(names))
    (tmp_path / "t.csv").write_text(f"path,class\n{rows}", encoding="utf-8")
    with pytest.raises(BcdError, match="give them one name"):
        load(tmp_path / "t.csv")


def test_a_class_that_is_not_utf_8_is_an_error(root: Path) -> None:
    (root / "b").rename(os.fsdecode(os.fsencode(root) + b"/b\xff"))
    with pytest.raises(BcdError, match=r"class 'b.*xff', which is not UTF-8") as error:
        load(root)
    str(error.value).encode()


def test_rows_of_a_csv_are_taken_once_or_refused(root: Path) -> None:
    def write(*rows: str) -> Path:
        (root / "t.csv").write_text("\n".join(["path,class", "b/000.png,y", *rows]) + "\n")
        return root / "t.csv"

    assert used(load(write("a\\000.png,x"))) == ["a/000.png", "b/000.png"]
    assert reasons(load(write("a/000.png,x", "a\\gone.png,x"))) == {
        "a\\gone.png": "cannot be read (No such file or directory)"
    }
    for again in ("b/000.png,y", "a/../b/000.png,x", f"{root}/b/000.png,y"):
        with pytest.raises(
            BcdError, match=f"lines 2 and 4 name the same file: remove one: {again[:-2]}"
        ):
            load(write("a/000.png,x", again))
    with pytest.raises(BcdError, match="line 3 has more cells than columns"):
        load(write("a/0,00.png,x"))
