"""Requests that arrive at the same time, or a second time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from bcd.serving.errors import ConflictError
from bcd.serving.records.cases import UNIDENTIFIED, NewImage
from bcd.serving.records.store import Records
from bcd.serving.records.verify import verify
from tests.serving.making import IDENTITY
from tests.serving.records.making import answer, images


def test_of_reviews_at_the_same_time_one_is_recorded(records: Records) -> None:
    case_id = records.open_case("anna", "", IDENTITY, 1)
    (image_id,) = records.add_images("anna", case_id, IDENTITY, images(1))

    def review(number: int) -> bool:
        try:
            records.review(f"p{number}", case_id, image_id, UNIDENTIFIED, "smudged", seen=0)
        except ConflictError as error:
            assert "Somebody has reviewed" in error.detail
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        recorded = [*pool.map(review, range(6))]
    (review_found,) = records.case(case_id).images[0].reviews
    assert recorded.count(True) == 1 and recorded[int(review_found.by[1:])]
    records.review("berta", case_id, image_id, UNIDENTIFIED, "smudged", seen=1)
    assert len(records.case(case_id).images[0].reviews) == 2


def test_an_upload_that_is_sent_again_adds_nothing(records: Records, url: str) -> None:
    case_id = records.open_case("anna", "", IDENTITY, 2)
    uploads = ["a" * 32, "b" * 32]
    with ThreadPoolExecutor(4) as pool:
        ids = {
            tuple(found)
            for found in pool.map(
                lambda _: records.add_images("anna", case_id, IDENTITY, images(2, 0, uploads)),
                range(4),
            )
        }
    case = records.case(case_id)
    assert ids == {tuple(image.id for image in case.images)} and len(case.images) == 2
    records.sign("anna", case_id, case.version)
    again = records.add_images("anna", case_id, IDENTITY, images(2, 0, uploads)[1:])
    assert again == [case.images[1].id] and records.case(case_id).signatures  # nothing is new
    mixed = records.add_images("anna", case_id, IDENTITY, images(3, 0, [*uploads, "c" * 32])[1:])
    assert mixed[0] == case.images[1].id
    assert [image.number for image in records.case(case_id).images] == [1, 2, 3]
    assert records.image(case_id, mixed[1]) == images(3)[2][0].data
    with pytest.raises(ConflictError):
        other = [(NewImage("x.png", b"x", uploads[0]), answer(7))]
        records.add_images("anna", case_id, IDENTITY, other)
    same = records.add_images("anna", case_id, IDENTITY, images(1))  # without an id, it is new
    assert [image.id for image in records.case(case_id).images][3:] == same
    assert verify(url).problems == ()
