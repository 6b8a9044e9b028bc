"""What a case allows and refuses, through the pages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from bcd.config.disclaimer import DISCLAIMER
from bcd.serving import cases
from bcd.serving.records.cases import ERASED, OPEN, SIGNED, UNIDENTIFIED, Case
from tests.serving.making import IDENTITY, no_smear, smear
from tests.serving.pages.filling import PAGE, Session, recorded
from tests.serving.running import ALL, PASSWORD, Running, running

SMEAR, STRIPES, NOTE = ("a.png", smear(0)), ("b.png", no_smear()), ("c.txt", b"no image")
SIGN = {"password": PASSWORD}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two people have to sign; no limit on how often they log in."""
    folder = tmp_path_factory.mktemp("pages")
    with running(folder, "cases.signatures=2", "limits.logins_per_minute=1000") as app:
        yield app


@pytest.fixture(scope="module")
def staff(served: Running) -> Session:
    """Has every role."""
    return Session(served)


@pytest.fixture(scope="module")
def signer(served: Running) -> Session:
    """May only sign."""
    return Session(served, "sign")


def reviewed(served: Running, staff: Session, path: str) -> Case:
    """Reviews what waits."""
    for image in recorded(served, path).images:
        if image.waits:
            data = {"finding": UNIDENTIFIED, "remark": "no smear"}
            assert staff.post(f"{path}/images/{image.id}/review", data).status_code == 303
    return recorded(served, path)


def test_a_case_is_signed_by_two_people_once_nothing_waits(
    served: Running, staff: Session, signer: Session
) -> None:
    path = staff.open_case()
    assert staff.upload(path, SMEAR, STRIPES, NOTE).status_code == 303
    case = recorded(served, path)
    assert [image.answer.refer for image in case.images][1:] == [True, True]

    refused = staff.post(f"{path}/sign", {"version": case.version, **SIGN})
    assert refused.status_code == 409
    assert f"{case.waiting} of 3 images were referred" in refused.text
    for image in case.images:
        assert (f"{path}/images/{image.id}?show=waiting" in refused.text) == image.waits

    case = reviewed(served, staff, path)
    old = staff.post(f"{path}/sign", {"version": case.version - 1, **SIGN})
    assert old.status_code == 409 and "has changed" in old.text
    wrong = staff.post(f"{path}/sign", {"version": case.version, "password": "not it"})
    assert wrong.status_code == 403 and "password is wrong" in wrong.text
    assert not recorded(served, path).signatures

    assert staff.post(f"{path}/sign", {"version": case.version, **SIGN}).status_code == 303
    case = recorded(served, path)
    assert (case.status, len(case.signatures)) == (OPEN, 1)
    again = staff.post(f"{path}/sign", {"version": case.version, **SIGN})
    assert again.status_code == 409 and "another person" in again.text
    head = served.services.records.head()
    unsigned = staff.get(f"{path}/report").text
    assert "NOT SIGNED" in unsigned and head in unsigned
    assert head in staff.get(f"{path}/report.csv").text

    assert signer.post(f"{path}/sign", {"version": case.version, **SIGN}).status_code == 303
    case = recorded(served, path)
    assert (case.status, {s.by for s in case.signatures}) == (SIGNED, {ALL, "sign"})
    report = staff.get(f"{path}/report").text
    assert "NOT SIGNED" not in report and case.signatures[1].chain in report


def test_a_signed_case_is_read_only(served: Running, staff: Session, signer: Session) -> None:
    path = staff.open_case()
    staff.upload(path, SMEAR)
    for person in (staff, signer):
        reviewed(served, staff, path)
        person.post(f"{path}/sign", {"version": recorded(served, path).version, **SIGN})
    case = recorded(served, path)
    assert case.status == SIGNED
    image = f"{path}/images/{case.images[0].id}"
    for answered in (
        staff.upload(path, SMEAR),
        staff.post(f"{image}/review", {"finding": IDENTITY.classes[0], "remark": "late"}),
        staff.post(f"{path}/sign", {"version": case.version, **SIGN}),
    ):
        assert answered.status_code == 409 and "This case is signed." in answered.text
    assert recorded(served, path) == case
    assert f'action="{path}/images"' not in staff.get(path).text
    assert f'action="{image}/review"' not in staff.get(image).text


def test_a_review_between_two_signatures_voids_the_first(served: Running, staff: Session) -> None:
    path = staff.open_case()
    staff.upload(path, SMEAR)
    case = reviewed(served, staff, path)
    staff.post(f"{path}/sign", {"version": case.version, **SIGN})
    image = recorded(served, path).images[0]
    assert "makes that signature void" in staff.get(f"{path}/images/{image.id}").text
    data = {"finding": UNIDENTIFIED, "remark": "I disagree"}
    assert staff.post(f"{path}/images/{image.id}/review", data).status_code == 303
    assert not recorded(served, path).signatures


