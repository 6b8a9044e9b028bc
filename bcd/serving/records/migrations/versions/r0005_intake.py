"""Which cases the images of a scanner's folder, or of a DICOM study, are in."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Creates the table."""
    op.create_table(
        "intake",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("case_id", sa.String(16), nullable=False),
    )
    op.create_index("intake_case", "intake", ["case_id"], unique=True)
