"""Class names of other sites, and the classes of the model that they mean."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import pytest

from bcd.config.compose import with_defaults
from bcd.config.schema import DataConfig
from bcd.data.class_map import MALIGNANT, ClassMap
from bcd.data.load import load_catalog
from bcd.errors import BcdError, ConfigError
from tests.helpers.noise import write_classes

CLASSES = ("Benign", "Early Pre-B", "Pre-B", "Pro-B")
ROOT = Path("site")


def resolve(
    given: Mapping[str, str | None] | str,
    *names: str,
    classes: tuple[str, ...] = CLASSES,
    benign: int | None = 0,
) -> dict[str, str | None]:
    return ClassMap(given).resolve(names, classes, benign, ROOT)


def test_names_mean_a_class_benign_malignant_or_nothing() -> None:
    given = {"healthy": "benign", "blast": "Malignant", "pre b": "Pre-B", "debris": None}
    found = resolve(given, "healthy", "blast", "pre b", "debris")
    assert found == {"healthy": "Benign", "blast": MALIGNANT, "pre b": "Pre-B", "debris": None}


def test_names_of_the_model_need_no_entry_and_can_have_another_meaning() -> None:
    assert resolve({}, "Benign", "Pre-B") == {"Benign": "Benign", "Pre-B": "Pre-B"}
    assert resolve({"Benign": None}, "Benign", "Pre-B") == {"Benign": None, "Pre-B": "Pre-B"}


def test_a_single_word_is_the_class_of_every_name() -> None:
    assert resolve("benign", "basophil", "platelet") == {"basophil": "Benign", "platelet": "Benign"}


def test_case_spacing_and_published_spellings_of_names_do_not_matter() -> None:
    assert resolve({"HEALTHY  donors": "benign"}, "Healthy donors") == {"Healthy donors": "Benign"}
    assert resolve({"[Malignant] early": "pro"}, "Early Pre-B") == {"Early Pre-B": "Pro-B"}


def test_of_two_classes_malignant_is_the_other_one() -> None:
    two = ("leukemia", "normal")
    assert resolve({"a": "malignant"}, "a", classes=two, benign=1) == {"a": "leukemia"}


def test_a_class_called_malignant_is_that_class() -> None:
    three = ("benign", "malignant", "unsure")
    assert resolve({"a": "malignant"}, "a", classes=three) == {"a": "malignant"}


@pytest.mark.parametrize(
    ("given", "names", "benign", "part"),
    [
        (
            {"helthy": "benign"},
            ("healthy",),
            0,
            "no class 'helthy'; its classes are healthy; did you",
        ),
        ({"a": "bening"}, ("a",), 0, "'bening', which is none of .*did you mean 'benign'"),
        ({"a": "benign"}, ("a",), None, "no benign class"),
        ({"a": "malignant"}, ("a",), None, "no benign class"),
        ({"a": "benign", "A": None}, ("a",), 0, "'a' twice"),
        ({"a": "benign"}, ("a", "b", "c"), 0, r"has the classes 'b' and 'c'.*'\{b: \?, c: \?\}'"),
        ({}, ("b",), None, r"the class 'b'.*data\.map='\{b: \?\}', with one of these"),
        ({}, ("[x], a: b",), 0, r"'\{\\\[x\\\]\\, a\\: b: \?\}', with benign, malignant, one of"),
        ({"b": "?"}, ("b",), 0, r"'b' is '\?', which is none of"),
        ({"a": None, "b": None}, ("a", "b"), 0, "leaves out every class"),
    ],
)
def test_what_cannot_be_understood_is_an_error(
    given: dict[str, str | None], names: tuple[str, ...], benign: int | None, part: str
) -> None:
    with pytest.raises((BcdError, ConfigError), match=part):
        resolve(given, *names, benign=benign)


def test_a_map_may_name_absent_classes_where_that_is_asked_for() -> None:
    lenient = ClassMap({"healthy": "benign", "blast": "malignant"}, strict=False)
    assert lenient.resolve(["healthy"], CLASSES, 0, ROOT) == {"healthy": "Benign"}


def test_the_catalog_has_the_models_classes_and_malignant_last(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "in", {"healthy": 2, "blast": 3, "Pro-B": 1, "debris": 4})
    given = {"healthy": "benign", "blast": "malignant", "debris": None}
    catalog = load_catalog(with_defaults(DataConfig, root=str(root)), CLASSES, (), ClassMap(given))
    assert catalog.classes == (*CLASSES, MALIGNANT)
    assert catalog.counts() == {"Benign": 2, "Early Pre-B": 0, "Pre-B": 0, "Pro-B": 1, MALIGNANT: 3}
    assert catalog.benign == 0
    assert catalog.rejected == ()


def test_a_csv_may_name_the_site_of_each_image(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "in", {"healthy": 2, "blast": 2})
    rows = [
        [f"in/{path.relative_to(root).as_posix()}", path.parent.name, site, f"slide{number}"]
        for number, (path, site) in enumerate(zip(sorted(root.rglob("*.png")), "abba", strict=True))
    ]
    file = tmp_path / "sites.csv"

    def write(cells: list[list[str]]) -> None:
        with file.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([["path", "class", "site", "group"], *cells])

    write(rows)
    cfg = with_defaults(DataConfig, root=str(file))
    by_site = load_catalog(cfg).by_site()
    groups = {site: [image.group for image in one.images] for site, one in by_site.items()}
    assert groups == {"a": ["slide0", "slide3"], "b": ["slide1", "slide2"]}
    write([rows[0], [*rows[1][:2], "", "slide1"]])
    with pytest.raises(BcdError, match="line 3 has no site"):
        load_catalog(cfg)
