"""Tables of users, tokens and sessions."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    LargeBinary,
    MetaData,
    String,
    Table,
)

METADATA = MetaData()

users = Table(
    "users",
    METADATA,
    Column("key", String(64), primary_key=True),  # the name in lower case
    Column("name", String(64), nullable=False),
    Column("roles", String(64), nullable=False),  # separated by commas
    Column("password", String(255), nullable=False),  # argon2id
    Column("must_change", Boolean, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("created", Float, nullable=False),
)

tokens = Table(
    "tokens",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("user", String(64), ForeignKey("users.key"), nullable=False, index=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),  # sha256
    Column("roles", String(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Column("used", String(10)),  # day, in UTC
)

sessions = Table(
    "sessions",
    METADATA,
    Column("digest", LargeBinary(32), primary_key=True),  # sha256 of the cookie's value
    Column("user", String(64), ForeignKey("users.key"), nullable=False, index=True),
    Column("created", Float, nullable=False),
    Column("seen", Float, nullable=False),
)

# What all servers of one database share: the key of the CSRF tokens of a proxy's users.
server_keys = Table(
    "server_keys",
    METADATA,
    Column("name", String(32), primary_key=True),
    Column("value", LargeBinary(32), nullable=False),
)
