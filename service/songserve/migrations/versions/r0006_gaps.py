"""Seconds that stations declared lost, by reason; those of before were not kept."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "gaps",
        sa.Column("station", sa.String(63), primary_key=True),
        sa.Column("reason", sa.String(32), primary_key=True),
        sa.Column("declared_s", sa.Float, nullable=False),
    )
