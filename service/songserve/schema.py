"""The tables of the store. Times are UTC in milliseconds since 1970; samples are counted from the session's start.

A change here needs a revision in `songserve/migrations/versions`; a test compares the two.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

from songserve.times import DAY_MS, HOUR_MS

__all__ = [
    "EVER",
    "REVISION",
    "SONG_COLUMNS",
    "WIDTHS_MS",
    "buckets",
    "bundle_events",
    "clips",
    "decisions",
    "embeddings",
    "gaps",
    "identity",
    "metadata",
    "retypings",
    "revision",
    "sessions",
    "songs",
]

REVISION = "0007"
"""The newest revision; the names of revisions are numbers, so that an older program knows a newer schema."""

EVER = 0
WIDTHS_MS = (HOUR_MS, DAY_MS, EVER)
"""Songs and effort are counted by the hour, by the UTC day and in total (one bucket that begins at 0)."""

metadata = MetaData()

revision = Table("alembic_version", metadata, Column("version_num", String(32), primary_key=True))

identity = Table(
    "identity",
    metadata,
    # Tokens of a watch hold it: they are void for another store, and for one that was put back to an older state.
    Column("uuid", String(36), primary_key=True),
)

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
    Column("clock_source", String(16)),
    Column("clock_error_s", Float),
    Column("writer_epoch", Integer, nullable=False),
    Column("committed_sequence_number", BigInteger, nullable=False),
    Column("committed_sample", BigInteger, nullable=False),
    Column("origin_sample", BigInteger, nullable=False),
    Column("heard_until_ms", BigInteger, nullable=False),
    Column("input_sample", BigInteger, nullable=False),
    Column("state", LargeBinary),
    Column("finished", Boolean, nullable=False),
)

_POOL = "novelty IN ('uncertain', 'novel') AND quality = 'good' AND placed_in IS NULL"

songs = Table(
    "songs",
    metadata,
    Column("uid", String(36), primary_key=True),
    # Order of commits. There is one writer at a time, so whoever has read up to a number has missed none below it.
    Column("seq", BigInteger, nullable=False, unique=True),
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
    # The type that people made by a split and this song is of, whatever the columns above say; null for most.
    Column("placed_in", String(16)),
    # known, uncertain or novel; is_novel is the last of these.
    Column("novelty", String(12), nullable=False, server_default="known"),
    # songcore.quality.Quality
    Column("quality", String(12), nullable=False, server_default="ungraded"),
    # Every filter of a list has an index in the list's order.
    Index("songs_by_time", "start_ms", "uid"),
    Index("songs_by_session", "session", "start_ms", "uid"),
    Index("songs_by_station", "station", "start_ms", "uid"),
    Index("songs_by_type", "type_id", "start_ms", "uid"),
    Index("songs_novel", "start_ms", "uid", sqlite_where=text("is_novel = 1"), postgresql_where=text("is_novel")),
    Index(
        "songs_placed",
        "placed_in",
        "start_ms",
        "uid",
        sqlite_where=text("placed_in IS NOT NULL"),
        postgresql_where=text("placed_in IS NOT NULL"),
    ),
    Index("songs_pool", "start_ms", "uid", sqlite_where=text(_POOL), postgresql_where=text(_POOL)),
)

SONG_COLUMNS = tuple(column for column in songs.c if column.name not in {"seq", "is_novel"})
"""Those of a `StoredSong`."""

# What people decided about song types; rows are only ever added. `songcore.decisions` says what they mean together.
decisions = Table(
    "decisions",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("time_ms", BigInteger, nullable=False),
    Column("who", String(80), nullable=False),
    # JSON of `songcore.decisions`.
    Column("action", Text, nullable=False),
)

# What the encoder made of a song, written with it: what looks for types and for songs that are alike need not listen again.
embeddings = Table(
    "embeddings",
    metadata,
    Column("song", String(36), primary_key=True),
    # Vectors of different bundles cannot be compared.
    Column("bundle", String(64), nullable=False),
    # Float32, little-endian, of length 1.
    Column("vector", LargeBinary, nullable=False),
)

# One row per station and hour, day, or in total, written in the transaction that stores songs or seconds: adding up a
# season's songs at every question would take seconds. All types share a row, as they are always asked for together.
buckets = Table(
    "buckets",
    metadata,
    Column("width_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("station", String(63), primary_key=True),
    Column("start_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("recorded_s", Float, nullable=False),
    # JSON of `songserve.tally`.
    Column("tally", Text, nullable=False),
    sqlite_with_rowid=False,
)

# How much sound each station declared lost, and why, added up in the transaction that moves the watermark over the gap.
gaps = Table(
    "gaps",
    metadata,
    Column("station", String(63), primary_key=True),
    # One of `Gap.Reason` in ingest.proto, in small letters.
    Column("reason", String(32), primary_key=True),
    Column("declared_s", Float, nullable=False),
)

clips = Table(
    "clips",
    metadata,
    Column("song", String(36), primary_key=True),
    # Which data directory holds the file: servers that share a PostgreSQL database have one each.
    Column("shelf", String(36), nullable=False),
    Column("song_start_ms", BigInteger, nullable=False),
    Column("start_sample", BigInteger, nullable=False),
    Column("n_samples", BigInteger, nullable=False),
    Column("sample_rate_hz", Integer, nullable=False),
    Column("n_bytes", BigInteger, nullable=False),
    # Of the file beside it that holds the encoder's input; 0 for none.
    Column("feature_bytes", BigInteger, nullable=False, server_default="0"),
    # Never deleted by age or quota.
    Column("kept", Boolean, nullable=False),
    Index("clips_by_age", "shelf", "kept", "song_start_ms", "song"),
)

# What was done with bundles, never changed afterwards: which one is active, was before, was found wanting.
bundle_events = Table(
    "bundle_events",
    metadata,
    Column("seq", Integer, primary_key=True),
    # Data directory of the server: servers that share a PostgreSQL database are each swapped by itself.
    Column("shelf", String(36), nullable=False),
    Column("time_ms", BigInteger, nullable=False),
    # started, validated, activated, rolled_back, failed, shadowed
    Column("kind", String(16), nullable=False),
    Column("bundle", String(64), nullable=False),
    # Who asked; empty where callers need no credentials.
    Column("who", Text, nullable=False),
    # JSON: what followed.
    Column("detail", Text, nullable=False),
    Index("bundle_events_by_shelf", "shelf", "seq"),
)

# What another bundle makes of a song, beside what the song's row says; written by `songstream retype`.
retypings = Table(
    "retypings",
    metadata,
    Column("song", String(36), primary_key=True),
    Column("bundle", String(64), primary_key=True),
    # features, clip: what it was made from; unheard: in the clip that bundle finds no song that this could be.
    Column("source", String(8), nullable=False),
    # None where it is unheard, as all that follows.
    Column("type_id", String(16)),
    Column("kind", String(8)),
    Column("similarity", Float),
    Column("novelty_score", Float),
    Column("p_value", Float),
    Column("novelty", String(12)),
    # Embedding, float32, little-endian.
    Column("vector", LargeBinary),
    Index("retypings_by_bundle", "bundle", "song"),
)
