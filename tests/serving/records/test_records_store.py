"""Cases, reviews, signatures and images in the records."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from bcd.serving.errors import ConflictError, NotFoundError, RequestError, UnprocessableError
from bcd.serving.records.cases import ERASED, OPEN, SIGNED, UNIDENTIFIED, NewImage
from bcd.serving.records.chain import Ledger
from bcd.serving.records.database import writing
from bcd.serving.records.store import Records, open_records
from bcd.serving.records.verify import verify
from tests.serving.conftest import Open
from tests.serving.making import IDENTITY
from tests.serving.records.making import (
    CLASSES,
    OTHER_MODEL,
    answer,
    content,
    filled,
    images,
    images_config,
)


def refused(kind: type[RequestError], call: Callable[..., object], *arguments: object) -> str:
    """The reason why a call is refused."""
    with pytest.raises(kind) as caught:
        call(*arguments)
    return caught.value.detail


def test_a_case_has_what_was_added_to_it(records: Records, url: str) -> None:
    case_id = records.open_case("anna", "Übung \0 1", IDENTITY, 1)
    given = images(3, referred=1)
    ids = records.add_images("anna", case_id, IDENTITY, given)
    ids += records.add_images(
        "carl", case_id, IDENTITY, [(NewImage("\udcff.png", b"x"), answer(9))]
    )
    case = records.case(case_id)
    assert (case.label, case.opened_by, case.classes) == ("Übung  1", "anna", CLASSES)
    assert (case.model_sha256, case.model_name) == (IDENTITY.sha256, IDENTITY.name)
    assert [image.id for image in case.images] == ids
    assert [image.number for image in case.images] == [1, 2, 3, 4]
    assert [image.answer for image in case.images] == [*(each for _, each in given), answer(9)]
    assert [image.name for image in case.images][2:] == ["2.png", "\\udcff.png"]
    assert [image.waits for image in case.images] == [True, False, False, False]
    assert records.image(case_id, ids[1]) == content(1)
    assert records.model_of(IDENTITY.sha256) == IDENTITY
    assert records.model_of(OTHER_MODEL.sha256) is None
    assert verify(url, records.head()).problems == ()


def test_signing_waits_for_reviews_and_for_a_second_person(records: Records) -> None:
    case_id = records.open_case("anna", "", IDENTITY, 2)

    def sign(user: str, behind: int = 0) -> None:
        records.sign(user, case_id, records.case(case_id).version - behind)

    assert "no images" in refused(ConflictError, sign, "anna")
    ids = records.add_images("anna", case_id, IDENTITY, images(3, referred=2))
    assert "2 referred images wait" in refused(ConflictError, sign, "anna")
    for image_id in ids[:2]:
        records.review("anna", case_id, image_id, CLASSES[3], "")
    assert "has changed" in refused(ConflictError, sign, "anna", 1)
    before = records.head()
    sign("anna")
    assert records.case(case_id).signatures[0].chain == before
    assert "another person" in refused(ConflictError, sign, "anna")
    assert records.case(case_id).status == OPEN
    sign("berta")
    case = records.case(case_id)
    assert (case.status, [each.by for each in case.signatures]) == (SIGNED, ["anna", "berta"])
    assert "signed" in refused(ConflictError, sign, "carl")
    assert "signed" in refused(
        ConflictError, records.review, "carl", case_id, ids[0], CLASSES[3], ""
    )
    assert "signed" in refused(
        ConflictError, records.add_images, "carl", case_id, IDENTITY, images(1)
    )


def test_a_change_after_the_first_signature_makes_it_void(records: Records) -> None:
    case_id = records.open_case("anna", "", IDENTITY, 2)
    (image_id,) = records.add_images("anna", case_id, IDENTITY, images(1))
    records.sign("anna", case_id, records.case(case_id).version)
    records.review("berta", case_id, image_id, UNIDENTIFIED, "smudged")
    assert records.case(case_id).signatures == ()
    records.sign("berta", case_id, records.case(case_id).version)
    records.sign("anna", case_id, records.case(case_id).version)
    assert records.case(case_id).status == SIGNED


def test_an_override_needs_a_remark_and_the_last_review_counts(records: Records) -> None:
    case_id = records.open_case("anna", "", IDENTITY, 1)
    none = answer(1, refer=True, predicted=None, probabilities=())
    given = [*images(1), (NewImage("x.png", b"x"), none)]
    first, unreadable = records.add_images("anna", case_id, IDENTITY, given)
    for remark in ("", " \n"):
        refused(UnprocessableError, records.review, "anna", case_id, first, CLASSES[0], remark)
    refused(UnprocessableError, records.review, "anna", case_id, first, "Blast", "why")
    records.review("anna", case_id, first, CLASSES[0], "a nucleolus")
    records.review("berta", case_id, first, CLASSES[3], "")
    records.review("berta", case_id, unreadable, UNIDENTIFIED, "")
    image, other = records.case(case_id).images
    assert [each.overrides for each in image.reviews] == [True, False]
    assert image.reviews[0].remark == "a nucleolus"
    assert (image.finding, other.finding) == (CLASSES[3], UNIDENTIFIED)
    assert not records.case(case_id).waiting


def test_answers_of_another_model_are_refused(records: Records) -> None:
    case_id = records.open_case("anna", "", IDENTITY, 1)
    other = [(NewImage("x.png", b"x"), answer(1, model_sha256=OTHER_MODEL.sha256))]
    refused(ConflictError, records.add_images, "anna", case_id, OTHER_MODEL, other)
    refused(ConflictError, records.add_images, "anna", case_id, IDENTITY, other)
    assert records.case(case_id).images == ()


@pytest.mark.parametrize("case_id", ["0" * 16, "", "\0", "' OR 1=1", "x" * 10_000])
def test_unknown_cases_are_not_found(records: Records, case_id: str) -> None:
    refused(NotFoundError, records.case, case_id)
    refused(NotFoundError, records.add_images, "anna", case_id, IDENTITY, images(1))
    refused(NotFoundError, records.review, "anna", case_id, "0" * 16, CLASSES[0], "")
    refused(NotFoundError, records.sign, "anna", case_id, 1)
    refused(NotFoundError, records.erase, "anna", case_id, "why")
    refused(NotFoundError, records.image, case_id, "0" * 16)


def test_an_image_belongs_to_one_case(records: Records) -> None:
    one, two = (records.open_case("anna", "", IDENTITY, 1) for _ in range(2))
    (image_id,) = records.add_images("anna", one, IDENTITY, images(1))
    refused(NotFoundError, records.image, two, image_id)
    refused(NotFoundError, records.review, "anna", two, image_id, CLASSES[3], "")


def test_the_list_of_cases(records: Records) -> None:
    open_case = filled(records)
    found = records.cases(10)
    assert [(row.label, row.status) for row in found] == [
        ("open label", OPEN), ("", ERASED), ("signed label", SIGNED)
    ]  # fmt: skip
    assert (found[0].id, found[0].images, found[0].waiting) == (open_case, 3, 1)
    assert [row.signatures for row in found] == [0, 0, 1]
    assert records.cases(10, status=SIGNED) == found[2:]
    assert records.cases(1, before=found[0].opened_at) == found[1:2]


def test_statistics_count_every_answer(records: Records) -> None:
    filled(records)
    rows = list(records.statistics(0))
    assert [row.refer for row in rows] == [False, True, *[False] * 4, True, True, False]
    assert [row.finding for row in rows if row.finding] == [CLASSES[0]]
    assert [row.ood_score for row in rows[:2]] == [answer(50).ood_score, answer(51).ood_score]
    assert rows[1].reasons == answer(51, refer=True).reasons
    assert list(records.statistics(rows[-1].time + 1)) == []


def test_answers_without_a_finite_distance_are_recorded(records: Records, url: str) -> None:
    found = [answer(0, ood_score=value) for value in (math.inf, math.nan, None)]
    records.add_answers("anna", found, IDENTITY)
    assert [row.ood_score for row in records.statistics(0)] == [None] * 3
    assert verify(url).problems == ()


def test_events_cannot_pretend_to_be_answers_or_roles(records: Records) -> None:
    for kind in ("answer", "user roles"):
        with pytest.raises(ValueError, match="not a kind"):
            records.event("eve", kind, {"name": "eve", "roles": ["admin"]})
    assert records.head().startswith("0:")


def test_an_alarm_is_recorded_once_whichever_process_sees_it(records: Records, url: str) -> None:
    records.add_answers("anna", [answer(0)], IDENTITY)
    found = [{"model_sha256": IDENTITY.sha256, "last_record": n, "alarms": ["x"]} for n in (0, 1)]
    with contextlib.ExitStack() as stack:
        other = records
        if "postgresql" in url:  # SQLite's file is used by one process
            other = stack.enter_context(open_records(url, images_config()))
        assert records.alarms("server", found[:1]) == found[:1]
        assert other.alarms("server", found) == found[1:]
        assert records.alarms("server", found) == [] == records.alarms("server", [])
        another = [{**found[0], "model_sha256": "another"}]
        assert records.alarms("server", another) == another
    assert verify(url).problems == ()


def test_images_that_are_not_kept_stay_in_memory_while_there_is_room(opened: Open) -> None:
    records = opened(images_config(keep=False, memory_mb=2.5 * len(content(0)) / 1e6))
    case_id = records.open_case("anna", "", IDENTITY, 1)
    ids = records.add_images("anna", case_id, IDENTITY, images(2))
    assert records.image(case_id, ids[0]) == content(0)  # used last, so it stays longer
    ids += records.add_images("anna", case_id, IDENTITY, images(3)[2:])
    found = [records.image(case_id, image_id) for image_id in ids]
    assert found == [content(0), None, content(2)]
    assert not any(image.kept for image in records.case(case_id).images)


def test_changes_at_the_same_time_are_one_chain(records: Records, url: str) -> None:
    case_id = records.open_case("anna", "", IDENTITY, 1)
    failed: list[RequestError] = []

    def work(number: int) -> None:
        for i in range(5):
            records.add_images("anna", case_id, IDENTITY, images(2))
            records.event(f"user{number}", "login", {"i": i})
            try:
                records.sign("anna", case_id, 1)  # refused in the middle of a group
            except ConflictError as error:
                failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [image.number for image in records.case(case_id).images] == list(range(1, 41))
    found = verify(url, records.head())
    assert (len(failed), found.records, found.problems) == (20, 1 + 1 + 40 + 20, ())


def test_changes_that_wait_at_the_same_time_share_a_commit(records: Records) -> None:
    commits: list[object] = []
    threads = [
        threading.Thread(target=records.event, args=("anna", "login", {"number": number}))
        for number in range(20)
    ]
    with writing(records.engine) as connection:
        Ledger(connection)  # holds the chain until all of them wait
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        sa.event.listen(records.engine, "commit", commits.append)
    for thread in threads:
        thread.join()
    assert records.head().startswith(f"{len(threads)}:")
    assert len(commits) < len(threads) / 2


def test_a_case_with_a_thousand_images(opened: Open, url: str) -> None:
    records = opened(images_config(keep=False))
    case_id = records.open_case("anna", "", IDENTITY, 1)
    ids = records.add_images("anna", case_id, IDENTITY, images(1000, referred=100))
    case = records.case(case_id)
    assert [image.id for image in case.images] == ids
    assert (case.waiting, records.cases(1)[0].images, records.cases(1)[0].waiting) == (
        100,
        1000,
        100,
    )
    assert verify(url).problems == ()
