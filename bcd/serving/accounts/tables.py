"""Tables of users, tokens and sessions. Migrations create them; a test compares the two."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Double, ForeignKey, Index, LargeBinary, String, Table

from bcd.serving.records.tables import METADATA

USERS = Table(
    "users",
    METADATA,
    Column("key", String(64), primary_key=True),  # the name in lower case
    Column("name", String(64), nullable=False),
    Column("roles", String(64), nullable=False),  # separated by commas
    Column("site", String(32), nullable=False),  # empty: of all sites
    Column("password", String(255), nullable=False),  # argon2id
    Column("must_change", Boolean, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("created", Double, nullable=False),
)

TOKENS = Table(
    "tokens",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("user_key", String(64), ForeignKey("users.key"), nullable=False),
    Column("digest", LargeBinary, nullable=False),  # sha256
    Column("roles", String(64), nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("used", String(10)),  # day, in UTC
    Index("tokens_digest", "digest", unique=True),
    Index("tokens_user", "user_key"),
)

SESSIONS = Table(
    "sessions",
    METADATA,
    Column("digest", LargeBinary, primary_key=True),  # sha256 of the cookie's value
    Column("user_key", String(64), ForeignKey("users.key"), nullable=False),
    Column("created", Double, nullable=False),
    Column("seen", Double, nullable=False),
    Index("sessions_user", "user_key"),
)

# What all servers of one database share: the key of the CSRF tokens of a proxy's users.
SERVER_KEYS = Table(
    "server_keys",
    METADATA,
    Column("name", String(32), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
