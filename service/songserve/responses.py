"""Domain values to responses of `songserve.v1`: the only module that builds those messages."""

import json
from collections.abc import Mapping, Sequence

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from songcore.assign import Assignment
from songcore.bundle import Bundle
from songcore.stream import Song
from songserve.frequencies import Frequency
from songserve.queries import Position
from songserve.records import SessionRecord, StoredClip, StoredSong
from songserve.v1 import classification_pb2, ingest_pb2, models_pb2, songs_pb2, types_pb2

__all__ = [
    "ack",
    "clip_data",
    "clip_header",
    "clip_message",
    "frequencies",
    "go_away",
    "model",
    "model_list",
    "recording_song",
    "recording_summary",
    "session_status",
    "setup_ack",
    "song_event",
    "song_message",
    "song_page",
    "song_types",
    "songs_stored",
]

_KINDS = {"song": types_pb2.SOUND_KIND_SONG, "noise": types_pb2.SOUND_KIND_NOISE}
_ENCODINGS = {
    "linear16": ingest_pb2.AudioFormat.ENCODING_LINEAR16,
    "float32": ingest_pb2.AudioFormat.ENCODING_FLOAT32,
}


def setup_ack(
    record: SessionRecord, bundle: Bundle, *, max_chunk_bytes: int, max_in_flight_chunks: int, now_ms: int
) -> ingest_pb2.StreamAudioResponse:
    """Return the answer to a setup."""
    return ingest_pb2.StreamAudioResponse(
        setup_ack=ingest_pb2.SetupAck(
            expected_sequence_number=record.committed_sequence_number + 1,
            committed_sequence_number=record.committed_sequence_number,
            committed_sample=record.committed_sample,
            writer_epoch=record.writer_epoch,
            max_chunk_bytes=max_chunk_bytes,
            max_in_flight_chunks=max_in_flight_chunks,
            server_time=_timestamp(now_ms),
            model_bundle=_bundle_name(bundle.digest),
            decision_delay=_duration(bundle.manifest.segmenter.decision_delay_s),
            finished=record.finished,
        )
    )


def ack(received_sequence_number: int, record: SessionRecord) -> ingest_pb2.StreamAudioResponse:
    """Return how far a session is."""
    return ingest_pb2.StreamAudioResponse(
        ack=ingest_pb2.Ack(
            received_sequence_number=received_sequence_number,
            committed_sequence_number=record.committed_sequence_number,
            committed_sample=record.committed_sample,
            finished=record.finished,
        )
    )


def song_event(song: StoredSong) -> ingest_pb2.StreamAudioResponse:
    """Return the event of a song that was committed."""
    event = ingest_pb2.SongEvent(song=song_message(song), state=ingest_pb2.SongEvent.STATE_FINAL)
    return ingest_pb2.StreamAudioResponse(song=event)


def go_away(*, deadline_ms: int, retry_delay_s: float) -> ingest_pb2.StreamAudioResponse:
    """Return the announcement of a shutdown."""
    return ingest_pb2.StreamAudioResponse(
        go_away=ingest_pb2.GoAway(
            reason=ingest_pb2.GoAway.REASON_DRAINING,
            drain_deadline=_timestamp(deadline_ms),
            retry_delay=_duration(retry_delay_s),
        )
    )


def session_status(record: SessionRecord, *, n_songs: int, connected: bool) -> ingest_pb2.SessionStatus:
    """Return a session as it stands in the store."""
    audio_format = record.opening.audio_format
    return ingest_pb2.SessionStatus(
        session=str(record.opening.name),
        expected_sequence_number=record.committed_sequence_number + 1,
        committed_sequence_number=record.committed_sequence_number,
        committed_sample=record.committed_sample,
        writer_epoch=record.writer_epoch,
        finished=record.finished,
        connected=connected,
        audio_format=ingest_pb2.AudioFormat(
            encoding=_ENCODINGS[audio_format.encoding],
            sample_rate_hz=audio_format.sample_rate_hz,
            channel_count=audio_format.n_channels,
            channel=audio_format.channel or 0,
        ),
        capture_start_time=_timestamp(record.opening.capture_start_ms),
        n_songs=n_songs,
    )


def song_message(song: StoredSong) -> types_pb2.Song:
    """Return a stored song."""
    return types_pb2.Song(
        name=f"songs/{song.uid}",
        station=f"stations/{song.station}",
        session=f"stations/{song.station}/sessions/{song.session}",
        start_time=_timestamp(song.start_ms),
        end_time=_timestamp(song.end_ms),
        onset_sample=song.onset,
        offset_sample=song.offset,
        sample_rate_hz=song.sample_rate_hz,
        onset_s=song.onset / song.sample_rate_hz,
        offset_s=song.offset / song.sample_rate_hz,
        song_type=_type_name(song.type_id),
        kind=_KINDS[song.kind],
        similarity=song.similarity,
        novelty_score=song.novelty_score,
        p_value=song.p_value,
        is_novel=song.is_novel,
        forced_cut=song.forced_cut,
        snr_db=song.snr_db,
        model_bundle=_bundle_name(song.bundle),
    )


