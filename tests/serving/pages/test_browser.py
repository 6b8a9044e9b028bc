"""The pages in Chromium: a case from the login to the report, by mouse and by keyboard alone."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from pypdf import PdfReader

from bcd.config.disclaimer import DISCLAIMER
from bcd.evaluation.decision import OOD
from bcd.serving.records.cases import SIGNED, UNIDENTIFIED
from bcd.serving.words import BRIEF_REASONS
from bench.serve_screenshots import PICTURES, take_pictures
from tests.helpers.pages import (
    BROWSER,
    check_accessible,
    check_contrast,
    check_images,
    check_width,
)
from tests.serving.pages.browsing import DROP, SMALL, check_documents, tab_to, visit
from tests.serving.pages.filling import recorded
from tests.serving.running import ALL, PASSWORD, Running

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")

TABLET, NARROW = (820, 1180), (320, 640)


@pytest.fixture(scope="module")
def case(served: Running, images: list[Path]) -> str:
    """Path of a case with all marks there are."""
    path: str = served.all.post("/cases", data={"label": "S-2027-01"}).headers["location"]
    files = [*((file.name, file.read_bytes()) for file in images), ("notes.txt", b"no image")]
    served.all.post(f"{path}/images", files=[("images", file) for file in files])
    return path


def test_a_case_from_drop_to_report(
    served: Running, url: str, browser: Browser, images: list[Path]
) -> None:
    with visit(browser, url, refused=1) as seen:
        tab = seen.tab
        tab.get_by_label("New case").fill("S-2027-02")
        tab.get_by_role("button", name="Open case").click()
        tab.wait_for_url("**/cases/*")
        files = [(f.name, base64.b64encode(f.read_bytes()).decode()) for f in images]
        tab.evaluate(DROP, files)
        tab.get_by_text("Done: 4 of 4 uploaded, 1 to review.").wait_for()
        path = tab.url.removeprefix(url)
        tab.get_by_role("heading", name="4 images, 1 to review").wait_for()
        case = recorded(served, path)
        stripes = next(image for image in case.images if image.name == "x.png")
        assert [image for image in case.images if image.waits] == [stripes]
        check_images(tab)
        first = tab.locator(".card").first  # the most doubtful
        assert "x.png" in first.inner_text() and "out of distribution" in first.inner_text()
        assert BRIEF_REASONS[OOD] in first.inner_text()

        tab.get_by_label("Your password").fill(PASSWORD)
        tab.get_by_role("button", name="Sign the case").click()
        alert = tab.get_by_role("alert")
        assert "1 of 4 images were referred" in alert.inner_text()
        assert recorded(served, path).status != SIGNED
        check_accessible(tab)

        alert.get_by_role("link", name="x.png").click()
        for name, source in (("Evidence", "evidence"), ("White cells", "cells")):
            tab.get_by_role("link", name=name, exact=True).click()
            shown = tab.locator(f"#view img[src*='{source}.png']")
            shown.wait_for()
            check_images(tab)
            assert tab.evaluate("document.activeElement.id").startswith("view-")
        tab.get_by_label(UNIDENTIFIED).check()
        tab.get_by_role("button", name="Record the review").click()
        assert tab.locator("#remark:invalid").count() == 1  # an override needs a remark
        tab.get_by_label("Remark").fill("stripes, no smear")
        tab.get_by_role("button", name="Record the review").click()
        tab.wait_for_url("**#sign")

        tab.get_by_label("Your password").fill(PASSWORD)
        tab.get_by_role("button", name="Sign the case").click()
        tab.get_by_text("1 of 1 signature.").wait_for()
        check_documents(tab, served, path)


def test_a_case_by_keyboard_alone(
    served: Running, url: str, browser: Browser, images: list[Path]
) -> None:
    with visit(browser, url) as seen:  # the login is by keyboard too
        tab, keys = seen.tab, seen.tab.keyboard
        tab.on("filechooser", lambda _: None)  # so that the browser tells of it in time
        tab_to(tab, "#label")
        keys.type("S-2027-03")
        keys.press("Enter")
        tab.wait_for_url("**/cases/*")
        tab_to(tab, "#files")
        with tab.expect_file_chooser() as chooser:
            keys.press("Space")
        chooser.value.set_files(images)
        tab.get_by_text("Done: 4 of 4 uploaded, 1 to review.").wait_for()
        path = tab.url.removeprefix(url)
        tab.get_by_role("heading", name="4 images, 1 to review").wait_for()
        tab_to(tab, "#sort-number")
        keys.press("Enter")
        tab.locator("#sort-number[aria-current]").wait_for()
        assert tab.evaluate("document.activeElement.id") == "sort-number"
        tab.evaluate("history.back()")  # the page with its scripts, not a part of it
        tab.locator("#sort-doubt[aria-current]").wait_for()
        tab.get_by_text("or drop them here").wait_for()
        tab.locator("#sort-number").focus()
        keys.press("Enter")
        tab.locator("#sort-number[aria-current]").wait_for()
        tab_to(tab, ".picture")
        keys.press("Enter")
        tab.wait_for_url("**/images/*")
        for key, number in (("j", 2), ("j", 3), ("ArrowRight", 4), ("k", 3), ("j", 4)):
            keys.press(key)
            tab.get_by_role("heading", name=f"Image {number} of 4").wait_for()
            tab.locator("#help-open").wait_for()  # scripts have started
        keys.press("w")
        tab.locator("#view img[src*='cells.png']").wait_for()
        heard = tab.locator("#view [role=status]", has_text="White cells")
        heard.wait_for(state="attached")
        keys.press("e")
        tab.locator("#view img[src*='evidence.png']").wait_for()
        keys.press("?")
        assert tab.get_by_role("dialog").is_visible()
        keys.press("j")  # no shortcut while the dialog is open
        keys.press("Escape")
        assert not tab.locator("#help").is_visible()
        tab.get_by_role("heading", name="Image 4 of 4").wait_for()
        keys.press("5")
        assert tab.evaluate("document.activeElement.value") == UNIDENTIFIED
        keys.press("r")
        keys.type("jk12? no smear")  # no shortcuts while typing
        tab_to(tab, "#review-form button.main")
        keys.press("Enter")
        tab.wait_for_url("**#sign")
        [review] = [image.review for image in recorded(served, path).images if image.review]
        assert (review.remark, review.finding) == ("jk12? no smear", UNIDENTIFIED)
        tab_to(tab, "#password")
        keys.type(PASSWORD)
        keys.press("Enter")
        tab.get_by_text("1 of 1 signature.").wait_for()
        assert recorded(served, path).status == SIGNED
        tab_to(tab, "a[href$='report.pdf']", backwards=True)
        with tab.expect_download() as waiting:
            keys.press("Enter")
        assert Path(waiting.value.path()).read_bytes().startswith(b"%PDF")


def test_every_page_is_accessible(served: Running, url: str, browser: Browser, case: str) -> None:
    stripes = recorded(served, case).images[3]
    image = f"{case}/images/{stripes.id}"
    with visit(browser, url, user="") as seen:
        seen.tab.goto("/login")
        check_accessible(seen.tab)
    with visit(browser, url, refused=1) as seen:
        tab = seen.tab
        for page in ("/cases", case, image, f"{image}?view=evidence", f"{case}/report"):
            tab.goto(page)
            check_accessible(tab)
            tab.emulate_media(color_scheme="dark")
            check_contrast(tab)
            tab.emulate_media(color_scheme="light")
            assert tab.get_by_text(DISCLAIMER).first.is_visible()
        tab.goto(image)
        tab.keyboard.press("?")
        check_accessible(tab)
        tab.goto("/cases/none")  # 404
        check_accessible(tab)


@pytest.mark.parametrize("size", [NARROW, TABLET])
def test_small_screens_and_fingers(
    served: Running, url: str, browser: Browser, case: str, size: tuple[int, int]
) -> None:
    image = recorded(served, case).images[0]
    with visit(browser, url, size, touch=True) as seen:
        for page in ("/cases", case, f"{case}/images/{image.id}", f"{case}/report"):
            seen.tab.goto(page)
            check_width(seen.tab)
            assert seen.tab.evaluate(SMALL) == [], page


def test_the_report_prints_without_controls(url: str, browser: Browser, case: str) -> None:
    with visit(browser, url, scheme="dark") as seen:
        tab = seen.tab
        tab.goto(f"{case}/report")
        check_images(tab)
        tab.evaluate("() => { window.printed = 0; window.print = () => { window.printed += 1; }; }")
        tab.get_by_role("button", name="Print").click()
        tab.wait_for_function("window.printed")
        assert tab.evaluate("window.printed") == 1
        tab.emulate_media(media="print")
        assert not tab.locator("nav, button, .skip").filter(visible=True).count()
        assert tab.get_by_text(DISCLAIMER).first.is_visible()
        assert tab.get_by_text("NOT SIGNED").is_visible()
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)"
        )
        printed = PdfReader(io.BytesIO(tab.pdf(height="8cm", prefer_css_page_size=True)))
        texts = [page.extract_text() for page in printed.pages]
        for number, text in enumerate(texts, 1):
            assert DISCLAIMER in text and f"page {number} of {len(texts)}" in text
        assert "x.png" in "".join(texts) and "waits for a review" in "".join(texts)


def test_failed_uploads_are_listed_and_tried_again(
    served: Running, url: str, browser: Browser, images: list[Path]
) -> None:
    path = served.all.post("/cases", data={"label": "busy"}).headers["location"]
    room, many = served.services.engine._room, served.services.cfg.limits.queue
    with visit(browser, url, refused=1) as seen:
        tab = seen.tab
        tab.goto(path)
        tab.evaluate("document.getElementById('upload').dataset.most = '0.000001'")
        tab.get_by_label("Images of this case").set_input_files(images[0])
        tab.get_by_text("one.png: larger than").wait_for()
        tab.evaluate("document.getElementById('upload').dataset.most = '32'")
        room.take(many, 1)  # 429, with Retry-After
        with tab.expect_response(lambda answer: answer.status == 429):
            tab.get_by_role("button", name="Try again: one.png").click()
        room.give(many)
        tab.get_by_text("Done: 1 of 1 uploaded").wait_for()
        assert not tab.locator("#failed li").count()
    assert [image.name for image in recorded(served, path).images] == ["one.png"]


def test_pages_work_without_scripts(
    served: Running, url: str, browser: Browser, images: list[Path]
) -> None:
    context = browser.new_context(java_script_enabled=False, base_url=url)
    tab = context.new_page()
    tab.goto("/login")
    tab.get_by_label("Name").fill(ALL)
    tab.get_by_label("Password").fill(PASSWORD)
    tab.get_by_role("button", name="Log in").click()
    tab.get_by_label("New case").fill("plain")
    tab.get_by_role("button", name="Open case").click()
    tab.get_by_label("Images of this case").set_input_files([images[0], images[3]])
    tab.get_by_role("button", name="Upload").click()
    path = tab.url.removeprefix(url)
    tab.get_by_role("link", name="to review", exact=True).click()
    tab.locator(".picture").click()
    tab.get_by_role("link", name="Evidence", exact=True).click()
    assert tab.locator("#view img[src*='evidence.png']").count() == 1
    tab.get_by_label(UNIDENTIFIED).check()
    tab.get_by_label("Remark").fill("stripes")
    tab.get_by_role("button", name="Record the review").click()
    tab.get_by_label("Your password").fill(PASSWORD)
    tab.get_by_role("button", name="Sign the case").click()
    context.close()
    assert recorded(served, path).status == SIGNED


@pytest.mark.exhaustive
def test_screenshots_can_be_made(url: str, browser: Browser, tmp_path: Path) -> None:
    for file, (name, _, *size, _) in zip(
        take_pictures(browser, url, ALL, PASSWORD, tmp_path), PICTURES, strict=True
    ):
        with Image.open(file) as opened:
            assert (file.stem, list(opened.size)) == (name, size)
            assert len(opened.convert("RGB").getcolors(1 << 20) or []) > 50  # not blank
