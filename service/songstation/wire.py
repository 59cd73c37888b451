"""Between the station's own types and the messages of songserve.v1; the only place that builds or reads them."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO

import numpy as np
import soundfile
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from google_crc32c import value as crc32c

from songserve.v1 import ingest_pb2, songs_pb2, types_pb2
from songstation.dialogue import (
    Acknowledged,
    ClockQuality,
    GoingAway,
    HeardSong,
    Opened,
    Pulse,
    SessionInfo,
    SessionNotice,
)
from songstation.outbox import End, Loss, Sound
from songstation.recovery import Failure

__all__ = [
    "Acknowledged",
    "ClockQuality",
    "GoingAway",
    "HeardSong",
    "Opened",
    "Pulse",
    "Request",
    "Response",
    "SessionInfo",
    "SessionNotice",
    "heartbeat_request",
    "item_request",
    "read_failure",
    "read_response",
    "read_songs",
    "setup_request",
    "songs_request",
    "status_request",
]

_SONGS_PER_PAGE = 500

Request = ingest_pb2.StreamAudioRequest
Response = ingest_pb2.StreamAudioResponse


def setup_request(
    session: SessionInfo, *, resume_token: str = "", first_available: tuple[int, int] = (1, 0)
) -> Request:
    """Return the first message of a stream of a session.

    ``first_available`` are number and start sample of the oldest item that is still here.
    """
    encoding = ingest_pb2.AudioFormat.Encoding.Value(f"ENCODING_{session.encoding.upper()}")
    audio_format = ingest_pb2.AudioFormat(encoding=encoding, sample_rate_hz=session.sample_rate_hz, channel_count=1)
    number, sample = first_available if first_available[0] > 1 else (0, 0)
    message = ingest_pb2.Setup(
        session=session.name,
        audio_format=audio_format,
        capture_start_time=_timestamp(session.start),
        lane=ingest_pb2.Lane.Value(f"LANE_{session.lane.upper()}"),
        result_mode=ingest_pb2.RESULT_MODE_PARTIAL if session.guesses else ingest_pb2.RESULT_MODE_FINAL,
        client=session.client,
        resume_token=resume_token,
        first_available_sequence_number=number,
        first_available_sample=sample,
        clock_source=_clock_source(session.clock),
        clock_error=_clock_error(session.clock),
    )
    return Request(setup=message)


def item_request(item: Sound | Loss | End, session: SessionInfo) -> Request:
    """Return the message that carries an item of the outbox, the same bytes each time."""
    if isinstance(item, Sound):
        data = _flac(item.data, session.sample_rate_hz) if session.encoding == "flac" else item.data
        chunk = ingest_pb2.Chunk(
            sequence_number=item.sequence_number,
            start_sample=item.start_sample,
            sample_count=item.n_samples,
            data=data,
            crc32c=crc32c(data),
        )
        return Request(chunk=chunk)
    if isinstance(item, Loss):
        gap = ingest_pb2.Gap(
            sequence_number=item.sequence_number,
            start_sample=item.start_sample,
            sample_count=item.n_samples,
            reason=ingest_pb2.Gap.Reason.Value(f"REASON_{item.reason}"),
            last_sequence_number=item.last_number if item.last_number != item.sequence_number else 0,
        )
        return Request(gap=gap)
    return Request(finish=ingest_pb2.Finish(last_sequence_number=item.last_number, total_samples=item.n_samples))


def heartbeat_request(now: datetime, pulse: Pulse) -> Request:
    """Return a sign of life."""
    beat = ingest_pb2.Heartbeat(
        create_time=_timestamp(now),
        spool_bytes=pulse.held_bytes,
        spool_oldest_time=_timestamp(pulse.oldest) if pulse.oldest else None,
        disk_free_bytes=pulse.disk_free_bytes,
        spool_room_bytes=pulse.room_bytes,
        supply_volts=pulse.supply_volts,
        temperature_celsius=pulse.temperature_celsius,
        clock_source=_clock_source(pulse.clock),
        clock_error=_clock_error(pulse.clock),
    )
    return Request(heartbeat=beat)


def read_response(response: Response) -> Opened | Acknowledged | HeardSong | SessionNotice | GoingAway | None:
    """Return what a response says; None for one of a later version of the protocol, to be ignored."""
    reader = _READERS.get(response.WhichOneof("message") or "")
    return reader(response) if reader else None


def _opened(response: Response) -> Opened:
    opened = response.setup_ack
    return Opened(
        expected=opened.expected_sequence_number,
        committed_sample=opened.committed_sample,
        window=opened.max_in_flight_chunks,
        finished=opened.finished,
        window_bytes=opened.max_in_flight_bytes,
        resume_token=opened.resume_token,
    )


def _acknowledged(response: Response) -> Acknowledged:
    ack = response.ack
    return Acknowledged(
        received=ack.received_sequence_number,
        committed=ack.committed_sequence_number,
        finished=ack.finished,
        window=ack.max_in_flight_chunks,
        window_bytes=ack.max_in_flight_bytes,
        resume_token=ack.resume_token,
    )


def _heard(response: Response) -> HeardSong:
    event = response.song
    is_guess = event.state == ingest_pb2.SongEvent.STATE_PARTIAL
    return replace(_song(event.song), revision=max(1, event.revision)) if is_guess else _song(event.song)


def _notice(response: Response) -> SessionNotice | None:
    event = response.session_event
    names = {value: name for name, value in ingest_pb2.SessionEvent.Kind.items()}
    if event.kind not in names:  # of a later version of the protocol
        return None
    kind = names[event.kind].removeprefix("KIND_").lower()
    return SessionNotice(kind, event.message, event.start_sample, event.sample_count)


def _going_away(response: Response) -> GoingAway:
    return GoingAway(response.go_away.retry_delay.ToNanoseconds() / 1e9)


_READERS: dict[str, Callable[[Response], Opened | Acknowledged | HeardSong | SessionNotice | GoingAway | None]] = {
    "setup_ack": _opened,
    "ack": _acknowledged,
    "song": _heard,
    "session_event": _notice,
    "go_away": _going_away,
}


_NOVELTY: dict[int, str] = {
    types_pb2.NOVELTY_KNOWN: "known",
    types_pb2.NOVELTY_UNCERTAIN: "uncertain",
    types_pb2.NOVELTY_NOVEL: "novel",
}
_QUALITY: dict[int, str] = {
    types_pb2.SONG_QUALITY_GOOD: "good",
    types_pb2.SONG_QUALITY_SHORT: "short",
    types_pb2.SONG_QUALITY_CLIPPED: "clipped",
    types_pb2.SONG_QUALITY_FAINT: "faint",
    types_pb2.SONG_QUALITY_OVERLAPPED: "overlapped",
}


def _song(song: types_pb2.Song) -> HeardSong:
    return HeardSong(
        name=song.name,
        type_id=song.song_type.removeprefix("songTypes/"),
        is_song=song.kind != types_pb2.SOUND_KIND_NOISE,
        similarity=song.similarity,
        p_value=song.p_value,
        novel=song.is_novel,
        novelty=_NOVELTY.get(song.novelty, ""),
        quality=_QUALITY.get(song.quality, ""),
        onset_s=song.onset_s,
        offset_s=song.offset_s,
        start=song.start_time.ToDatetime(UTC),
        snr_db=song.snr_db,
        forced_cut=song.forced_cut,
        bundle=song.model_bundle.removeprefix("modelBundles/"),
    )


def status_request(session: str) -> ingest_pb2.GetSessionStatusRequest:
    """Return the question how far the server is with a session."""
    return ingest_pb2.GetSessionStatusRequest(session=session)


def songs_request(session: str, since: datetime | None, page_token: str) -> songs_pb2.ListSongsRequest:
    """Return the question for a page of the session's stored songs that begin at ``since`` or later, noise included."""
    return songs_pb2.ListSongsRequest(
        page_size=_SONGS_PER_PAGE,
        page_token=page_token,
        start_time=None if since is None else _timestamp(since),
        session=session,
        include_noise=True,
    )


