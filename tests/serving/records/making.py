"""Answers, cases and raw changes for tests of records."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from bcd.config.serve import ImagesConfig
from bcd.serving.answers import ImageAnswer
from bcd.serving.records.database import connect, writing
from bcd.serving.records.store import Records
from tests.serving.making import IDENTITY

CLASSES = IDENTITY.classes
OTHER_MODEL = replace(IDENTITY, name="other", sha256="6" * 64)


def images_config(keep: bool = True, **changes: Any) -> ImagesConfig:
    """What becomes of images."""
    values: dict[str, Any] = {"key_file": None, "days": 90.0, "memory_mb": 1.0, **changes}
    return ImagesConfig(keep, **values)


def content(number: int) -> bytes:
    """The bytes of an image, which the records do not look into."""
    return b"image %d: " % number + bytes(range(256)) * 8


def answer(number: int, refer: bool = False, **changes: Any) -> ImageAnswer:
    """The answer for `content(number)`."""
    reasons = ("out of distribution",) if refer else ()
    found = ImageAnswer(
        hashlib.sha256(content(number)).hexdigest(), (0.1, 0.2, 0.3, 0.4), CLASSES[3], True,
        (CLASSES[3],), refer, reasons, 0.5 + number, "", 12.5, IDENTITY.sha256,
    )  # fmt: skip
    return replace(found, **changes)


def images(count: int, referred: int = 0) -> list[tuple[str, bytes, ImageAnswer]]:
    """Images for `Records.add_images`; the first ones are referred."""
    return [(f"{i}.png", content(i), answer(i, i < referred)) for i in range(count)]


def filled(records: Records) -> str:
    """Fills records with rows in every table; returns the id of an open case."""
    records.event("", "server started", {"version": "1"})
    records.add_answers("dora", [answer(50), answer(51, refer=True)], IDENTITY)
    signed = records.open_case("anna", "signed label", IDENTITY, 1)
    records.add_images("anna", signed, IDENTITY, images(2))
    records.sign("anna", signed, records.case(signed).version)
    erased = records.open_case("anna", "erased label", IDENTITY, 1)
    records.add_images("anna", erased, IDENTITY, images(2))
    records.erase("admin", erased, "asked by the patient")
    case = records.open_case("anna", "open label", IDENTITY, 2)
    first, *_ = records.add_images("anna", case, IDENTITY, images(3, referred=2))
    records.review("berta", case, first, CLASSES[0], "a remark")
    return case


def tamper(url: str, *statements: str | sa.Executable) -> None:
    """Changes a database in a way that triggers do not see, as its administrator can."""
    engine = connect(url)
    with writing(engine) as connection:
        triggers: Sequence[Any] = ()
        if engine.dialect.name == "sqlite":
            query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
            triggers = connection.exec_driver_sql(query).all()
            for name, _ in triggers:
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
        else:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for statement in statements:
            made = sa.text(statement) if isinstance(statement, str) else statement
            assert connection.execute(made).rowcount, statement
        for _, sql in triggers:
            connection.exec_driver_sql(sql)
    engine.dispose()
