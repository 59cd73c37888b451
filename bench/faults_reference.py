"""The fault-free run: the same sessions, streamed by a plain client into a server that nothing disturbs; and a verdict."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import grpc
from faults_account import Kept, Place
from google_crc32c import value as crc32c

from songserve.database import DATABASE_NAME
from songserve.v1 import ingest_pb2, ingest_pb2_grpc

__all__ = ["Reference", "Tables", "Verdict", "compare", "judge"]

_CHUNK_SAMPLES = 65_536
N_TOLD = 6
_TOUCH_S = 1.0
"""A song that begins so soon behind a gap, or ends so shortly before it, may be another one, or none, because of it."""
_SONGS = """
    SELECT songs.*, embeddings.bundle AS embedded_by, embeddings.vector
    FROM songs LEFT JOIN embeddings ON embeddings.song = songs.uid WHERE station = ?
"""
_SESSIONS = """
    SELECT uuid, sample_rate_hz, n_channels, capture_start_ms, committed_sample, input_sample, finished
    FROM sessions WHERE station = ? AND committed_sample > 0
"""
Request = ingest_pb2.StreamAudioRequest
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """Jepsen's classes: every song of the fault-free run is ok or lost; what is stored beyond it is one of the others."""

    ok: int
    lost: int
    duplicated: int
    """Stored, and sung over a song of the fault-free run that is another."""
    unexpected: int
    """Stored, where the fault-free run has no song."""
    differences: list[str] = field(default_factory=list, kw_only=True, compare=False, repr=False)
    """The first few, in words."""
    rows_equal: bool
    """Of songs and their embeddings, of what is counted by type, hour and recorded seconds, and of how far sessions are."""


@dataclass(frozen=True)
class Tables:
    """What a store has of one station."""

    songs: Mapping[str, Row]
    """With their embeddings; without the order of commits, which is of the run."""
    buckets: Sequence[Row]
    sessions: Mapping[str, Row]
    """How far each is, by uuid; not in how many chunks and by how many writers, nor how they were packed."""
    declared_s: float = 0.0
    """Declared lost, for whatever reason."""

    @classmethod
    def of(cls, data_dir: Path, station: str) -> "Tables":
        """Return them in no particular order of commits."""
        database = sqlite3.connect(f"file:{data_dir / DATABASE_NAME}?mode=ro", uri=True, timeout=30)
        database.row_factory = sqlite3.Row
        try:
            rows = database.execute(_SONGS, (station,))
            songs = [dict(row) for row in rows]
            buckets = "SELECT * FROM buckets WHERE station = ? ORDER BY width_ms, start_ms"
            counted = [dict(row) for row in database.execute(buckets, (station,))]
            sessions = {row["uuid"]: dict(row) for row in database.execute(_SESSIONS, (station,))}
            declared = "SELECT total(declared_s) FROM gaps WHERE station = ?"
            declared_s = round(database.execute(declared, (station,)).fetchone()[0], 3)
        finally:
            database.close()
        for song in songs:
            del song["seq"]
        # The sums of effort are of other parts, in another order.
        for bucket in counted:
            bucket["recorded_s"] = round(bucket["recorded_s"], 3)
        return cls({song["uid"]: song for song in songs}, counted, sessions, declared_s)


@dataclass(frozen=True)
class Reference:
    """A server in fine weather."""

    address: str
    data_dir: Path

    def stream(self, session: str, sound: bytes, gaps: list[Place], *, start_ms: int, rate_hz: int) -> None:
        """Let it hear a whole session, with gaps at places."""
        with grpc.insecure_channel(self.address) as channel:
            stub: Any = ingest_pb2_grpc.IngestServiceStub(channel)
            messages = _messages(session, sound, gaps, start_ms=start_ms, rate_hz=rate_hz)
            answers = list(stub.StreamAudio(messages, timeout=120))
        assert answers[-1].ack.finished


