"""Novelty in three states, quality, embeddings of songs, and features beside clips."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

POOL = "novelty IN ('uncertain', 'novel') AND quality = 'good' AND placed_in IS NULL"


def upgrade() -> None:
    """Add columns with defaults, which rewrites no row; what was novel stays so, and nothing older enters the pool."""
    op.add_column("songs", sa.Column("novelty", sa.String(12), nullable=False, server_default="known"))
    op.add_column("songs", sa.Column("quality", sa.String(12), nullable=False, server_default="ungraded"))
    op.execute("UPDATE songs SET novelty = 'novel' WHERE is_novel")
    op.create_index(
        "songs_pool", "songs", ["start_ms", "uid"], sqlite_where=sa.text(POOL), postgresql_where=sa.text(POOL)
    )
    op.create_table(
        "embeddings",
        sa.Column("song", sa.String(36), primary_key=True),
        sa.Column("bundle", sa.String(64), nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
    )
    op.add_column("clips", sa.Column("feature_bytes", sa.BigInteger, nullable=False, server_default="0"))
