"""Forms: after a refusal, after the end of a session, and for images that nobody can see."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

import pytest
from pypdf import PdfReader

from bcd.serving.records.cases import UNIDENTIFIED
from tests.helpers.pages import BROWSER
from tests.serving.making import IDENTITY, no_smear, smear
from tests.serving.pages.browsing import log_in, visit
from tests.serving.pages.filling import PAGE, Session, recorded
from tests.serving.running import PASSWORD, Running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

browsing = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def staff(served: Running) -> Session:
    """Has every role."""
    return Session(served)


def test_addresses_of_forms_lead_to_their_pages(served: Running, staff: Session) -> None:
    path = staff.open_case()
    staff.upload(path, ("a.png", smear(0)))
    image = f"{path}/images/{recorded(served, path).images[0].id}"
    for form in ("images", "sign", "erase"):
        assert staff.get(f"{path}/{form}").headers["location"] == path
    assert staff.get(f"{image}/review?show=waiting").headers["location"] == f"{image}?show=waiting"
    nobody = served.users["nobody"].post(f"{image}/review?show=waiting", headers=PAGE)
    assert nobody.headers["location"].endswith("review%3Fshow%3Dwaiting")  # after the login
    assert served.users["nobody"].post("/logout", headers=PAGE).headers["location"].endswith("%2F")


def test_images_that_nobody_sees_are_unidentified(served: Running, staff: Session) -> None:
    path = staff.open_case()
    staff.upload(path, ("held.png", smear(0)), ("gone.png", smear(1)), ("note.txt", b"no image"))
    held, gone, note = recorded(served, path).images
    served.services.records.contents.forget([gone.id])
    for image in (held, gone, note):
        form = f"{path}/images/{image.id}"
        choices = re.findall(r'name="finding" value="([^"]+)"', staff.get(form).text)
        assert choices == [*IDENTITY.classes, UNIDENTIFIED][0 if image is held else -1 :]
        data = {"finding": IDENTITY.classes[0], "remark": "x"}
        status = staff.post(f"{form}/review", data).status_code
        assert status == (303 if image is held else 422)
        data["finding"] = UNIDENTIFIED
        assert staff.post(f"{form}/review", data).status_code == 303
    api = f"/v1{path}/images/{gone.id}/review"
    sent = {"finding": IDENTITY.classes[0], "remark": "seen at the microscope"}
    assert served.all.post(api, json=sent).status_code == 204  # the client may have the image
    case = recorded(served, path)
    assert [i.review and i.review.image_held for i in case.images] == [True, False, False]
    rows = csv.DictReader(io.StringIO(staff.get(f"{path}/report.csv").text))
    assert [row["image_held"] for row in rows] == ["true", "false", "false"]
    pdf = PdfReader(io.BytesIO(staff.get(f"{path}/report.pdf").content))
    printed = "".join(page.extract_text() for page in pdf.pages).replace("\n", " ")
    for text in (staff.get(f"{path}/report").text, printed):
        assert text.count("without the image on the page") == 2


def test_plain_words_for_addresses_that_are_not_valid(staff: Session) -> None:
    for address, name in ((f"{staff.open_case()}?page=x", "page"), ("/dashboard?days=8", "days")):
        refused = staff.get(address)
        assert refused.status_code == 422
        assert f"has a value that is not valid: {name}." in refused.text


def test_who_has_signed_sees_no_form_to_sign(served: Running, staff: Session) -> None:
    path = staff.open_case()
    form = f'action="{path}/sign'
    assert form not in staff.get(path).text  # there are no images
    staff.upload(path, ("a.png", smear(0)))
    cfg = served.services.cfg.cases
    before, cfg.signatures = cfg.signatures, 2
    path = staff.open_case()
    cfg.signatures = before
    staff.upload(path, ("a.png", smear(0)))
    case = recorded(served, path)
    if case.waiting:
        data = {"finding": UNIDENTIFIED, "remark": "x"}
        staff.post(f"{path}/images/{case.images[0].id}/review", data)
    assert f'action="{path}/sign' in staff.get(path).text
    version = recorded(served, path).version
    staff.post(f"{path}/sign", {"version": version, "password": PASSWORD})
    page = staff.get(path).text
    assert "another person" in page and f'action="{path}/sign' not in page


@browsing
def test_a_review_outlives_the_session(served: Running, url: str, browser: Browser) -> None:
    path = served.all.post("/cases", data={"label": "kept"}).headers["location"]
    files = [("images", (name, no_smear())) for name in ("a.png", "b.png")]
    served.all.post(f"{path}/images", files=files)
    first, second = recorded(served, path).images
    with visit(browser, url) as seen:
        tab = seen.tab
        tab.goto(f"{path}/images/{first.id}?show=waiting")
        tab.get_by_label(UNIDENTIFIED).check()
        tab.get_by_label("Remark").fill("typed for long")
        tab.context.clear_cookies()
        tab.get_by_role("button", name="Record the review").click()
        tab.wait_for_url("**/login?**")
        log_in(tab)
        tab.wait_for_url(f"**/images/{first.id}?show=waiting")
        assert tab.get_by_label("Remark").input_value() == "typed for long"
        tab.get_by_role("button", name="Record the review").click()
        tab.wait_for_url(f"**/images/{second.id}?**")
        assert tab.evaluate("Object.keys(sessionStorage).filter(k => k.includes('review'))") == []
        review = recorded(served, path).images[0].review
        assert review and (review.finding, review.remark) == (UNIDENTIFIED, "typed for long")


@browsing
def test_the_last_thing_asked_for_is_shown(served: Running, url: str, browser: Browser) -> None:
    path = served.all.post("/cases", data={"label": "late"}).headers["location"]
    served.all.post(f"{path}/images", files=[("images", ("a.png", smear(0)))])
    image = recorded(served, path).images[0].id
    with visit(browser, url, refused=1) as seen:
        tab = seen.tab
        tab.goto(f"{path}/images/{image}")
        slow: list[Route] = []
        tab.route("**view=evidence", lambda route: slow.append(route))
        with tab.expect_event("requestfailed") as given_up:
            tab.get_by_role("link", name="Evidence", exact=True).click()
            tab.get_by_role("link", name="White cells").click()
        assert slow and given_up.value.url == slow[0].request.url
        tab.locator("#view img[src*='cells.png']").wait_for()

        tab.goto(path)  # a refused signature leaves its own address
        tab.get_by_label("Your password").fill("wrong")
        tab.get_by_role("button", name="Sign the case").click()
        tab.get_by_text("The password is wrong").wait_for()
        tab.wait_for_load_state()  # the script that uploads
        added = [("images", ("b.png", smear(1)))]
        served.all.post(f"{path}/images", files=added)
        tab.get_by_label("Images of this case").set_input_files(
            {"name": "c.png", "mimeType": "image/png", "buffer": smear(2)}
        )
        tab.get_by_role("heading", name="3 images").wait_for()
        assert not tab.locator("#trouble").count()


@browsing
def test_a_form_is_sent_once(served: Running, url: str, browser: Browser) -> None:
    with visit(browser, url) as seen:
        tab = seen.tab
        tab.get_by_label("New case").fill("only one")
        sent: list[str] = []
        tab.on("request", lambda request: sent.append(request.method))
        tab.get_by_role("button", name="Open case").evaluate(
            "button => { for (const ms of [0, 2, 4]) setTimeout(() => button.click(), ms); }"
        )
        tab.wait_for_url("**/cases/*")
        assert sent.count("POST") == 1
    found = [case.label for case in served.services.records.cases(50)]
    assert found.count("only one") == 1
