"""Requests of IngestService to domain values; what makes no sense is refused here."""

import re
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from songcore.resample import check_sample_rate
from songserve.intake import MAX_GAP_S, MAX_SAMPLE, Chunk, Finish, Gap
from songserve.records import AudioFormat, ClockState, Encoding, SessionName, SessionOpening, SessionRecord
from songserve.refusal import Refusal
from songserve.requests import milliseconds
from songserve.times import DAY_MS
from songserve.v1 import ingest_pb2

__all__ = [
    "GAP_REASONS",
    "Heartbeat",
    "Lane",
    "Wish",
    "captured_ms",
    "check_time",
    "missing_gap",
    "read_finish",
    "read_heartbeat",
    "read_message",
    "read_setup",
    "read_wish",
]

MAX_CHANNELS = 64
MAX_FLAC_CHANNELS = 8

Lane = Literal["live", "backfill"]
Results = Literal["none", "final", "partial"]

_ENCODINGS: dict[int, Encoding] = {
    ingest_pb2.AudioFormat.ENCODING_LINEAR16: "linear16",
    ingest_pb2.AudioFormat.ENCODING_FLOAT32: "float32",
    ingest_pb2.AudioFormat.ENCODING_FLAC: "flac",
}
_LANES: dict[int, Lane] = {
    ingest_pb2.LANE_UNSPECIFIED: "live",
    ingest_pb2.LANE_LIVE: "live",
    ingest_pb2.LANE_BACKFILL: "backfill",
}
_RESULTS: dict[int, Results] = {
    ingest_pb2.RESULT_MODE_UNSPECIFIED: "final",
    ingest_pb2.RESULT_MODE_NONE: "none",
    ingest_pb2.RESULT_MODE_FINAL: "final",
    ingest_pb2.RESULT_MODE_PARTIAL: "partial",
}
_CLOCKS = {value: name.removeprefix("CLOCK_SOURCE_").lower() for name, value in ingest_pb2.ClockSource.items()}
GAP_REASONS = {value: name.removeprefix("REASON_").lower() for name, value in ingest_pb2.Gap.Reason.items()}
"""What gaps are called inside, by their number on the wire."""
MAX_CLIENT = 64
MAX_CLOCK_ERROR_S = 3_155_760_000
"""A century."""
_RESUME_TOKEN = re.compile(r"(\d{1,18})\.(\d{1,18})")


@dataclass(frozen=True)
class Wish:
    """How a stream wants to be served; unlike the opening it may differ at each resume."""

    lane: Lane
    results: Results
    seen: tuple[int, int] | None
    """Writer epoch and committed number of the last ack that the client saw."""
    first_available: tuple[int, int] | None
    """Number and start sample of the oldest chunk that the client still has."""
    clock: ClockState
    client: str
    """Program and version, shortened."""


@dataclass(frozen=True)
class Heartbeat:
    """How a station is; None for what it does not say."""

    create_time_s: float | None
    spool_bytes: int
    spool_room_bytes: int | None
    spool_oldest_s: float | None
    disk_free_bytes: int
    supply_volts: float | None
    temperature_celsius: float | None
    clock: ClockState


def read_setup(setup: ingest_pb2.Setup, *, now_ms: int) -> SessionOpening:
    """Return what a setup asks for; raises Refusal SETUP_INVALID or FORMAT_UNSUPPORTED, or the core's InputError."""
    name = SessionName.parse(setup.session, reason="SETUP_INVALID")
    start_ms = None
    if setup.HasField("capture_start_time"):
        start_ms = milliseconds(setup.capture_start_time, reason="SETUP_INVALID")
    if start_ms is None or not 0 <= start_ms <= now_ms + DAY_MS:
        raise _invalid("capture_start_time must be the UTC time of the first sample, between 1970 and a day from now")
    return SessionOpening(name, _read_format(setup.audio_format), start_ms, _clock(setup, "SETUP_INVALID"))