def recording_song(song: Song, name: Assignment, bundle: Bundle) -> classification_pb2.ClassifyRecordingResponse:
    """Return a song of a recording."""
    rate = bundle.manifest.frontend.sample_rate_hz
    message = types_pb2.Song(
        onset_sample=song.onset,
        offset_sample=song.offset,
        sample_rate_hz=rate,
        onset_s=song.onset / rate,
        offset_s=song.offset / rate,
        song_type=_type_name(name.type_id),
        kind=_KINDS[name.kind],
        similarity=name.similarity,
        novelty_score=name.novelty_score,
        p_value=name.p_value,
        is_novel=name.is_novel,
        forced_cut=song.forced_cut,
        snr_db=song.snr_db,
        model_bundle=_bundle_name(bundle.digest),
    )
    return classification_pb2.ClassifyRecordingResponse(song=message)


def recording_summary(
    names: Sequence[Assignment], bundle: Bundle, *, sample_rate_hz: int, n_channels: int, n_samples: int
) -> classification_pb2.ClassifyRecordingResponse:
    """Return the last response about a recording."""
    return classification_pb2.ClassifyRecordingResponse(
        summary=classification_pb2.RecordingSummary(
            sample_rate_hz=sample_rate_hz,
            channel_count=n_channels,
            duration_s=n_samples / sample_rate_hz,
            n_songs=len(names),
            n_novel=sum(name.is_novel for name in names),
            n_noise=sum(name.kind == "noise" for name in names),
            model_bundle=_bundle_name(bundle.digest),
        )
    )


def song_page(songs: Sequence[StoredSong], following: Position | None) -> songs_pb2.ListSongsResponse:
    """Return one page of songs."""
    token = "" if following is None else f"{following[0]}.{following[1]}"
    return songs_pb2.ListSongsResponse(songs=[song_message(song) for song in songs], next_page_token=token)


def songs_stored(songs: Sequence[StoredSong], resume_token: str) -> songs_pb2.WatchSongsResponse:
    """Return songs to one who watches, and where to go on."""
    return songs_pb2.WatchSongsResponse(songs=[song_message(song) for song in songs], resume_token=resume_token)


def clip_message(song: StoredSong, clip: StoredClip) -> songs_pb2.SongClip:
    """Return what a clip is."""
    start_s = clip.start_sample / clip.sample_rate_hz
    return songs_pb2.SongClip(
        song=f"songs/{song.uid}",
        sample_rate_hz=clip.sample_rate_hz,
        start_sample=clip.start_sample,
        sample_count=clip.n_samples,
        size_bytes=clip.n_bytes,
        onset_s=song.onset / song.sample_rate_hz - start_s,
        offset_s=song.offset / song.sample_rate_hz - start_s,
        kept=clip.kept,
    )


def clip_header(song: StoredSong, clip: StoredClip) -> songs_pb2.GetSongClipResponse:
    """Return the first response of a clip."""
    return songs_pb2.GetSongClipResponse(clip=clip_message(song, clip))


def clip_data(data: bytes) -> songs_pb2.GetSongClipResponse:
    """Return bytes of a clip."""
    return songs_pb2.GetSongClipResponse(data=data)


def song_types(bundle: Bundle, n_songs: Mapping[str, int]) -> songs_pb2.ListSongTypesResponse:
    """Return the bundle's catalogue with the songs stored of each type."""
    return songs_pb2.ListSongTypesResponse(
        song_types=[
            types_pb2.SongType(
                name=_type_name(song_type.id),
                display_name=song_type.name,
                kind=_KINDS[song_type.kind],
                n_songs=n_songs.get(song_type.id, 0),
            )
            for song_type in bundle.types
        ]
    )


def frequencies(found: Sequence[Frequency]) -> songs_pb2.QueryFrequenciesResponse:
    """Return counts beside effort."""
    return songs_pb2.QueryFrequenciesResponse(
        buckets=[
            songs_pb2.FrequencyBucket(
                station=f"stations/{frequency.station}",
                start_time=None if frequency.start_ms is None else _timestamp(frequency.start_ms),
                recorded_s=frequency.recorded_s,
                counts=[
                    songs_pb2.TypeCount(song_type=_type_name(type_id), n_songs=n)
                    for type_id, n in frequency.counts.items()
                ],
                n_novel=frequency.n_novel,
                n_noise=frequency.n_noise,
            )
            for frequency in found
        ]
    )


def model(bundle: Bundle) -> models_pb2.Model:
    """Return what a bundle is and where it runs."""
    frontend, segmenter = Struct(), Struct()
    frontend.update(json.loads(bundle.manifest.frontend.model_dump_json()))
    segmenter.update(json.loads(bundle.manifest.segmenter.model_dump_json()))
    return models_pb2.Model(
        name=_bundle_name(bundle.digest),
        display_name=bundle.manifest.name,
        digest=bundle.digest,
        active=True,
        provider=bundle.embedder.provider,
        sample_rate_hz=bundle.manifest.frontend.sample_rate_hz,
        decision_delay=_duration(bundle.manifest.segmenter.decision_delay_s),
        n_song_types=len(bundle.types),
        frontend=frontend,
        segmenter=segmenter,
    )


def model_list(bundles: Sequence[Bundle]) -> models_pb2.ListModelsResponse:
    """Return several bundles, the active one first."""
    return models_pb2.ListModelsResponse(models=[model(bundle) for bundle in bundles])


def _type_name(type_id: str) -> str:
    return f"songTypes/{type_id}"


def _bundle_name(digest: str) -> str:
    return f"modelBundles/{digest}"


def _timestamp(milliseconds: int) -> Timestamp:
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


def _duration(seconds: float) -> Duration:
    nanos = round(seconds * 1_000_000_000)
    return Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)
