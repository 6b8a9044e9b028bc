"""CSV and PDF of a case."""

from __future__ import annotations

import csv
import io
import re
import time
from dataclasses import replace
from typing import cast

import pytest
from pypdf import PdfReader
from pypdf.generic import DictionaryObject

from bcd.config.disclaimer import DISCLAIMER
from bcd.evaluation.predictions import columns as prediction_columns
from bcd.interop.settings import site_settings
from bcd.serving import words
from bcd.serving.records.cases import ERASED, SIGNED, UNIDENTIFIED, Case, Review, Signature
from bcd.serving.reports.pdf import case_pdf
from bcd.serving.reports.table import case_csv, columns
from tests.serving.making import IDENTITY, smear
from tests.serving.pages.filling import answer, case_of, image_of, unreadable

HEAD = f"118:{'b' * 64}"
DOUBT = ("low confidence",)
FORMULAS = (
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1+1", "\uff0b1", "\uff0d1",
    "\uff20A1", "\ufe661", "\u200b=1", "\ufeff=1", "\u00a0=1", '"=1', " =1", "\x00=1",
)  # fmt: skip


def rows(case: Case) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(case_csv(case, HEAD))))


def pages(document: bytes) -> list[str]:
    return [page.extract_text() for page in PdfReader(io.BytesIO(document)).pages]


def test_csv_says_what_the_case_says() -> None:
    override = Review("bob", 1.8e9 + 60, UNIDENTIFIED, True, "crushed, no nucleus")
    case = case_of([
        image_of(1), image_of(2, answer(2, 1, 0.4, DOUBT), override),
        image_of(3, answer(3, 2, 0.5, DOUBT)), image_of(4, unreadable()),
    ])  # fmt: skip
    sure, changed, waits, broken = rows(case)
    assert (sure["prediction"], sure["finding"]) == (IDENTITY.classes[0],) * 2
    assert float(sure["probability"]) == pytest.approx(0.91)
    assert sum(float(sure[f"p_{name}"]) for name in IDENTITY.classes) == pytest.approx(1)
    assert (changed["finding"], changed["overrides"]) == (UNIDENTIFIED, "true")
    assert (changed["remark"], changed["reviewed_by"]) == ("crushed, no nucleus", "bob")
    assert changed["reviewed_at"] == "2027-01-15T08:01:00Z"
    assert (waits["finding"], waits["refer"], waits["reason"]) == ("", "true", DOUBT[0])
    assert (broken["prediction"], broken["probability"], broken["error"]) == (
        "", "", "not an image"
    )  # fmt: skip
    assert {row["disclaimer"] for row in rows(case)} == {DISCLAIMER}
    assert {row["model_sha256"] for row in rows(case)} == {IDENTITY.sha256}


def test_every_report_has_the_head_and_who_signed() -> None:
    signatures = tuple(Signature(name, 1.8e9 + 120, f"9:{'a' * 64}") for name in ("ann", "bob"))
    for count, missing in ((0, "2 signatures"), (1, "1 signature"), (2, "")):
        case = case_of([image_of(1), image_of(2)], signatures_needed=2,
                       signatures=signatures[:count])  # fmt: skip
        names = "; ".join(signature.by for signature in case.signatures)
        times = "; ".join(["2027-01-15T08:02:00Z"] * count)
        told = {(row["head"], row["signed_by"], row["signed_at"]) for row in rows(case)}
        assert told == {(HEAD, names, times)}
        text = "".join(pages(case_pdf(case, None, {}, HEAD))).replace("\n", "")
        assert HEAD in text and (f"Missing{missing}" in text if missing else "Missing" not in text)


def test_a_case_says_which_of_its_images_had_settings_of_the_site() -> None:
    plain, own = answer(), replace(answer(), threshold=0.3)
    assert words.case_settings(case_of([image_of(1, plain), image_of(2, plain)])) == []
    only = case_of([image_of(1, own), image_of(2, unreadable())])
    assert words.case_settings(only) == [site_settings("", 0.3)]
    given = [own, own, plain, own, replace(plain, profile="7" * 64)]
    mixed = case_of([image_of(number, one) for number, one in enumerate(given, 1)])
    said = [f"Images 1 to 2, 4: {site_settings('', 0.3)}"]
    said.append(f"Image 5: {site_settings('7' * 64, None)}")
    assert words.case_settings(mixed) == said
    text = "".join(pages(case_pdf(mixed, None, {}, HEAD))).replace("\n", " ")
    assert "Images 1 to 2, 4: Called malignant from a probability of 0.3" in text


def test_columns_that_mean_the_same_have_the_names_of_predictions() -> None:
    names = set(rows(case_of([image_of()]))[0])
    assert set(prediction_columns(IDENTITY.classes)) - names == {"label"}  # the true class


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula(text: str) -> None:
    remark = Review(text, 1.8e9, UNIDENTIFIED, True, text)
    image = image_of(1, answer(), remark)
    object.__setattr__(image, "name", text)
    case = case_of([image], label=text, classes=(text, *IDENTITY.classes[1:]), model_name=text)
    text_of = io.StringIO(case_csv(case, HEAD), newline="")
    cells = [cell for row in csv.reader(text_of) for cell in row]
    assert sum(cell[0:1] == "'" and cell.replace("'", "") == text for cell in cells) >= 5
    assert not [cell for cell in cells if cell.startswith(FORMULAS)]


