"""Lists, order, pages, escaping, and what is said where an image is gone."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from pypdf import PdfReader

from bcd.evaluation.decision import LOW_CONFIDENCE
from bcd.serving.pages.arrange import PER_PAGE, Arrangement, arranged, next_waiting, shown
from bcd.serving.pages.cases import PER_LIST
from bcd.serving.pictures import Held
from bcd.serving.records.cases import UNIDENTIFIED, NewImage, Review
from bcd.serving.words import BRIEF_REASONS, REASONS
from tests.helpers.pages import Page
from tests.serving.making import IDENTITY, smear
from tests.serving.pages.filling import PAGE, Session, answer, image_of, recorded, unreadable
from tests.serving.running import Running

HTMX = {"HX-Request": "true"}
EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{ 137*139 }}{% raw %}"


@pytest.fixture(scope="module")
def staff(served: Running) -> Session:
    """Has every role."""
    return Session(served)


@pytest.fixture(scope="module")
def thousand(served: Running, staff: Session) -> str:
    """Path of a case of 1,000 images, of which every tenth waits for a review."""
    path = staff.open_case("thousand")
    doubt, drawn = ("low confidence",), smear(0)
    files = [
        (
            NewImage(f"smear {n}.png", drawn),
            answer(n, n % 3, 0.9 - n / 5000, doubt if n % 10 == 0 else ()),
        )
        for n in range(1000)
    ]
    served.services.records.add_images("ann", path.rsplit("/", 1)[-1], IDENTITY, files)
    return path


def test_a_thousand_images_come_in_pages(served: Running, staff: Session, thousand: str) -> None:
    seen: list[str] = []
    for number in range(1, 11):
        page = staff.get(f"{thousand}?page={number}").text
        assert 'loading="lazy"' in page
        seen += re.findall(r'id="image-(\w+)"', page)
    case = recorded(served, thousand)
    assert len(seen) == len(set(seen)) == 1000
    order = sorted(case.images, key=lambda image: -image.answer.doubt)
    doubts = {image.id: image.answer.doubt for image in case.images}
    assert [doubts[i] for i in seen] == [image.answer.doubt for image in order]
    waiting = staff.get(f"{thousand}?show=waiting").text
    assert waiting.count(BRIEF_REASONS[LOW_CONFIDENCE]) == case.waiting
    assert BRIEF_REASONS.keys() == REASONS.keys()
    assert waiting.count('class="card waits"') == waiting.count('<li class="card') == case.waiting
    refused = staff.post(f"{thousand}/sign", {"version": case.version})
    assert refused.status_code == 409 and f"and {case.waiting - 20} more" in refused.text


def test_htmx_gets_the_images_alone(staff: Session, thousand: str) -> None:
    part = staff.get(f"{thousand}?sort=number", headers=HTMX)
    assert "<html" not in part.text and part.text.count('<li class="card') == PER_PAGE
    assert part.headers["cache-control"] == "no-store"


def test_the_list_of_cases_is_paged_and_filtered(served: Running, staff: Session) -> None:
    labels = [staff.open_case(f"listed {number}") and f"listed {number}" for number in range(55)]
    first = staff.get("/cases").text
    older = re.findall(r'href="(/cases\?before=[^"]+)"', first)[0]
    second = staff.get(older.replace("&amp;", "&")).text
    found = re.findall(r">(listed \d+)<", first)
    assert len(re.findall("<tr>", first)) == PER_LIST + 1
    assert found + re.findall(r">(listed \d+)<", second) == labels[::-1]
    assert "There are no cases that are signed" in staff.get("/cases?status=signed").text
    assert staff.get("/cases?before=nan&status=x").status_code == 200


@pytest.mark.parametrize("how", ["doubt", "number", "class"])
def test_order_and_choice(how: str) -> None:
    images = [
        image_of(1, answer(1, 1, 0.9)), image_of(2, answer(2, 0, 0.5, ("low confidence",))),
        image_of(3, unreadable()), image_of(4, answer(4, 0, 0.6)),
        image_of(5, answer(5, 2, 0.9), Review("a", 1.0, UNIDENTIFIED, True, "x")),
    ]  # fmt: skip
    expected = {
        "doubt": [3, 2, 4, 1, 5], "number": [1, 2, 3, 4, 5], "class": [3, 2, 4, 1, 5],
    }  # fmt: skip
    found = arranged(images, Arrangement(how))
    assert [image.number for image in found] == expected[how]
    assert {image.number for image in arranged(images, Arrangement(how, "waiting"))} == {2, 3}
    after = next_waiting(images, Arrangement(how), images[4])
    assert after is not None and after.waits
    assert shown(images, Arrangement(how, "all", 99)).page == 1


def test_unknown_queries_are_the_default() -> None:
    assert Arrangement.asked("x'--", "<", -3) == Arrangement()
    assert Arrangement("number", "waiting", 2).query(page=1) == "?sort=number&show=waiting"


def attributes(text: str) -> set[str]:
    """Names of all attributes of a page."""
    found: set[str] = set()

    class Names(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.update(name for name, _ in attrs)

    Names().feed(text)
    return found


def test_nothing_typed_becomes_markup(served: Running, staff: Session) -> None:
    path = staff.open_case(EVIL)
    staff.upload(path, (EVIL, smear(0)), ("=" + EVIL, b"no image"))
    for image in recorded(served, path).images:
        data = {"finding": UNIDENTIFIED, "remark": EVIL}
        staff.post(f"{path}/images/{image.id}/review", data)
    here = f"{path}/images/{recorded(served, path).images[0].id}"
    pages = ["/cases", path, here, f"{path}/report"]
    texts = [staff.get(page).text for page in pages]
    texts.append(staff.post("/cases", {"label": EVIL * 9}).text)
    texts.append(staff.post(f"{here}/review", {"finding": EVIL, "remark": EVIL}).text)
    texts.append(staff.get(f"{path}?sort={EVIL}&show={EVIL}").text)
    texts.append(staff.get(f"{here}?view={EVIL}").text)
    for text in texts:
        read = Page(text)
        assert read.tags.count("script") == 2  # htmx and our own
        assert [name for name in attributes(text) if name.startswith("on") or name == "style"] == []
        assert "x" not in read.sources and str(137 * 139) not in read.text
    for text in texts[:-2]:
        assert "<script>alert(1)</script>" in Page(text).text  # shown as it was typed
    assert staff.get(f"{here}?view=evidence&target={EVIL}").text.count("<script>alert") == 0


def test_an_image_that_is_gone_is_said_plainly(served: Running, staff: Session) -> None:
    path = staff.open_case()
    staff.upload(path, ("a.png", smear(0)))
    image = f"{path}/images/{recorded(served, path).images[0].id}"
    assert "The image as it was uploaded" in staff.get(image).text
    path = staff.open_case()
    staff.upload(path, ("a.png", smear(1)))
    gone = recorded(served, path).images[0].id
    served.services.records.contents.forget([gone])
    image = f"{path}/images/{gone}"
    for view in ("image", "evidence", "cells"):
        text = staff.get(f"{image}?view={view}").text
        assert "did not keep this image" in text and f"/{view}.png" not in text
    assert staff.get(f"{image}/thumbnail.png").headers["location"] == "/static/gone.svg"
    assert staff.get("/static/gone.svg").headers["content-type"].startswith("image/svg+xml")
    assert staff.get(f"{image}/image.png").status_code == 404
    pdf = staff.get(f"{path}/report.pdf")
    assert pdf.content.startswith(b"%PDF")


def test_equal_files_name_the_first(served: Running, staff: Session) -> None:
    path = staff.open_case()
    staff.upload(path, ("a.png", smear(0)), ("b.png", smear(1)), ("again.png", smear(0)))
    ids = [image.id for image in recorded(served, path).images]
    pdf = PdfReader(io.BytesIO(staff.get(f"{path}/report.pdf").content))
    texts = [staff.get(page).text for page in (path, f"{path}/report", f"{path}/images/{ids[2]}")]
    for text in (*texts, "".join(page.extract_text() for page in pdf.pages)):
        assert text.count("same file as image 1") == 1
    assert "same file" not in staff.get(f"{path}/images/{ids[0]}").text


def test_downloads_are_files_with_plain_names(served: Running, staff: Session) -> None:
    path = staff.open_case('../../x"; filename=evil.exe')
    case_id = path.rsplit("/", 1)[-1]
    for ending, kind in (("csv", "text/csv; charset=utf-8"), ("pdf", "application/pdf")):
        got = staff.get(f"{path}/report.{ending}")
        name = f'attachment; filename="case-{case_id}.{ending}"'
        assert got.headers["content-disposition"] == name
        assert got.headers["content-type"] == kind
        assert got.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/cases/x", "/cases/x/report.pdf", "/cases/x/images/y"])
def test_what_is_not_there_is_a_404(staff: Session, path: str) -> None:
    assert staff.get(path, headers=PAGE).status_code == 404


def test_held_values_are_bounded_and_age() -> None:
    held: Held[str] = Held(megabytes=3e-6, seconds=60)
    for name in "abcd":
        held.put("c", name, name, 1)
        held.get("c", "b")  # used again and again
    assert [held.get("c", name) for name in "abcd"] == [None, "b", "c", "d"]
    held.put("e", "large", "x", 10)
    assert held.get("e", "large") is None and held.get("c", "d") is None
    old: Held[Any] = Held(seconds=-1)
    old.put("c", "a", 1, 1)
    assert old.get("c", "a") is None
    held.put("c", "a", "a", 1)
    held.forget("c")
    assert held.get("c", "a") is None
