"""Requests that arrive at the same time, or a second time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from bcd.serving.errors import ConflictError
from bcd.serving.records.cases import UNIDENTIFIED
from bcd.serving.records.store import Records
from tests.serving.making import IDENTITY
from tests.serving.records.making import images


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
