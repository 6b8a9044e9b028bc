"""Tables of the records. Migrations create them; a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)

METADATA = MetaData()

# The chain. Triggers refuse every UPDATE and DELETE. It holds no text that a person has typed,
# only salted hashes of such texts.
RECORDS = Table(
    "records",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("time", Double, nullable=False),
    Column("user_name", Text, nullable=False),
    Column("site", String(32), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("case_id", String(16)),
    Column("image_id", String(16)),
    Column("payload", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("records_case", "case_id"),
)

# The last record. Writers lock this row, so that several processes append to one chain.
HEAD = Table(
    "head",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, nullable=False),
    Column("hash", String(64), nullable=False),
)

# What people typed: labels, file names, remarks, reasons. Erasure deletes rows from here.
TEXTS = Table(
    "texts",
    METADATA,
    Column("record", Integer, primary_key=True, autoincrement=False),
    Column("case_id", String(16), nullable=False),
    Column("salt", String(32), nullable=False),
    Column("text", Text, nullable=False),
    Index("texts_case", "case_id"),
)

IMAGE_CONTENTS = Table(
    "image_contents",
    METADATA,
    Column("image_id", String(16), primary_key=True),
    Column("case_id", String(16), nullable=False),
    Column("time", Double, nullable=False),
    Column("key_id", String(16), nullable=False),  # of the key; empty if not encrypted
    Column("stored", LargeBinary, nullable=False),
    Index("image_contents_case", "case_id"),
    Index("image_contents_time", "time"),
)

# The tables below repeat what the chain says, for fast reading; `verify` compares them with it.
MODELS = Table(
    "models",
    METADATA,
    Column("sha256", String(64), primary_key=True),
    Column("record", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("card_sha256", Text, nullable=False),
    Column("classes", Text, nullable=False),  # JSON
    Column("benign", Integer),
)

CASES = Table(
    "cases",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("record", Integer, nullable=False),  # in which it was opened
    Column("opened_at", Double, nullable=False),
    Column("opened_by", Text, nullable=False),
    Column("site", String(32), nullable=False),
    Column("model_sha256", String(64), nullable=False),
    Column("signatures_needed", SmallInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("version", Integer, nullable=False),
    Column("signed_by", Text, nullable=False),  # JSON; signatures that count
    Index("cases_opened", "opened_at"),
)

ANSWERS = Table(
    "answers",
    METADATA,
    Column("record", Integer, primary_key=True, autoincrement=False),
    Column("time", Double, nullable=False),
    Column("case_id", String(16)),  # null: not of a case
    Column("image_id", String(16)),
    Column("site", String(32), nullable=False),
    Column("upload", String(32)),  # sha256, its beginning, of the client's id; null: none given
    Column("model_sha256", String(64), nullable=False),
    Column("predicted", Text),
    Column("refer", SmallInteger, nullable=False),
    Column("reasons", Text, nullable=False),  # JSON
    Column("ood_score", Double),
    Column("threshold", Double),  # of the site; null: the policy's
    Column("match_sha256", String(64), nullable=False),  # of how it was matched; empty: not at all
    Column("finding", Text),  # of the last review
    Column("waiting", SmallInteger, nullable=False),  # referred, of a case, not reviewed
    Index("answers_image", "image_id", unique=True),
    Index("answers_upload", "case_id", "upload", unique=True),
    Index("answers_case", "case_id", "waiting"),
    Index("answers_time", "time"),
)

# Images that wait for an answer, which is recorded in the transaction that removes them here. Like
# sessions they are short-lived, and not covered by the chain.
JOBS = Table(
    "jobs",
    METADATA,
    Column("id", String(16), primary_key=True),  # that the image will have
    Column("time", Double, nullable=False),  # of the database, as in lease_until
    Column("user_name", Text, nullable=False),
    Column("case_id", String(16), nullable=False),
    Column("model_sha256", String(64), nullable=False),  # of the case
    Column("upload", String(32), nullable=False),  # as in answers
    Column("sha256", String(64), nullable=False),  # of the image
    Column("size", Integer, nullable=False),  # of the image, in bytes
    Column("image", LargeBinary),  # JSON: what else is known of it; null if it has failed
    Column("key_id", String(16), nullable=False),  # of both, as in image_contents
    Column("stored", LargeBinary),  # its bytes; null if it has failed
    Column("lease_owner", String(16)),  # the server that answers it
    Column("lease_until", Double, nullable=False),
    Column("attempts", SmallInteger, nullable=False),  # see jobs/leases.py
    Column("failure", Text),  # why it will not be answered; null while it waits
    Index("jobs_upload", "case_id", "upload", unique=True),
    Index("jobs_waiting", "attempts", "time"),
)

# Which cases the images of a scanner's folder, or of a DICOM study, are in. Erasure deletes rows.
INTAKE = Table(
    "intake",
    METADATA,
    Column("key", String(64), primary_key=True),  # sha256 of the folder or study
    Column("number", Integer, primary_key=True, autoincrement=False),  # from 1
    Column("case_id", String(16), nullable=False),
    Index("intake_case", "case_id", unique=True),
)

# Cases that are posted to a FHIR server, one row each; not part of the chain, which has a record of
# each delivery. What waits follows from the chain, so that no change can be forgotten.
OUTBOX = Table(
    "outbox",
    METADATA,
    Column("case_id", String(16), primary_key=True),
    Column("version", Integer, nullable=False),  # of the case, to be delivered
    Column("sent", Integer),  # version that was delivered last; null: none
    Column("state", String(8), nullable=False),  # waiting, sent or failed
    Column("attempts", Integer, nullable=False),  # since the last delivery
    Column("asked", Integer, nullable=False),  # times to post it whatever the server has
    Column("due", Double, nullable=False),  # not before
    Column("error", String(200), nullable=False),  # of the last attempt; nothing personal
    Column("servers", Text, nullable=False),  # FHIR servers that have contents of it, one a line
    Column("lease_owner", String(32)),
    Column("lease_until", Double),
    Index("outbox_due", "state", "due"),
)

# The last record whose case has been put into the outbox; no row before the first start with it.
OUTBOX_POSITION = Table(
    "outbox_position",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, nullable=False),
    Column("base", Text, nullable=False),  # of identifiers: `url` of the first start
    Column("device_until", Double),  # when the right of one process to make a Device ends
    Column("quiet_until", Double),  # nothing is sent before, as a FHIR server asked
)