def judge(
    reference: Reference, data_dir: Path, station: str, sessions: dict[str, Kept], sound: bytes, rate_hz: int
) -> Verdict:
    """Return the verdict on what a station's run left in a data directory; its sessions are the sound, in order."""
    stored, begin, absent = Tables.of(data_dir, station), 0, 0
    for uuid, kept in sessions.items():
        heard, begin = sound[2 * begin : 2 * (begin + kept.end)], begin + kept.end
        start_ms, gaps = stored.sessions.get(uuid, {"capture_start_ms": 0})["capture_start_ms"], sorted(kept.losses)
        reference.stream(f"stations/{station}/sessions/{uuid}", heard, gaps, start_ms=start_ms, rate_hz=rate_hz)
        if gaps:
            whole, name = f"{station}-whole", uuid5(UUID(uuid), "whole")
            reference.stream(f"stations/{whole}/sessions/{name}", heard, [], start_ms=start_ms, rate_hz=rate_hz)
            without = [
                song for song in Tables.of(reference.data_dir, whole).songs.values() if song["session"] == str(name)
            ]
            with_gaps = [song for song in stored.songs.values() if song["session"] == uuid]
            absent += sum(not _touches(song, kept) and not _is_among(song, with_gaps) for song in without)
    wanted = Tables.of(reference.data_dir, station)
    return compare(wanted, stored, absent)


def compare(wanted: Tables, stored: Tables, n_absent: int) -> Verdict:
    """Return the verdict on what is stored; ``n_absent`` songs are missing that no gap explains."""
    lost = wanted.songs.keys() - stored.songs.keys()
    beyond = [song for uid, song in stored.songs.items() if uid not in wanted.songs]
    duplicated = sum(_is_among(song, list(wanted.songs.values())) for song in beyond)
    return Verdict(
        ok=len(wanted.songs) - len(lost),
        lost=len(lost) + n_absent,
        duplicated=duplicated,
        unexpected=len(beyond) - duplicated,
        rows_equal=wanted == stored,
        differences=_differences(wanted, stored)[:N_TOLD],
    )


def _differences(wanted: Tables, stored: Tables) -> list[str]:
    told = []
    for name in ("songs", "sessions"):
        here, there = getattr(stored, name), getattr(wanted, name)
        for key in sorted(here.keys() | there.keys()):
            a, b = here.get(key), there.get(key)
            if a is None or b is None:
                told.append(f"{name} {key} is {'missing' if a is None else 'beyond the fault-free run'}: {a or b}")
            elif columns := [column for column in a if a[column] != b[column]]:
                told.append(f"{name} {key}: " + ", ".join(f"{one} {a[one]!r}, not {b[one]!r}" for one in columns))
    if wanted.buckets != stored.buckets:
        told.append(f"counts: {stored.buckets}, not {wanted.buckets}")
    if wanted.declared_s != stored.declared_s:
        told.append(f"declared lost: {stored.declared_s} s, not {wanted.declared_s} s")
    return told


def _is_among(song: Row, others: list[Row]) -> bool:
    """Return whether a song shares time with one of the others."""
    return any(
        other["start_ms"] < song["end_ms"] and song["start_ms"] < other["end_ms"]
        for other in others
        if other["session"] == song["session"] or song["station"] != other["station"]
    )


def _touches(song: Row, kept: Kept) -> bool:
    begin_s, end_s = (song[key] / song["sample_rate_hz"] for key in ("onset", "offset"))
    return any(
        begin_s < place.end / kept.rate_hz + _TOUCH_S and place.begin / kept.rate_hz - _TOUCH_S < end_s
        for place in kept.losses
    )


def _messages(session: str, sound: bytes, gaps: list[Place], *, start_ms: int, rate_hz: int) -> Iterator[Request]:
    setup = ingest_pb2.Setup(
        session=session,
        audio_format=ingest_pb2.AudioFormat(
            encoding=ingest_pb2.AudioFormat.ENCODING_LINEAR16, sample_rate_hz=rate_hz, channel_count=1
        ),
        client="fault-free",
    )
    setup.capture_start_time.FromMilliseconds(start_ms)
    yield Request(setup=setup)
    number, position, end = 0, 0, len(sound) // 2
    for gap in [*gaps, Place(end, end)]:
        while position < gap.begin:
            number, count = number + 1, min(_CHUNK_SAMPLES, gap.begin - position)
            data = sound[2 * position : 2 * (position + count)]
            yield Request(
                chunk=ingest_pb2.Chunk(
                    sequence_number=number, start_sample=position, sample_count=count, data=data, crc32c=crc32c(data)
                )
            )
            position += count
        if gap.end > gap.begin:
            number += 1
            yield Request(
                gap=ingest_pb2.Gap(
                    sequence_number=number,
                    start_sample=position,
                    sample_count=gap.end - position,
                    reason=ingest_pb2.Gap.REASON_SPOOL_CORRUPT,
                )
            )
            position = gap.end
    yield Request(finish=ingest_pb2.Finish(last_sequence_number=number, total_samples=position))
