"""Cases that are posted to a FHIR server."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "outbox",
        sa.Column("case_id", sa.String(16), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("sent", sa.Integer),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("asked", sa.Integer, nullable=False),
        sa.Column("due", sa.Double, nullable=False),
        sa.Column("error", sa.String(200), nullable=False),
        sa.Column("servers", sa.Text, nullable=False),
        sa.Column("lease_owner", sa.String(32)),
        sa.Column("lease_until", sa.Double),
    )
    op.create_index("outbox_due", "outbox", ["state", "due"])
    op.create_table(
        "outbox_position",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("base", sa.Text, nullable=False),
        sa.Column("device_until", sa.Double),
        sa.Column("quiet_until", sa.Double),
    )