def read_wish(setup: ingest_pb2.Setup) -> Wish:
    """Return how the stream is to be served; raises Refusal SETUP_INVALID."""
    if setup.result_mode not in _RESULTS or setup.lane not in _LANES:
        raise _invalid(f"result_mode {setup.result_mode} or lane {setup.lane} is not known to this server")
    seen = None
    if setup.resume_token:
        token = _RESUME_TOKEN.fullmatch(setup.resume_token)
        if token is None:
            raise _invalid("resume_token is none that a server gave; resume without one")
        seen = int(token[1]), int(token[2])
    number, sample = setup.first_available_sequence_number, setup.first_available_sample
    if number > MAX_SAMPLE or sample > MAX_SAMPLE or (sample and not number):
        raise _invalid(f"first_available_sequence_number {number} at sample {sample} is no chunk")
    return Wish(
        lane=_LANES[setup.lane],
        results=_RESULTS[setup.result_mode],
        seen=seen,
        first_available=(number, sample) if number else None,
        clock=_clock(setup, "SETUP_INVALID"),
        client=setup.client[:MAX_CLIENT],
    )


def missing_gap(record: SessionRecord, wish: Wish) -> Gap | None:
    """Return the gap that the client has to declare, as it no longer has what the server expects, or None.

    Raises Refusal SETUP_INVALID where its account cannot be, GAP_TOO_LONG where a session cannot go on over it.
    """
    expected, sample = record.committed_sequence_number + 1, record.committed_sample
    if wish.first_available is None or wish.first_available[0] <= expected:
        return None
    first, first_sample = wish.first_available
    n_numbers, n_samples = first - expected, first_sample - sample
    if n_samples < n_numbers:
        raise _invalid(
            f"chunk {first} at sample {first_sample} cannot be: chunk {expected} begins at {sample} and none is empty"
        )
    if n_samples > MAX_GAP_S * record.opening.audio_format.sample_rate_hz:
        raise Refusal(
            f"{n_samples} samples up to chunk {first} are missing, more than {MAX_GAP_S} s; begin a new session",
            reason="GAP_TOO_LONG",
        )
    return Gap(expected, first - 1, sample, n_samples, "spool_expired")


def read_message(request: ingest_pb2.StreamAudioRequest) -> Chunk | Gap | Finish | Heartbeat:
    """Return what a message after the setup says; raises Refusal SETUP_REPEATED or MESSAGE_INVALID."""
    match request.WhichOneof("message"):
        case "chunk":
            chunk = request.chunk
            return Chunk(
                chunk.sequence_number,
                chunk.start_sample,
                chunk.sample_count,
                chunk.data,
                chunk.crc32c,
                chunk.clipped_sample_count,
            )
        case "gap":
            return _read_gap(request.gap)
        case "finish":
            return Finish(request.finish.last_sequence_number, request.finish.total_samples)
        case "heartbeat":
            return read_heartbeat(request.heartbeat)
        case "setup":
            raise Refusal("a stream has one setup, as its first message", reason="SETUP_REPEATED")
        case _:
            raise Refusal("a message without content, or of a kind this server does not know", reason="MESSAGE_INVALID")


def read_heartbeat(heartbeat: ingest_pb2.Heartbeat) -> Heartbeat:
    """Return how a station is; raises Refusal MESSAGE_INVALID.

    A measurement that is NaN or infinite is none: a broken sensor is no reason to end a stream.
    """
    return Heartbeat(
        create_time_s=_time_s(heartbeat, "create_time"),
        spool_bytes=heartbeat.spool_bytes,
        spool_room_bytes=heartbeat.spool_room_bytes if heartbeat.HasField("spool_room_bytes") else None,
        spool_oldest_s=_time_s(heartbeat, "spool_oldest_time"),
        disk_free_bytes=heartbeat.disk_free_bytes,
        supply_volts=_measured(heartbeat, "supply_volts"),
        temperature_celsius=_measured(heartbeat, "temperature_celsius"),
        clock=_clock(heartbeat, "MESSAGE_INVALID"),
    )


def read_finish(request: ingest_pb2.FinishSessionRequest) -> tuple[SessionName, Finish]:
    """Return which session is to be finished with what account; raises Refusal NAME_INVALID."""
    return SessionName.parse(request.session), Finish(request.last_sequence_number, request.total_samples)