def test_a_review_needs_a_finding_and_an_override_a_remark(served: Running, staff: Session) -> None:
    path = staff.open_case()
    staff.upload(path, SMEAR)
    image = recorded(served, path).images[0]
    form = f"{path}/images/{image.id}/review"
    other = next(name for name in IDENTITY.classes if name != image.answer.predicted)
    for data, why in (
        ({"finding": ""}, "Choose one"),
        ({"finding": "Sarcoma", "remark": "x"}, "Choose one"),
        ({"finding": other}, "say why in the remark"),
        ({"finding": other, "remark": " \n "}, "say why in the remark"),
        ({"finding": other, "remark": "x" * 2001}, "longer than 2000"),
        ({"finding": other, "remark": "a\0b"}, "control characters"),
    ):
        refused = staff.post(form, data)
        assert refused.status_code == 422 and why in refused.text
    assert not recorded(served, path).images[0].reviews

    confirmed = {"finding": image.answer.predicted, "seen": 0}
    assert staff.post(form, confirmed).status_code == 303
    late = staff.post(form, {"finding": other, "remark": "typed for long", "seen": 0})
    assert late.status_code == 409 and "typed for long" in late.text  # nothing typed is lost
    assert staff.post(form, {"finding": other, "remark": "x", "seen": 1}).status_code == 303
    review = recorded(served, path).images[0].review
    assert review is not None and review.overrides and review.finding == other


def test_reviews_lead_to_the_next_image_that_waits(served: Running, staff: Session) -> None:
    path = staff.open_case()
    staff.upload(path, STRIPES, NOTE)
    first, second = recorded(served, path).images
    data = {"finding": UNIDENTIFIED, "remark": "no smear"}
    led = staff.post(f"{path}/images/{first.id}/review?sort=number", data)
    assert led.headers["location"] == f"{path}/images/{second.id}?sort=number"
    led = staff.post(f"{path}/images/{second.id}/review", data)
    assert led.headers["location"] == f"{path}#sign"


def test_a_case_of_another_model_shows_it_and_takes_no_images(
    served: Running, staff: Session
) -> None:
    path = staff.open_case()
    staff.upload(path, SMEAR)
    engine, image = served.services.engine, recorded(served, path).images[0]
    try:
        engine.identity = replace(IDENTITY, name="newer", sha256="7" * 64)
        shown = staff.get(path).text
        assert "Another model is loaded now" in shown
        assert f"{IDENTITY.name}, {IDENTITY.sha256[:12]}" in shown
        refused = staff.upload(path, SMEAR)
        assert refused.status_code == 409 and "another model" in refused.text
        evidence = staff.get(f"{path}/images/{image.id}?view=evidence").text
        assert "The evidence cannot be shown" in evidence and "evidence.png" not in evidence
        assert staff.get(f"{path}/images/{image.id}/evidence.png").status_code == 404
        assert "newer" not in shown
    finally:
        engine.identity = IDENTITY
    assert len(recorded(served, path).images) == 1


def test_erasing_takes_pictures_names_and_label(served: Running, staff: Session) -> None:
    path = staff.open_case("Jane Roe 1980")
    staff.upload(path, ("roe.png", smear(0)), ("roe2.png", no_smear()))
    image = f"{path}/images/{recorded(served, path).images[0].id}"
    for name in ("thumbnail", "image", "cells", "evidence"):
        assert staff.get(f"{image}/{name}.png").status_code == 200
    refused = staff.post(f"{path}/erase", {"reason": " "})
    assert refused.status_code == 422 and recorded(served, path).label
    assert staff.post(f"{path}/erase", {"reason": "withdrew consent"}).status_code == 303
    case = recorded(served, path)
    assert (case.status, case.label, case.images[0].name) == (ERASED, "", "")
    for page in (path, image, f"{path}/report", "/cases"):
        text = staff.get(page).text
        assert "Roe" not in text and "roe.png" not in text and DISCLAIMER in text
    assert case.waiting and "to review" not in staff.get(f"{path}?show=all").text.split("</h2>")[0]
    assert "To review" not in staff.get(path).text  # nobody can, any more
    for name in ("image", "cells", "evidence"):
        assert staff.get(f"{image}/{name}.png").status_code == 404
    assert staff.get(f"{image}/thumbnail.png").headers["location"] == "/static/gone.svg"
    refused = staff.upload(path, SMEAR)
    assert refused.status_code == 409 and "This case is erased." in refused.text


