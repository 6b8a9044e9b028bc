from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bcd.config.compose import with_defaults
from bcd.config.schema import DataConfig
from bcd.data.catalog import Catalog
from bcd.data.layouts import CANONICAL, canonical_name, list_entries, order_classes
from bcd.data.load import load_catalog
from bcd.errors import BcdError
from tests.helpers.noise import FOUR, noise, write_classes, write_image

BRACKETS = ("Benign", "[Malignant] early Pre-B", "[Malignant] Pre-B", "[Malignant] Pro-B")


def load(root: Path, variant: str = "original") -> Catalog:
    return load_catalog(with_defaults(DataConfig, root=str(root), variant=variant))


def classes_by_folder(catalog: Catalog) -> dict[str, str]:
    return {p.path.split("/")[0]: catalog.classes[p.label] for p in catalog.images}


@pytest.mark.parametrize("wrapping", ["", "Blood cell Cancer [ALL]", "a/b c"])
def test_bracketed_folders_are_the_four_classes(wrapping: str, tmp_path: Path) -> None:
    write_classes(tmp_path / wrapping, BRACKETS)
    catalog = load(tmp_path)
    assert catalog.classes == CANONICAL
    assert classes_by_folder(catalog) == dict(zip(BRACKETS, CANONICAL, strict=True))
    assert catalog.benign == CANONICAL.index("Benign")
    assert catalog.root == tmp_path / wrapping
    assert load(tmp_path / wrapping) == catalog


@pytest.mark.parametrize("wrapping", ["", "set"])
def test_original_and_segmented_side_by_side(wrapping: str, tmp_path: Path) -> None:
    base = tmp_path / wrapping
    write_classes(base / "Original", FOUR, count=3)
    alone = load(tmp_path)
    write_classes(base / "Segmented", FOUR, count=2)
    assert load(tmp_path) == alone
    assert classes_by_folder(alone) == dict(zip(FOUR, CANONICAL, strict=True))
    assert alone.counts() == dict.fromkeys(CANONICAL, 3)
    segmented = load(tmp_path, "segmented")
    assert segmented.root == base / "Segmented"
    assert segmented.counts() == dict.fromkeys(CANONICAL, 2)


def test_both_published_layouts_give_the_same_classes_and_labels(tmp_path: Path) -> None:
    one = load(write_classes(tmp_path / "one", BRACKETS).parent / "one")
    write_classes(tmp_path / "two" / "Original", FOUR)
    two = load(tmp_path / "two")
    assert one.classes == two.classes == CANONICAL
    assert {p.sha256: p.label for p in one.images} == {p.sha256: p.label for p in two.images}
    assert one.fingerprint() == two.fingerprint()


@pytest.mark.parametrize(
    ("there", "wanted"), [("Original", "segmented"), ("Segmented", "original")]
)
def test_a_missing_variant_is_an_error(there: str, wanted: str, tmp_path: Path) -> None:
    write_classes(tmp_path / there)
    with pytest.raises(BcdError, match=f"no folder '{wanted.title()}'.*data.variant"):
        load(tmp_path, wanted)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Hematogones", "Benign"),
        ("EARLY_PRE_B", "Early Pre-B"),
        ("early", "Early Pre-B"),
        ("WBC-Malignant-Early", "Early Pre-B"),
        ("[Malignant] Pre-B", "Pre-B"),
        ("pro b", "Pro-B"),
        ("basophil", None),
        ("prebiotic", None),
        ("", None),
    ],
)
def test_folder_names_that_stand_for_a_class(folder: str, name: str | None) -> None:
    assert canonical_name(folder) == name


def test_other_folders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = ("zebra [1]", "Ärzte", "b c", "Amöbe")
    catalog = load(write_classes(tmp_path, names))
    assert catalog.classes == tuple(sorted(names))
    assert classes_by_folder(catalog) == {name: name for name in names}
    assert catalog.benign is None


def test_known_names_stay_as_they_are_beside_unknown_or_alike_ones(tmp_path: Path) -> None:
    for names in (("Early", "Basophil"), ("Early", "early pre-B")):
        root = write_classes(tmp_path / names[1], names)
        assert load(root).classes == tuple(sorted(names))


def test_classes_are_ordered_alike_from_any_order_of_names() -> None:
    assert order_classes(reversed(CANONICAL)) == CANONICAL
    assert order_classes(["Pro-B", "Benign"]) == ("Benign", "Pro-B")
    assert order_classes(["Pro-B", "Basophil"]) == ("Basophil", "Pro-B")


def test_images_in_folders_below_a_class_folder_belong_to_the_class(tmp_path: Path) -> None:
    for slide in ("slide1", "slide2"):
        for name in ("Benign", "Pro"):
            write_classes(tmp_path / name, [slide], count=2)
    assert load(tmp_path).counts() == {"Benign": 4, "Pro-B": 4}


def test_the_slides_of_a_single_known_class_are_not_taken_for_classes(tmp_path: Path) -> None:
    write_classes(tmp_path / "Benign", ["slide1", "slide2"])
    with pytest.raises(BcdError, match="one class only"):
        load(tmp_path)


