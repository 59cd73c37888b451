"""Millions of songs: numbered as committed, counted with effort by hour, day and in total; clips; the store's identity."""

import json
from collections import Counter, defaultdict
from uuid import uuid4

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

Key = tuple[int, str, int]
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
_SONG_COLUMNS = (
    "uid, station, session, start_ms, end_ms, onset, {offset}, sample_rate_hz, type_id, kind, similarity, novelty_score, "
    "p_value, is_novel, forced_cut, snr_db, bundle"
).format(offset='"offset"')


def upgrade() -> None:
    """Take every song, session and second of effort over."""
    _number_songs()
    _fill_buckets()
    _make_clips()
    identity = op.create_table("identity", sa.Column("uuid", sa.String(36), primary_key=True))
    op.execute(sa.insert(identity).values(uuid=str(uuid4())))


def _number_songs() -> None:
    for index in ("songs_by_time", "songs_by_session", "songs_by_station"):
        op.drop_index(index, table_name="songs")
    op.rename_table("songs", "songs_0001")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER INDEX songs_pkey RENAME TO songs_0001_pkey")
    op.create_table(
        "songs",
        sa.Column("uid", sa.String(36), primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False, unique=True),
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
    op.execute(
        f"INSERT INTO songs (seq, {_SONG_COLUMNS}) "  # noqa: S608 - the names are above
        f"SELECT row_number() OVER (ORDER BY start_ms, uid), {_SONG_COLUMNS} FROM songs_0001"
    )
    op.drop_table("songs_0001")
    op.create_index("songs_by_time", "songs", ["start_ms", "uid"])
    op.create_index("songs_by_session", "songs", ["session", "start_ms", "uid"])
    op.create_index("songs_by_station", "songs", ["station", "start_ms", "uid"])
    op.create_index("songs_by_type", "songs", ["type_id", "start_ms", "uid"])
    op.create_index(
        "songs_novel",
        "songs",
        ["start_ms", "uid"],
        sqlite_where=sa.text("is_novel = 1"),
        postgresql_where=sa.text("is_novel"),
    )


def _fill_buckets() -> None:
    op.rename_table("effort", "effort_0001")
    buckets = op.create_table(
        "buckets",
        sa.Column("width_ms", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("station", sa.String(63), primary_key=True),
        sa.Column("start_ms", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("recorded_s", sa.Float, nullable=False),
        sa.Column("tally", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    seconds: defaultdict[Key, float] = defaultdict(float)
    parts: defaultdict[Key, list[Counter[str]]] = defaultdict(lambda: [Counter(), Counter(), Counter()])
    cuts: Counter[Key] = Counter()
    for station, hour_ms, recorded_s in op.get_bind().execute(sa.text("SELECT * FROM effort_0001")):
        for key in _keys(station, hour_ms):
            seconds[key] += recorded_s
    counted = op.get_bind().execute(
        sa.text(
            f"SELECT station, start_ms / {HOUR_MS} * {HOUR_MS} AS hour_ms, type_id, kind, is_novel, count(*), "  # noqa: S608
            "sum(CASE WHEN forced_cut THEN 1 ELSE 0 END) FROM songs GROUP BY station, hour_ms, type_id, kind, is_novel"
        )
    )
    for station, hour_ms, type_id, kind, is_novel, n, n_cut in counted:
        for key in _keys(station, hour_ms):
            parts[key][2 if kind == "noise" else 1 if is_novel else 0][type_id] += n
            cuts[key] += int(n_cut)
    rows = [
        {
            "width_ms": key[0],
            "station": key[1],
            "start_ms": key[2],
            "recorded_s": seconds[key],
            "tally": json.dumps([*map(_in_order, parts[key]), cuts[key]], separators=(",", ":")),
        }
        for key in sorted({*seconds, *parts})
    ]
    if rows:
        op.bulk_insert(buckets, rows)
    op.drop_table("effort_0001")


def _in_order(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _keys(station: str, hour_ms: int) -> list[Key]:
    return [(HOUR_MS, station, hour_ms), (DAY_MS, station, hour_ms // DAY_MS * DAY_MS), (0, station, 0)]


def _make_clips() -> None:
    op.create_table(
        "clips",
        sa.Column("song", sa.String(36), primary_key=True),
        sa.Column("shelf", sa.String(36), nullable=False),
        sa.Column("song_start_ms", sa.BigInteger, nullable=False),
        sa.Column("start_sample", sa.BigInteger, nullable=False),
        sa.Column("n_samples", sa.BigInteger, nullable=False),
        sa.Column("sample_rate_hz", sa.Integer, nullable=False),
        sa.Column("n_bytes", sa.BigInteger, nullable=False),
        sa.Column("kept", sa.Boolean, nullable=False),
    )
    op.create_index("clips_by_age", "clips", ["shelf", "kept", "song_start_ms", "song"])
