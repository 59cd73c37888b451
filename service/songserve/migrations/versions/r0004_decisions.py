"""What people decide about song types, and the songs that they split off."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make room; nothing is decided yet."""
    op.create_table(
        "decisions",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
        sa.Column("who", sa.String(80), nullable=False),
        sa.Column("action", sa.Text, nullable=False),
    )
    op.add_column("songs", sa.Column("placed_in", sa.String(16)))
    op.create_index(
        "songs_placed",
        "songs",
        ["placed_in", "start_ms", "uid"],
        sqlite_where=sa.text("placed_in IS NOT NULL"),
        postgresql_where=sa.text("placed_in IS NOT NULL"),
    )