def test_hidden_folders_are_not_classes(tmp_path: Path) -> None:
    (write_classes(tmp_path, ("a", "b")) / ".complete").mkdir()
    assert load(tmp_path).classes == ("a", "b")


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "valid", "Test")])
def test_train_and_test_folders_are_not_taken_for_classes(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    write_classes(tmp_path, names)
    with pytest.raises(BcdError, match=r"not into classes.*split=csv"):
        load(tmp_path)


def test_roots_without_classes_are_errors(tmp_path: Path) -> None:
    with pytest.raises(BcdError, match="no class folders"):
        load(tmp_path)
    write_classes(tmp_path, ["only"])
    with pytest.raises(BcdError, match=r"one class only \('only'\)"):
        load(tmp_path)
    (tmp_path / "hollow" / "deeper").mkdir(parents=True)
    (tmp_path / "hollow" / "notes.txt").write_text("nothing yet")
    with pytest.raises(BcdError, match="hollow holds no images"):
        load(tmp_path)


def write_table(file: Path, *lines: str, bom: bool = False) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8-sig" if bom else "utf-8")
    return file


@pytest.mark.parametrize("bom", [False, True])
def test_a_csv_names_paths_classes_groups_and_subsets(bom: bool, tmp_path: Path) -> None:
    write_classes(tmp_path / "files", ("x", "y"), count=2)
    elsewhere = write_classes(tmp_path / "elsewhere", ["z"], count=1) / "z" / "000.png"
    table = write_table(
        tmp_path / "files" / "list.csv",
        "path,class,group,split",
        "x/000.png,Early,s1,Train",
        "x/001.png, Early ,s2 ,test",
        "y/000.png,benign,s1,",
        f"{elsewhere},benign,,val",
        bom=bom,
    )
    catalog = load(table)
    assert catalog.root == table.parent
    assert catalog.classes == ("Benign", "Early Pre-B")
    told = {p.path: (catalog.classes[p.label], p.group, p.subset) for p in catalog.images}
    assert told == {
        "x/000.png": ("Early Pre-B", "s1", "train"),
        "x/001.png": ("Early Pre-B", "s2", "test"),
        "y/000.png": ("Benign", "s1", ""),
        elsewhere.as_posix(): ("Benign", "", "val"),
    }


def test_a_csv_with_unknown_classes_keeps_their_names(tmp_path: Path) -> None:
    write_classes(tmp_path, ("x", "y"), count=1)
    table = write_table(tmp_path / "t.csv", "path,class", "x/000.png,Early", "y/000.png,Other")
    assert load(table).classes == ("Early", "Other")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("path,label", "x/000.png,a"), "lacks the column class"),
        (("file,label", "x/000.png,a"), "lacks the columns class and path"),
        (("path,class",), "has no rows"),
        (("path,class", "x/000.png,a", "x/001.png, "), "line 3 has no class"),
        (("path,class", "x/000.png"), "line 2 has no class"),
        (("class,path", "a,x/000.png", "b,"), "line 3 has no path"),
        (("class,path", "a"), "line 2 has no path"),
    ],
)
def test_malformed_csvs_are_errors(lines: tuple[str, ...], message: str, tmp_path: Path) -> None:
    write_classes(tmp_path, ["x"])
    with pytest.raises(BcdError, match=message):
        load(write_table(tmp_path / "t.csv", *lines))


def test_files_that_are_no_csv_are_errors(tmp_path: Path) -> None:
    image = next(write_classes(tmp_path, ["x"]).rglob("*.png"))
    latin = tmp_path / "latin.csv"
    latin.write_bytes("path,class\nä.png,a\n".encode("latin-1"))
    for file in (image, latin):
        with pytest.raises(BcdError, match="CSV in UTF-8") as error:
            load(file)
        assert str(file) in str(error.value)


def test_files_of_a_csv_that_do_not_exist_are_rejected(tmp_path: Path) -> None:
    write_classes(tmp_path, ("x", "y"), count=1)
    rows = ("x/000.png,a", "y/000.png,b", "y/gone.png,b")
    catalog = load(write_table(tmp_path / "t.csv", "path,class", *rows))
    assert catalog.counts() == {"a": 1, "b": 1}
    (rejected,) = catalog.rejected
    assert (rejected.path, rejected.class_name) == ("y/gone.png", "b")
    assert "cannot be read" in rejected.reason


def test_a_missing_csv_is_an_error_and_nothing_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(BcdError, match=r"gone\.csv does not exist"):
        load(tmp_path / "gone.csv")
    assert not list(tmp_path.iterdir())


def test_entries_come_sorted_by_path_with_every_file_once(tmp_path: Path) -> None:
    write_classes(tmp_path, ("b", "a"), count=3)
    write_image(tmp_path / "a" / "A.bmp", noise(seed=9))
    base, entries = list_entries(tmp_path, "original")
    paths = [entry.path.relative_to(base).as_posix() for entry in entries]
    assert paths == sorted(paths)
    assert Counter(entry.class_name for entry in entries) == {"a": 4, "b": 3}