def captured_ms(request: ingest_pb2.StreamAudioRequest) -> int | None:
    """Return when the chunk's first sample was captured by the station's clock, None where it does not say.

    Raises Refusal CHUNK_SHAPE.
    """
    chunk = request.chunk
    if not chunk.HasField("capture_time"):
        return None
    return milliseconds(chunk.capture_time, reason="CHUNK_SHAPE", sequence_number=chunk.sequence_number)


def check_time(item: Chunk | Gap, opening: SessionOpening, *, now_ms: int) -> None:
    """Raise Refusal CHUNK_SHAPE for what ends more than a day from now, by the session's start and its count of samples."""
    end_sample, rate_hz = item.start_sample + item.sample_count, opening.audio_format.sample_rate_hz
    # Multiplied, as a division would round the last sample away.
    if end_sample * 1000 > (now_ms + DAY_MS - opening.capture_start_ms) * rate_hz:
        raise Refusal(
            f"chunk {item.sequence_number} ends at sample {end_sample}, more than a day from now; the session's "
            "capture_start_time or the count of samples is wrong",
            reason="CHUNK_SHAPE",
            sequence_number=item.sequence_number,
        )


def _read_gap(gap: ingest_pb2.Gap) -> Gap:
    if gap.reason not in GAP_REASONS:
        raise Refusal(f"gap reason {gap.reason} is not known to this server", reason="MESSAGE_INVALID")
    last = gap.last_sequence_number or gap.sequence_number
    return Gap(gap.sequence_number, last, gap.start_sample, gap.sample_count, GAP_REASONS[gap.reason])


def _read_format(audio_format: ingest_pb2.AudioFormat) -> AudioFormat:
    if audio_format.encoding not in _ENCODINGS:
        raise Refusal(
            f"encoding {audio_format.encoding} is not taken; send LINEAR16, FLOAT32 or FLAC",
            reason="FORMAT_UNSUPPORTED",
        )
    check_sample_rate(audio_format.sample_rate_hz)
    encoding = _ENCODINGS[audio_format.encoding]
    n_channels, channel = audio_format.channel_count, audio_format.channel
    most = MAX_FLAC_CHANNELS if encoding == "flac" else MAX_CHANNELS
    if not 1 <= n_channels <= most or channel > n_channels:
        raise Refusal(
            f"channel {channel} of {n_channels} cannot be taken; expected 1 to {most} channels and one of them, or 0 "
            "for their mean",
            reason="FORMAT_UNSUPPORTED",
        )
    return AudioFormat(encoding, audio_format.sample_rate_hz, n_channels, channel or None)


def _clock(message: ingest_pb2.Setup | ingest_pb2.Heartbeat, reason: str) -> ClockState:
    if message.clock_source not in _CLOCKS:
        raise Refusal(f"clock_source {message.clock_source} is not known to this server", reason=reason)
    error = _seconds(message.clock_error) if message.HasField("clock_error") else None
    if error is not None and not 0 <= error <= MAX_CLOCK_ERROR_S:
        raise Refusal(
            f"clock_error is {error:g} s; expected 0 to {MAX_CLOCK_ERROR_S}, or none where the clock may be off by anything",
            reason=reason,
        )
    return ClockState(_CLOCKS[message.clock_source], error)


def _time_s(heartbeat: ingest_pb2.Heartbeat, field: Literal["create_time", "spool_oldest_time"]) -> float | None:
    if not heartbeat.HasField(field):
        return None
    time: Timestamp = getattr(heartbeat, field)
    return milliseconds(time, reason="MESSAGE_INVALID") / 1000


def _measured(heartbeat: ingest_pb2.Heartbeat, field: Literal["supply_volts", "temperature_celsius"]) -> float | None:
    value: float = getattr(heartbeat, field)
    return value if heartbeat.HasField(field) and isfinite(value) else None


def _seconds(length: Duration) -> float:
    return length.seconds + length.nanos / 1e9


def _invalid(message: str) -> Refusal:
    return Refusal(message, reason="SETUP_INVALID")