def read_songs(page: songs_pb2.ListSongsResponse) -> tuple[list[HeardSong], str]:
    """Return the songs of a page and the token of the next one, empty on the last."""
    return [_song(song) for song in page.songs], page.next_page_token


def read_failure(code: str, message: str, details: bytes | None) -> Failure:
    """Return how a stream failed from gRPC's code, its message and the google.rpc.Status it may carry.

    What is none is passed over: a proxy in between may put anything there, and code and message remain.
    """
    info, retry = ErrorInfo(), RetryInfo()
    try:
        for detail in Status.FromString(details or b"").details:
            detail.Unpack(info)
            detail.Unpack(retry)
    except DecodeError:
        return Failure(code, "", message)
    retry_after_s = max(0.0, retry.retry_delay.ToNanoseconds() / 1e9)
    return Failure(code, info.reason, message, dict(info.metadata), retry_after_s)


def _timestamp(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def _clock_source(clock: ClockQuality) -> ingest_pb2.ClockSource.ValueType:
    return ingest_pb2.ClockSource.Value(f"CLOCK_SOURCE_{clock.source.upper()}")


def _clock_error(clock: ClockQuality) -> Duration | None:
    if clock.error_s is None:
        return None
    error = Duration()
    error.FromNanoseconds(round(clock.error_s * 1e9))
    return error


def _flac(data: bytes, sample_rate_hz: int) -> bytes:
    """Return 16-bit mono samples as one FLAC stream; the encoder is deterministic, so that a resend is the same."""
    file = BytesIO()
    soundfile.write(file, np.frombuffer(data, "<i2"), sample_rate_hz, format="FLAC", subtype="PCM_16")
    return file.getvalue()
