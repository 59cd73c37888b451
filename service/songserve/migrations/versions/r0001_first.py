"""The first schema: sessions, songs, and effort by the hour."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables as the first songstream made them."""
    op.create_table(
        "sessions",
        sa.Column("uuid", sa.String(36), primary_key=True),
        sa.Column("station", sa.String(63), nullable=False, index=True),
        sa.Column("encoding", sa.String(16), nullable=False),
        sa.Column("sample_rate_hz", sa.Integer, nullable=False),
        sa.Column("n_channels", sa.Integer, nullable=False),
        sa.Column("channel", sa.Integer),
        sa.Column("capture_start_ms", sa.BigInteger, nullable=False),
        sa.Column("writer_epoch", sa.Integer, nullable=False),
        sa.Column("committed_sequence_number", sa.BigInteger, nullable=False),
        sa.Column("committed_sample", sa.BigInteger, nullable=False),
        sa.Column("origin_sample", sa.BigInteger, nullable=False),
        sa.Column("heard_until_ms", sa.BigInteger, nullable=False),
        sa.Column("input_sample", sa.BigInteger, nullable=False),
        sa.Column("state", sa.LargeBinary),
        sa.Column("finished", sa.Boolean, nullable=False),
    )
    op.create_table(
        "songs",
        sa.Column("uid", sa.String(36), primary_key=True),
        sa.Column("station", sa.String(63), nullable=False),
        sa.Column("session", sa.String(36), nullable=False),
        sa.Column("start_ms", sa.BigInteger, nullable=False),
        sa.Column("end_ms", sa.BigInteger, nullable=False),
        sa.Column("onset", sa.BigInteger, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("sample_rate_hz", sa.Integer, nullable=False),
        sa.Column("type_id", sa.String(16), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("similarity", sa.Float, nullable=False),
        sa.Column("novelty_score", sa.Float, nullable=False),
        sa.Column("p_value", sa.Float, nullable=False),
        sa.Column("is_novel", sa.Boolean, nullable=False),
        sa.Column("forced_cut", sa.Boolean, nullable=False),
        sa.Column("snr_db", sa.Float, nullable=False),
        sa.Column("bundle", sa.String(64), nullable=False),
    )
    op.create_index("songs_by_time", "songs", ["start_ms", "uid"])
    op.create_index("songs_by_session", "songs", ["session", "start_ms"])
    op.create_index("songs_by_station", "songs", ["station", "start_ms", "type_id", "is_novel", "kind"])
    op.create_table(
        "effort",
        sa.Column("station", sa.String(63), primary_key=True),
        sa.Column("hour_ms", sa.BigInteger, primary_key=True),
        sa.Column("recorded_s", sa.Float, nullable=False),
    )
