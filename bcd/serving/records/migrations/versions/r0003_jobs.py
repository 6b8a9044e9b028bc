"""Images that wait for an answer."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Creates the table."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("case_id", sa.String(16), nullable=False),
        sa.Column("model_sha256", sa.String(64), nullable=False),
        sa.Column("upload", sa.String(32), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("image", sa.LargeBinary),
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("stored", sa.LargeBinary),
        sa.Column("lease_owner", sa.String(16)),
        sa.Column("lease_until", sa.Double, nullable=False),
        sa.Column("attempts", sa.SmallInteger, nullable=False),
        sa.Column("failure", sa.Text),
    )
    op.create_index("jobs_upload", "jobs", ["case_id", "upload"], unique=True)
    op.create_index("jobs_waiting", "jobs", ["attempts", "time"])