@pytest.mark.parametrize("separator", [";", "\t", "\n", "\r\n", "|", ";\u200b"])
def test_no_cell_is_a_formula_where_cells_are_separated_otherwise(separator: str) -> None:
    typed = f'a{separator}=1+1{separator}-2{separator}"@A1'
    case = case_of([image_of()], label=typed)
    text = case_csv(case, HEAD)
    cells = [each.lstrip('"\u200b') for each in re.split(r"[;\t\r\n|]", text)]
    assert not [each for each in cells if each.startswith(("=", "-", "@"))]
    assert sum(each.startswith("'") for each in cells) >= 3
    (row,) = rows(case)
    assert row["case"].replace("'", "") == typed


def test_every_cell_is_quoted_and_other_text_is_as_typed() -> None:
    typed = "2-3 cells, a=b; mean 1-2 (e-mail a@b)"
    text = case_csv(case_of([image_of()], label=typed), HEAD)
    assert all(line.startswith('"') and line.endswith('"') for line in text.splitlines())
    assert len(text.splitlines()[0].split('","')) == len(columns(IDENTITY.classes))
    assert f'"{typed}","","open"' in text


def test_pdf_says_what_the_case_says() -> None:
    signed = Signature("carol", 1.8e9 + 120, f"9:{'a' * 64}")
    override = Review("bob", 1.8e9 + 60, UNIDENTIFIED, True, "crushed")
    images = [image_of(1), image_of(2, answer(2, 1, 0.4, DOUBT), override)]
    case = case_of(images, status=SIGNED, signatures=(signed,))
    document = case_pdf(case, IDENTITY, {"i1": smear(1)}, HEAD)
    text = "\n".join(pages(document))
    for said in (
        "S-17", IDENTITY.name, f"bcd {IDENTITY.version}", IDENTITY.sha256, "carol",
        "2027-01-15 08:02 UTC", "2, 1 referred, 1 reviewed, 0 waiting", UNIDENTIFIED, "crushed",
        "overridden by bob", "not reviewed", "not held", "smear 2.png",
    ):  # fmt: skip
        assert said in text
    assert signed.chain in text.replace("\n", "") and "Missing" not in text
    assert "NOT SIGNED" not in text
    reader = PdfReader(io.BytesIO(document))
    assert reader.metadata is not None and reader.metadata.title == "Case S-17"
    assert reader.metadata.subject == DISCLAIMER
    assert str(cast(DictionaryObject, reader.trailer["/Root"])["/Lang"]) == "en"
    assert [len(page.images) for page in reader.pages] == [1]


def test_every_page_says_that_it_is_no_diagnosis_and_not_signed() -> None:
    waits = answer(1, 1, 0.4, DOUBT)
    texts = pages(case_pdf(case_of([image_of(n, waits) for n in range(1, 60)]), None, {}, HEAD))
    assert len(texts) > 2
    for number, text in enumerate(texts, 1):
        assert DISCLAIMER in text and "NOT SIGNED" in text
        assert f"page {number} of {len(texts)}" in text
    assert "waits for a review" in texts[0] and "59 waiting" in texts[0]


def test_characters_that_cannot_be_printed_are_named_and_markup_is_text() -> None:
    image = image_of(1, answer(), Review("bob", 1.8e9, UNIDENTIFIED, True, "a <b>b</b> & <img>"))
    text = "\n".join(
        pages(
            case_pdf(case_of([image], label="É ж 中 \u0646 \u05d0 \U0001f600 <i>"), None, {}, HEAD)
        )
    )
    assert "É ж [U+4E2D] [U+0646] [U+05D0] [U+1F600] <i>" in text
    assert "a <b>b</b> & <img>" in text


def test_text_longer_than_a_page_is_printed_whole() -> None:
    remark = " ".join(f"w{number}" for number in range(400)) + "\n" * 50 + "中" * 300
    image = image_of(1, answer(), Review("bob", 1.8e9, UNIDENTIFIED, True, remark))
    object.__setattr__(image, "name", "W" * 255)
    texts = pages(case_pdf(case_of([image], label="L" * 200), None, {}, HEAD))
    assert len(texts) > 1
    bands = (DISCLAIMER, "NOT SIGNED", "page ", "Case L")  # between two parts of a paragraph
    lines = [line for text in texts for line in text.splitlines() if not line.startswith(bands)]
    whole = "".join("".join(lines).split())
    assert "".join(f"w{number}" for number in range(400)) in whole
    assert whole.count("[U+4E2D]") == 300
    assert "W" * 255 in whole


def test_an_erased_case_and_an_empty_one_have_a_report() -> None:
    erased = image_of()
    object.__setattr__(erased, "name", "")
    text = "\n".join(pages(case_pdf(case_of([erased], status=ERASED, label=""), None, {}, HEAD)))
    assert "(name erased)" in text and "Case c1" in text and erased.answer.sha256[:16] in text
    assert "There are none." in pages(case_pdf(case_of(), None, {}, HEAD))[0]


def test_a_thousand_images_make_one_document() -> None:
    images = [image_of(number, answer(number)) for number in range(1, 1001)]
    drawn, begun = smear(3), time.process_time()
    document = case_pdf(case_of(images), IDENTITY, {image.id: drawn for image in images}, HEAD)
    assert time.process_time() - begun < 30  # 2.7 s; quadratic layout takes minutes
    reader = PdfReader(io.BytesIO(document))
    last = reader.pages[-1].extract_text()
    assert f"page {len(reader.pages)} of {len(reader.pages)}" in last
    assert "smear 1000.png" in last
