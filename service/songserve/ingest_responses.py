"""Domain values to the responses of IngestService: the only module that builds those messages."""

from songcore.assign import Assignment
from songcore.bundle import Bundle
from songcore.decisions import View
from songserve.credit import Credit
from songserve.hearing import Found
from songserve.intake import Gap
from songserve.notices import Notice
from songserve.records import SessionRecord, StoredSong
from songserve.responses import bundle_name, duration, named_song, song_message, timestamp
from songserve.v1 import ingest_pb2

__all__ = ["ack", "go_away", "notice_event", "partial_event", "session_status", "setup_ack", "song_event"]

Response = ingest_pb2.StreamAudioResponse

_ENCODINGS = {
    "linear16": ingest_pb2.AudioFormat.ENCODING_LINEAR16,
    "float32": ingest_pb2.AudioFormat.ENCODING_FLOAT32,
    "flac": ingest_pb2.AudioFormat.ENCODING_FLAC,
}


def setup_ack(
    record: SessionRecord,
    bundle: Bundle,
    *,
    max_chunk_bytes: int,
    credit: Credit,
    lease_s: float,
    missing: Gap | None,
    now_ms: int,
) -> Response:
    """Return the answer to a setup."""
    return Response(
        setup_ack=ingest_pb2.SetupAck(
            expected_sequence_number=record.committed_sequence_number + 1,
            committed_sequence_number=record.committed_sequence_number,
            committed_sample=record.committed_sample,
            writer_epoch=record.writer_epoch,
            max_chunk_bytes=max_chunk_bytes,
            max_in_flight_chunks=credit.chunks,
            max_in_flight_bytes=credit.n_bytes,
            server_time=timestamp(now_ms),
            model_bundle=bundle_name(bundle.digest),
            decision_delay=duration(bundle.manifest.segmenter.decision_delay_s),
            finished=record.finished,
            missing=None if missing is None else _gap(missing),
            lease=duration(lease_s),
            resume_token=_resume_token(record),
        )
    )


def ack(received_sequence_number: int, record: SessionRecord, credit: Credit) -> Response:
    """Return how far a session is."""
    return Response(
        ack=ingest_pb2.Ack(
            received_sequence_number=received_sequence_number,
            committed_sequence_number=record.committed_sequence_number,
            committed_sample=record.committed_sample,
            finished=record.finished,
            max_in_flight_chunks=credit.chunks,
            max_in_flight_bytes=credit.n_bytes,
            resume_token=_resume_token(record),
        )
    )


def song_event(song: StoredSong, view: View) -> Response:
    """Return the event of a song that was committed."""
    return Response(song=ingest_pb2.SongEvent(song=song_message(song, view), state=ingest_pb2.SongEvent.STATE_FINAL))


def partial_event(song: Found, name: Assignment, record: SessionRecord, *, revision: int) -> Response:
    """Return a guess at a song that is being sung."""
    opening, message = record.opening, named_song(song[0], name, song[1])
    message.station, message.session = f"stations/{opening.name.station}", str(opening.name)
    message.start_time.CopyFrom(timestamp(opening.capture_start_ms + round(message.onset_s * 1000)))
    message.end_time.CopyFrom(timestamp(opening.capture_start_ms + round(message.offset_s * 1000)))
    state = ingest_pb2.SongEvent.STATE_PARTIAL
    return Response(song=ingest_pb2.SongEvent(song=message, state=state, revision=revision))


def notice_event(notice: Notice) -> Response:
    """Return something worth telling about the session."""
    return Response(
        session_event=ingest_pb2.SessionEvent(
            kind=ingest_pb2.SessionEvent.Kind.Value(f"KIND_{notice.kind.upper()}"),
            message=notice.message,
            start_sample=notice.start_sample,
            sample_count=notice.n_samples,
            gap_reason=ingest_pb2.Gap.Reason.Value(f"REASON_{notice.gap_reason.upper()}"),
            clock_offset=duration(notice.clock_offset_s) if notice.clock_offset_s else None,
        )
    )


def go_away(reason: str, *, deadline_ms: int, retry_delay_s: float) -> Response:
    """Return the announcement that the stream will end, for the reason ``DRAINING`` or ``LEASE_EXPIRED``."""
    return Response(
        go_away=ingest_pb2.GoAway(
            reason=ingest_pb2.GoAway.Reason.Value(f"REASON_{reason}"),
            drain_deadline=timestamp(deadline_ms),
            retry_delay=duration(retry_delay_s),
        )
    )


def session_status(
    record: SessionRecord, bundle: Bundle, *, n_songs: int, received_sequence_number: int | None
) -> ingest_pb2.SessionStatus:
    """Return a session as it stands in the store, and what a connected stream has received beyond, None for no stream."""
    audio_format, clock = record.opening.audio_format, record.opening.clock
    committed = record.committed_sequence_number
    return ingest_pb2.SessionStatus(
        session=str(record.opening.name),
        expected_sequence_number=committed + 1,
        committed_sequence_number=committed,
        committed_sample=record.committed_sample,
        writer_epoch=record.writer_epoch,
        finished=record.finished,
        connected=received_sequence_number is not None,
        audio_format=ingest_pb2.AudioFormat(
            encoding=_ENCODINGS[audio_format.encoding],
            sample_rate_hz=audio_format.sample_rate_hz,
            channel_count=audio_format.n_channels,
            channel=audio_format.channel or 0,
        ),
        capture_start_time=timestamp(record.opening.capture_start_ms),
        clock_source=ingest_pb2.ClockSource.Value(f"CLOCK_SOURCE_{clock.source.upper()}"),
        clock_error=None if clock.error_s is None else duration(clock.error_s),
        n_songs=n_songs,
        received_sequence_number=max(committed, received_sequence_number or 0),
        open_since_sample=record.input_sample,
        model_bundle=bundle_name(bundle.digest),
        resume_token=_resume_token(record),
    )


def _gap(gap: Gap) -> ingest_pb2.Gap:
    return ingest_pb2.Gap(
        sequence_number=gap.sequence_number,
        last_sequence_number=gap.last_sequence_number,
        start_sample=gap.start_sample,
        sample_count=gap.sample_count,
        reason=ingest_pb2.Gap.Reason.Value(f"REASON_{gap.reason.upper()}"),
    )


def _resume_token(record: SessionRecord) -> str:
    return f"{record.writer_epoch}.{record.committed_sequence_number}"
