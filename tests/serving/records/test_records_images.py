"""Kept images: encryption, retention and erasure."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import sqlalchemy as sa

from bcd.errors import BcdError, ConfigError
from bcd.serving.errors import ConflictError, UnavailableError, UnprocessableError
from bcd.serving.records import store
from bcd.serving.records.cases import ERASED, NewImage
from bcd.serving.records.contents import make_key, read_key
from bcd.serving.records.database import clean, reading
from bcd.serving.records.store import Records, open_records
from bcd.serving.records.tables import IMAGE_CONTENTS, TEXTS
from bcd.serving.records.verify import verify
from tests.serving.conftest import Open
from tests.serving.making import IDENTITY
from tests.serving.records.making import (
    CLASSES,
    answer,
    content,
    filled,
    images,
    images_config,
    tamper,
)

LABEL, NAME, REMARK = "Elisabeth Musterfrau", "musterfrau-1957.png", "looks like her father"


@pytest.fixture
def key(tmp_path: Path) -> str:
    """A key's file."""
    file = tmp_path / "keys" / "images.key"
    make_key(file)
    return str(file)


def personal(records: Records) -> tuple[str, str]:
    """A case with personal texts and a kept image; returns the ids of both."""
    case_id = records.open_case("anna", LABEL, IDENTITY, 1)
    (image_id,) = records.add_images(
        "anna", case_id, IDENTITY, [(NewImage(NAME, content(7)), answer(7))]
    )
    records.review("berta", case_id, image_id, CLASSES[0], REMARK)
    return case_id, image_id


def found_in(folder: Path) -> set[bytes]:
    """Which of the personal data is in the files of an SQLite database."""
    data = b"".join(file.read_bytes() for file in folder.glob("records.sqlite*"))
    return {each for each in (LABEL.encode(), NAME.encode(), REMARK.encode(), content(7)[:64])
            if each in data}  # fmt: skip


def test_erasure_leaves_hashes_answers_and_a_record(records: Records, url: str) -> None:
    case_id, image_id = personal(records)
    head = records.head()
    with pytest.raises(UnprocessableError):
        records.erase("admin", case_id, " ")
    records.erase("admin", case_id, "asked")
    case = records.case(case_id)
    (image,) = case.images
    assert (case.status, case.label, image.name, image.kept) == (ERASED, "", "", False)
    assert [(review.finding, review.remark) for review in image.reviews] == [(CLASSES[0], "")]
    assert image.answer == answer(7)
    assert records.image(case_id, image_id) is None
    assert verify(url, head).problems == ()
    with pytest.raises(ConflictError):
        records.erase("admin", case_id, "again")
    with pytest.raises(ConflictError):
        records.add_images("anna", case_id, IDENTITY, images(1))
    with reading(records.engine, None) as connection:
        texts = connection.scalars(sa.select(TEXTS.c.text)).all()
        assert texts == ["asked"]
        assert connection.scalars(sa.select(IMAGE_CONTENTS.c.image_id)).all() == []


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_what_was_erased_is_nowhere_in_the_files(opened: Open, tmp_path: Path) -> None:
    records = opened()
    filled(records)
    case_id, _ = personal(records)
    filled(records)
    assert len(found_in(tmp_path)) == 4
    records.erase("admin", case_id, "asked")
    assert found_in(tmp_path) == set()
    records.close()
    assert found_in(tmp_path) == set()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_images_are_encrypted_with_a_key(opened: Open, tmp_path: Path, key: str, url: str) -> None:
    records = opened(images_config(key_file=key))
    case_id, image_id = personal(records)
    assert content(7)[:64] not in found_in(tmp_path)
    assert records.image(case_id, image_id) == content(7)
    assert verify(url).problems == ()


def test_images_are_read_with_their_own_key_only(url: str, key: str, tmp_path: Path) -> None:
    with open_records(url, images_config(key_file=key)) as records:
        case_id, image_id = personal(records)
    other = tmp_path / "other.key"
    make_key(other)
    for wrong in (str(other), None):
        with pytest.raises(BcdError, match=r"images\.key_file"):
            open_records(url, images_config(key_file=wrong))
    with open_records(url, images_config(keep=False, key_file=key)) as records:
        assert records.image(case_id, image_id) == content(7)


def test_an_image_is_encrypted_under_its_own_id(key: str) -> None:
    cipher = read_key(key)
    stored = cipher.encrypt("a", content(1))
    assert cipher.decrypt("a", stored) == content(1)
    assert content(1)[:16] not in stored
    assert cipher.encrypt("a", content(1)) != stored  # another nonce
    with pytest.raises(UnavailableError, match="changed"):
        cipher.decrypt("b", stored)
    with pytest.raises(UnavailableError, match="changed"):
        cipher.decrypt("a", stored[:-1] + bytes([stored[-1] ^ 1]))


def test_a_changed_image_is_not_shown(records: Records, url: str) -> None:
    case_id, image_id = personal(records)
    change = sa.update(IMAGE_CONTENTS).where(IMAGE_CONTENTS.c.image_id == image_id)
    tamper(url, change.values(stored=content(8)))
    with pytest.raises(UnavailableError, match="changed"):
        records.image(case_id, image_id)
    (problem,) = verify(url).problems
    assert image_id in problem


def test_a_key_is_for_its_owner_alone(tmp_path: Path, key: str) -> None:
    file = Path(key)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    with pytest.raises(BcdError, match="exists already"):
        make_key(file)
    assert file.read_bytes() == before
    url = f"sqlite:///{tmp_path / 'records.sqlite'}"
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        open_records(url, images_config(key_file=key))
    file.chmod(0o600)
    file.write_text("no key")
    for wrong in (key, str(tmp_path / "missing")):
        with pytest.raises(ConfigError, match="bcd serve key"):
            open_records(url, images_config(key_file=wrong))


def test_old_images_are_removed_and_recorded(records: Records, url: str) -> None:
    case_id, image_id = personal(records)
    other, _ = personal(records)
    records.erase("admin", other, "asked")
    assert records.expire("admin", days=1.0) == 0
    assert records.expire("admin", days=0.0) == 1
    (image,) = records.case(case_id).images
    assert (image.kept, image.name, records.image(case_id, image_id)) == (False, NAME, None)
    assert verify(url, records.head()).problems == ()


def test_the_server_removes_old_images_by_itself(url: str) -> None:
    with open_records(url, images_config()) as records:
        case_id, image_id = personal(records)
    with open_records(url, images_config(days=0.0)) as records:
        for _ in range(2):  # after the first request, then once an hour
            records.event("anna", "login", {})
        assert records.image(case_id, image_id) is None
    assert (verify(url).kept, verify(url).problems) == (0, ())


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("days", [None, 90.0])
def test_copies_that_a_reader_kept_are_overwritten_within_an_hour(
    url: str, tmp_path: Path, days: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_HOUR", 0.0)
    monkeypatch.setattr(store, "clean", lambda engine: clean(engine, pauses=()))
    with open_records(url, images_config(days=days)) as records:
        case_id, _ = personal(records)
        with reading(records.engine, None) as connection:
            connection.scalars(sa.select(TEXTS.c.text)).all()
            records.erase("admin", case_id, "asked")
            assert found_in(tmp_path)
        for _ in range(2):  # the regular work of the first is done before the second
            records.event("anna", "login", {})
        assert found_in(tmp_path) == set()
