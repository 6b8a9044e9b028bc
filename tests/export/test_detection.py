"""When fewer foreign images are flagged than before."""

from __future__ import annotations

import pytest

from bcd.errors import BcdError
from bcd.export.detection import check_detection


def test_int8_is_refused_where_fewer_changed_images_are_flagged() -> None:
    check_detection({})
    check_detection({"grey": ((100, 95), 100), "inverted": ((50, 70), 100), "few": ((7, 6), 7)})
    with pytest.raises(BcdError) as caught:
        check_detection({"grey": ((100, 95), 100), "inverted": ((100, 94), 100)})
    assert (
        "of 100 changed images of val (inverted), 94 are out of distribution instead of 100"
        in str(caught.value)
    )
    with pytest.raises(BcdError, match=r"\(few\), 5 are"):
        check_detection({"few": ((7, 5), 7)})