@pytest.mark.parametrize("label", ["", "  ", "x" * 201, "a\x07b", "\u202egpj.exe"])
def test_labels_that_are_refused(served: Running, staff: Session, label: str) -> None:
    before = len(served.services.records.cases(500))
    refused = staff.post("/cases", {"label": label})
    assert refused.status_code == 422 and 'role="alert"' in refused.text
    assert len(served.services.records.cases(500)) == before


def test_uploads_within_the_limits_only(served: Running, staff: Session) -> None:
    path = staff.open_case()
    most = served.services.cfg.limits
    assert staff.upload(path, *[NOTE] * (most.images + 1)).status_code == 413
    kept, most.case_images = most.case_images, 1
    try:
        refused = staff.upload(path, NOTE, NOTE)
        assert refused.status_code == 413 and "at most 1 images" in refused.text
        assert staff.upload(path, NOTE).status_code == 303
        assert staff.upload(path, NOTE).status_code == 413
    finally:
        most.case_images = kept
    assert len(recorded(served, path).images) == 1


def test_scripts_get_json(served: Running, staff: Session) -> None:
    path = staff.open_case()
    json = {"Accept": "application/json"}
    added = staff.post(f"{path}/images", files=[("images", STRIPES)], headers=json)
    image = recorded(served, path).images[0]
    assert added.status_code == 201 and added.json()["disclaimer"] == DISCLAIMER
    assert added.json()["images"] == [{"id": image.id, "refer": True, "error": ""}]
    room, many = served.services.engine._room, served.services.cfg.limits.queue
    room.take(many, 1)
    try:
        busy = staff.post(f"{path}/images", files=[("images", STRIPES)], headers=json)
    finally:
        room.give(many)
    assert busy.status_code == 429 and busy.json()["detail"]
    assert int(busy.headers["retry-after"]) > 0
    assert len(recorded(served, path).images) == 1


def test_an_upload_whose_answer_was_lost_is_sent_again(served: Running, staff: Session) -> None:
    path = staff.open_case()
    api = f"/v1{path}/images"
    forms = [{"upload": ["first-id", "second-id"]}] * 2
    files = [("images", SMEAR), ("images", STRIPES)]
    json = {"Accept": "application/json"}
    first, second = (
        staff.post(f"{path}/images", form, files=files, headers=json).json() for form in forms
    )
    assert first == second and len(recorded(served, path).images) == 2
    key = {"Idempotency-Key": "of-all-images"}
    answers = [served.all.post(api, files=files, headers=key).json() for _ in range(2)]
    assert [i["id"] for i in answers[0]["images"]] == [i["id"] for i in answers[1]["images"]]
    case = recorded(served, path)
    assert len(case.images) == 4
    changed = served.all.post(api, files=files[::-1], headers=key)
    assert changed.status_code == 409 and "another image" in changed.json()["detail"]
    for form in (
        {"upload": ["short"] * 2},
        {"upload": ["only-one-of-two"]},
        {"upload": ["ä" * 9] * 2},
    ):
        assert staff.post(f"{path}/images", form, files=files, headers=json).status_code == 422
    assert recorded(served, path) == case


def test_reports_that_would_take_all_cores_are_refused(served: Running, staff: Session) -> None:
    path = staff.open_case()
    assert cases._WRITING.acquire(blocking=False) and cases._WRITING.acquire(blocking=False)
    try:
        busy = staff.get(f"{path}/report.pdf")
        assert busy.status_code == 429 and int(busy.headers["retry-after"]) > 0
    finally:
        cases._WRITING.release(2)
    assert staff.get(f"{path}/report.pdf").status_code == 200


def test_nobody_acts_without_the_role_or_a_csrf_token(served: Running, staff: Session) -> None:
    path = staff.open_case()
    staff.upload(path, STRIPES)
    case = recorded(served, path)
    image = f"{path}/images/{case.images[0].id}"
    actions: dict[str, tuple[str, dict[str, object]]] = {
        "/cases": ("submit", {"label": "x"}),
        f"{path}/images": ("submit", {}),
        f"{image}/review": ("review", {"finding": UNIDENTIFIED, "remark": "x"}),
        f"{path}/sign": ("sign", {"version": case.version}),
        f"{path}/erase": ("admin", {"reason": "x"}),
    }
    for action, (role, data) in actions.items():
        for name in ("submit", "review", "sign", "admin"):
            if name != role:
                refused = served.users[name].post(action, data=data, headers=PAGE)
                assert refused.status_code == 403, (action, name)
        assert staff.post(action, {**data, "csrf": "x" * 64}).status_code == 403
        assert served.users["nobody"].post(action, data=data, headers=PAGE).status_code == 303
    assert recorded(served, path) == case
