"""Answers, cases and raw changes for tests of records."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from argon2 import PasswordHasher

from bcd.config.serve import ImagesConfig
from bcd.serving.accounts.store import Accounts
from bcd.serving.answers import ImageAnswer
from bcd.serving.records.cases import NewImage
from bcd.serving.records.database import connect, writing
from bcd.serving.records.store import Records
from tests.serving.accounts.making import session_of
from tests.serving.making import IDENTITY, serve_config

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


def images(
    count: int, referred: int = 0, uploads: Sequence[str] = ()
) -> list[tuple[NewImage, ImageAnswer]]:
    """Images for `Records.add_images`; the first ones are referred."""
    given = zip(range(count), uploads or ("",) * count, strict=True)
    return [
        (NewImage(f"{i}.png", content(i), upload), answer(i, i < referred)) for i, upload in given
    ]


def filled(records: Records) -> str:
    """Fills records with rows in every table; returns the id of an open case."""
    records.event("", "server started", {"version": "1"})
    given = [answer(50, threshold=0.3), answer(51, refer=True)]
    records.add_answers("dora", given, IDENTITY)
    signed = records.open_case("anna", "signed label", IDENTITY, 1)
    records.add_images("anna", signed, IDENTITY, images(2))
    records.sign("anna", signed, records.case(signed).version)
    erased = records.open_case("anna", "erased label", IDENTITY, 1)
    records.add_images("anna", erased, IDENTITY, images(2))
    records.erase("admin", erased, "asked by the patient")
    case = records.open_case("anna", "open label", IDENTITY, 2)
    uploads = ["a" * 32, "b" * 32, ""]
    first, *_ = records.add_images("anna", case, IDENTITY, images(3, 2, uploads))
    records.review("berta", case, first, CLASSES[0], "a remark")
    return case


class CheapAccounts(Accounts):
    """Accounts whose passwords are hashed fast."""

    hasher = PasswordHasher(1, 8, 1)


class LaterAccounts(Accounts):
    """Accounts of a later version, with other parameters of argon2id."""

    hasher = PasswordHasher(1, 16, 1)


def add_people(engine: sa.Engine, folder: Path) -> None:
    """Fills the tables of accounts by every change of users and tokens that there is."""
    cfg, first, second = serve_config(folder), "four drawn white cells", "five drawn white cells"
    accounts = CheapAccounts(engine, cfg)
    users, tokens = accounts.users, accounts.tokens
    users.add("", "Ada", first, ["admin", "sign"])
    for name in ("Tess", "Dan", "Eva"):
        users.add("Ada", name, first, ["submit"], must_change=True)
        tokens.add("Ada", name, ["submit"], 30)
    users.add("Ada", "Pro", None, ["review"])
    users.set_password("Tess", "tess", second)
    users.set_roles("Ada", "tess", ["submit", "review"])
    users.set_disabled("Ada", "dan", True)
    users.set_disabled("Ada", "eva", True)
    users.set_disabled("Ada", "eva", False)
    used = tokens.add("Ada", "tess", ["review"], 0.5)
    revoked = tokens.add("Ada", "eva", ["submit"], 1)
    tokens.revoke("Ada", next(each.id for each in tokens.all() if each.user == "Eva"))
    assert tokens.user(used) is not None and tokens.user(revoked) is None
    assert LaterAccounts(engine, cfg).log_in("ada", first, "") is not None
    session_of(accounts, "ada")


def tamper(url: str, *statements: str | sa.Executable) -> None:
    """Changes a database in a way that triggers do not see, as its administrator can."""
    engine = connect(url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _without_foreign_keys)
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


def _without_foreign_keys(connection: Any, _: object) -> None:
    connection.execute("PRAGMA foreign_keys=OFF")
