"""Several bundles: what was done with them, and what another one makes of songs that are stored."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make two tables, which are empty."""
    op.create_table(
        "bundle_events",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("shelf", sa.String(36), nullable=False),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("bundle", sa.String(64), nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_index("bundle_events_by_shelf", "bundle_events", ["shelf", "seq"])
    op.create_table(
        "retypings",
        sa.Column("song", sa.String(36), primary_key=True),
        sa.Column("bundle", sa.String(64), primary_key=True),
        sa.Column("source", sa.String(8), nullable=False),
        sa.Column("type_id", sa.String(16)),
        sa.Column("kind", sa.String(8)),
        sa.Column("similarity", sa.Float),
        sa.Column("novelty_score", sa.Float),
        sa.Column("p_value", sa.Float),
        sa.Column("novelty", sa.String(12)),
        sa.Column("vector", sa.LargeBinary),
    )
    op.create_index("retypings_by_bundle", "retypings", ["bundle", "song"])
