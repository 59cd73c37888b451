"""The tables of the store. Times are UTC in milliseconds since 1970; samples are counted from the session's start."""

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table

__all__ = ["SCHEMA_VERSION", "effort", "metadata", "sessions", "songs"]

SCHEMA_VERSION = 1

metadata = MetaData()

sessions = Table(
    "sessions",
    metadata,
    Column("uuid", String(36), primary_key=True),
    Column("station", String(63), nullable=False, index=True),
    Column("encoding", String(16), nullable=False),
    Column("sample_rate_hz", Integer, nullable=False),
    Column("n_channels", Integer, nullable=False),
    Column("channel", Integer),
    Column("capture_start_ms", BigInteger, nullable=False),
    Column("writer_epoch", Integer, nullable=False),
    Column("committed_sequence_number", BigInteger, nullable=False),
    Column("committed_sample", BigInteger, nullable=False),
    Column("origin_sample", BigInteger, nullable=False),
    Column("heard_until_ms", BigInteger, nullable=False),
    Column("input_sample", BigInteger, nullable=False),
    Column("state", LargeBinary),
    Column("finished", Boolean, nullable=False),
)

songs = Table(
    "songs",
    metadata,
    Column("uid", String(36), primary_key=True),
    Column("station", String(63), nullable=False),
    Column("session", String(36), nullable=False),
    Column("start_ms", BigInteger, nullable=False),
    Column("end_ms", BigInteger, nullable=False),
    Column("onset", BigInteger, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("sample_rate_hz", Integer, nullable=False),
    Column("type_id", String(16), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("similarity", Float, nullable=False),
    Column("novelty_score", Float, nullable=False),
    Column("p_value", Float, nullable=False),
    Column("is_novel", Boolean, nullable=False),
    Column("forced_cut", Boolean, nullable=False),
    Column("snr_db", Float, nullable=False),
    Column("bundle", String(64), nullable=False),
    Index("songs_by_time", "start_ms", "uid"),
    Index("songs_by_session", "session", "start_ms"),
    # Holds every column that counting needs.
    Index("songs_by_station", "station", "start_ms", "type_id", "is_novel", "kind"),
)

effort = Table(
    "effort",
    metadata,
    Column("station", String(63), primary_key=True),
    Column("hour_ms", BigInteger, primary_key=True),
    Column("recorded_s", Float, nullable=False),
)
