"""What the chain says about users and tokens: kinds of records, and rows of their tables."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection

from bcd.serving.records.chain import Record
from bcd.serving.records.expected import compare_rows

USER_ADDED, USER_ROLES, USER_PASSWORD = "user added", "user roles", "user password"
USER_DISABLED, USER_ENABLED, REHASHED = "user disabled", "user enabled", "password rehashed"
TOKEN_ADDED, TOKEN_REVOKED, KEY_MADE = "token added", "token revoked", "key made"
USER_SITE = "user site"
ACCOUNT_KINDS = (
    USER_ADDED, USER_ROLES, USER_PASSWORD, USER_DISABLED, USER_ENABLED, REHASHED, TOKEN_ADDED,
    TOKEN_REVOKED, KEY_MADE, USER_SITE,
)  # fmt: skip
TOKENS_ENDED = "tokens_ended"  # by a password that somebody else has set

# By names, because the tables are declared in `bcd.serving.accounts`, which imports this package.
_USERS = ("key", "name", "roles", "site", "password", "must_change", "disabled", "created")
_TOKENS = ("id", "user_key", "digest", "roles", "created", "expires")  # not when it was used
_KEYS = ("name", "value")

# Columns of which the chain has the sha256 only, and their type.
_SECRETS: dict[str, type] = {"password": str, "digest": bytes, "value": bytes}


def fingerprint(secret: str | bytes) -> str:
    """sha256 of a stored secret, for the chain."""
    data = secret.encode("utf-8", "surrogatepass") if isinstance(secret, str) else secret
    return hashlib.sha256(data).hexdigest()


class AccountRows:
    """Follows the chain and collects what the tables of users, tokens and keys must hold.

    Sessions and the day on which a token was last used change without a record.

    Attributes:
        users: Rows of the table `users` by key.
        tokens: Rows of the table `tokens` by id.
        keys: Rows of the table `server_keys` by name.
    """

    def __init__(self) -> None:
        self.users: dict[str, dict[str, Any]] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, dict[str, Any]] = {}

    def follow(self, record: Record) -> None:
        """Takes in the next record.

        Raises:
            LookupError, TypeError, ValueError, AttributeError: Its payload makes no sense.
        """
        if record.kind not in ACCOUNT_KINDS:
            return
        facts, kind = record.facts, record.kind
        key = facts["name"].lower()
        if kind == KEY_MADE:
            self.keys[facts["name"]] = {"name": facts["name"], "value": facts["value"]}
        elif kind == TOKEN_ADDED:
            number = facts["token"]
            self.tokens[number] = {"id": number, "user_key": key, **_columns(facts, _TOKENS)}
        elif kind == TOKEN_REVOKED:
            self.tokens.pop(facts["token"], None)  # two admins may do it at the same time
        elif kind == USER_ADDED:
            self.users[key] = {"key": key, "disabled": 0, **_columns(facts, _USERS)}
        else:
            self._change_user(key, kind, facts)

    def _change_user(self, key: str, kind: str, facts: Mapping[str, Any]) -> None:
        user = self.users[key]
        user.update(_columns(facts, ("roles", "site", "password", "must_change")))
        if kind in (USER_DISABLED, USER_ENABLED):
            user["disabled"] = int(kind == USER_DISABLED)
        if kind == USER_DISABLED or facts.get(TOKENS_ENDED):
            left = {name: row for name, row in self.tokens.items() if row["user_key"] != key}
            self.tokens = left

    def compare(self, connection: Connection) -> Iterator[str]:
        """Yields in which rows the tables differ from the chain."""
        for table, names, rows in (
            ("users", _USERS, self.users),
            ("tokens", _TOKENS, self.tokens),
            ("server_keys", _KEYS, self.keys),
        ):
            yield from compare_rows(connection, table, names, rows.values(), _as_in_chain)


def _columns(facts: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The columns that a record's payload holds, as `_as_in_chain` returns them."""
    found = {name: _as_number(facts[name]) for name in names if name in facts}
    if "roles" in found:
        found["roles"] = ",".join(found["roles"])
    return found


def _as_in_chain(name: str, value: object) -> object:
    """A value that was read from a column, as the chain has it."""
    if name not in _SECRETS:
        return _as_number(value)
    # None, not the value: it could be the sha256 itself.
    right = isinstance(value, str | bytes) and type(value) is _SECRETS[name]
    return fingerprint(value) if right else None  # type: ignore[arg-type]


def _as_number(value: object) -> Any:
    """SQLite stores 0 and 1 for what PostgreSQL calls boolean."""
    return int(value) if isinstance(value, bool) else value
