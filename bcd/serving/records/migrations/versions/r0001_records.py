"""The chain of records, and tables for fast reading."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_HEAD_HASH = "0" * 64
_CHANGES = ("UPDATE", "DELETE")


def upgrade() -> None:
    """Creates the tables, the first head and the triggers that protect the chain."""
    _chain()
    _contents()
    _for_reading()
    if op.get_bind().dialect.name == "postgresql":
        _postgresql_triggers()
    else:
        _sqlite_triggers()


def _chain() -> None:
    op.create_table(
        "records",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("case_id", sa.String(16)),
        sa.Column("image_id", sa.String(16)),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_index("records_case", "records", ["case_id"])
    head = op.create_table(
        "head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.bulk_insert(head, [{"id": 1, "number": 0, "hash": _HEAD_HASH}])


def _contents() -> None:
    op.create_table(
        "texts",
        sa.Column("record", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("case_id", sa.String(16), nullable=False),
        sa.Column("salt", sa.String(32), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )
    op.create_index("texts_case", "texts", ["case_id"])
    op.create_table(
        "image_contents",
        sa.Column("image_id", sa.String(16), primary_key=True),
        sa.Column("case_id", sa.String(16), nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("stored", sa.LargeBinary, nullable=False),
    )
    op.create_index("image_contents_case", "image_contents", ["case_id"])
    op.create_index("image_contents_time", "image_contents", ["time"])


def _for_reading() -> None:
    op.create_table(
        "models",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("record", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("card_sha256", sa.Text, nullable=False),
        sa.Column("classes", sa.Text, nullable=False),
        sa.Column("benign", sa.Integer),
    )
    op.create_table(
        "cases",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("record", sa.Integer, nullable=False),
        sa.Column("opened_at", sa.Double, nullable=False),
        sa.Column("opened_by", sa.Text, nullable=False),
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("model_sha256", sa.String(64), nullable=False),
        sa.Column("signatures_needed", sa.SmallInteger, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("signed_by", sa.Text, nullable=False),
    )
    op.create_index("cases_opened", "cases", ["opened_at"])
    op.create_table(
        "answers",
        sa.Column("record", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("case_id", sa.String(16)),
        sa.Column("image_id", sa.String(16)),
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("upload", sa.String(32)),
        sa.Column("model_sha256", sa.String(64), nullable=False),
        sa.Column("predicted", sa.Text),
        sa.Column("refer", sa.SmallInteger, nullable=False),
        sa.Column("reasons", sa.Text, nullable=False),
        sa.Column("ood_score", sa.Double),
        sa.Column("threshold", sa.Double),
        sa.Column("match_sha256", sa.String(64), nullable=False),
        sa.Column("finding", sa.Text),
        sa.Column("waiting", sa.SmallInteger, nullable=False),
    )
    op.create_index("answers_image", "answers", ["image_id"], unique=True)
    op.create_index("answers_upload", "answers", ["case_id", "upload"], unique=True)
    op.create_index("answers_case", "answers", ["case_id", "waiting"])
    op.create_index("answers_time", "answers", ["time"])


def _sqlite_triggers() -> None:
    for change in _CHANGES:
        op.execute(
            f"CREATE TRIGGER records_no_{change.lower()} BEFORE {change} ON records "
            "BEGIN SELECT RAISE(ABORT, 'records are append-only'); END"
        )


def _postgresql_triggers() -> None:
    op.execute(
        "CREATE FUNCTION bcd_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'records are append-only'; END $$"
    )
    for change in (*_CHANGES, "TRUNCATE"):
        op.execute(
            f"CREATE TRIGGER records_no_{change.lower()} BEFORE {change} ON records "
            "FOR EACH STATEMENT EXECUTE FUNCTION bcd_append_only()"
        )
