"""What set the clock that says when a session began, and how far it may be off; of older sessions it was not kept."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("sessions", sa.Column("clock_source", sa.String(16)))
    op.add_column("sessions", sa.Column("clock_error_s", sa.Float))
