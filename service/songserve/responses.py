"""Domain values to responses of `songserve.v1`; those of sessions are built in `songserve.ingest_responses`."""

from collections.abc import Iterable, Sequence

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from songcore.assign import Assignment
from songcore.bundle import Bundle
from songcore.decisions import View
from songcore.stream import Song
from songserve.frequencies import Frequency
from songserve.hearing import Model
from songserve.queries import Position
from songserve.records import StoredClip, StoredSong
from songserve.v1 import classification_pb2, songs_pb2, types_pb2
from songserve.verdicts import verdict

__all__ = [
    "KINDS",
    "bundle_name",
    "clip_data",
    "clip_header",
    "clip_message",
    "decision_name",
    "duration",
    "frequency_page",
    "named_song",
    "recording_song",
    "recording_summary",
    "song_message",
    "song_page",
    "songs_stored",
    "timestamp",
    "type_name",
]

FREQUENCY_PAGE_BYTES = 2 * 2**20
"""Half of what clients of gRPC take unless they are told otherwise."""

KINDS = {"song": types_pb2.SOUND_KIND_SONG, "noise": types_pb2.SOUND_KIND_NOISE}
_NOVELTY = {
    "known": types_pb2.NOVELTY_KNOWN,
    "uncertain": types_pb2.NOVELTY_UNCERTAIN,
    "novel": types_pb2.NOVELTY_NOVEL,
}
_QUALITY = {
    "ungraded": types_pb2.SONG_QUALITY_UNSPECIFIED,
    "good": types_pb2.SONG_QUALITY_GOOD,
    "short": types_pb2.SONG_QUALITY_SHORT,
    "clipped": types_pb2.SONG_QUALITY_CLIPPED,
    "faint": types_pb2.SONG_QUALITY_FAINT,
    "overlapped": types_pb2.SONG_QUALITY_OVERLAPPED,
}


def song_message(song: StoredSong, view: View) -> types_pb2.Song:
    """Return a stored song, with what people made of it."""
    decided = verdict(song, view)
    return types_pb2.Song(
        name=f"songs/{song.uid}",
        station=f"stations/{song.station}",
        session=f"stations/{song.station}/sessions/{song.session}",
        start_time=timestamp(song.start_ms),
        end_time=timestamp(song.end_ms),
        onset_sample=song.onset,
        offset_sample=song.offset,
        sample_rate_hz=song.sample_rate_hz,
        onset_s=song.onset / song.sample_rate_hz,
        offset_s=song.offset / song.sample_rate_hz,
        song_type=type_name(song.type_id),
        kind=KINDS[song.kind],
        similarity=song.similarity,
        novelty_score=song.novelty_score,
        p_value=song.p_value,
        is_novel=song.is_novel,
        novelty=_NOVELTY[song.novelty],
        forced_cut=song.forced_cut,
        snr_db=song.snr_db,
        quality=_QUALITY[song.quality],
        model_bundle=bundle_name(song.bundle),
        decided=types_pb2.Verdict(
            song_type=type_name(decided.type_id),
            kind=KINDS[decided.kind],
            is_novel=decided.is_novel,
            by_people=decided.by_people,
        ),
    )


def recording_song(song: Song, name: Assignment, model: Model) -> classification_pb2.ClassifyRecordingResponse:
    """Return a song of a recording."""
    return classification_pb2.ClassifyRecordingResponse(song=named_song(song, name, model))


def named_song(song: Song, name: Assignment, model: Model) -> types_pb2.Song:
    """Return a song that is not stored, and which bundle heard and named it."""
    rate = model.sample_rate_hz
    return types_pb2.Song(
        onset_sample=song.onset,
        offset_sample=song.offset,
        sample_rate_hz=rate,
        onset_s=song.onset / rate,
        offset_s=song.offset / rate,
        song_type=type_name(name.type_id),
        kind=KINDS[name.kind],
        similarity=name.similarity,
        novelty_score=name.novelty_score,
        p_value=name.p_value,
        is_novel=name.is_novel,
        novelty=_NOVELTY[name.novelty],
        forced_cut=song.forced_cut,
        snr_db=song.snr_db,
        quality=_QUALITY[song.quality],
        model_bundle=bundle_name(model.digest),
    )


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
            n_uncertain=sum(name.novelty == "uncertain" for name in names),
            n_noise=sum(name.kind == "noise" for name in names),
            model_bundle=bundle_name(bundle.digest),
        )
    )


def song_page(songs: Sequence[StoredSong], following: Position | None, view: View) -> songs_pb2.ListSongsResponse:
    """Return one page of songs."""
    token = "" if following is None else f"{following[0]}.{following[1]}"
    return songs_pb2.ListSongsResponse(songs=[song_message(song, view) for song in songs], next_page_token=token)


def songs_stored(songs: Sequence[StoredSong], resume_token: str, view: View) -> songs_pb2.WatchSongsResponse:
    """Return songs to one who watches, and where to go on."""
    return songs_pb2.WatchSongsResponse(
        songs=[song_message(song, view) for song in songs],
        resume_token=resume_token,
        last_decision=decision_name(view.last_seq) if view.last_seq else "",
    )


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


def frequency_page(found: Iterable[Frequency], size: int) -> songs_pb2.QueryFrequenciesResponse:
    """Return one page of counts beside effort: at most ``size`` buckets, and no more than `FREQUENCY_PAGE_BYTES`."""
    page = songs_pb2.QueryFrequenciesResponse()
    n_bytes, end = 0, ""
    for frequency in found:
        bucket = _frequency_bucket(frequency)
        n_bytes += bucket.ByteSize()
        # A single bucket is never too large: it has each type once.
        if end and (len(page.buckets) == size or n_bytes > FREQUENCY_PAGE_BYTES):
            page.next_page_token = end
            break
        page.buckets.append(bucket)
        end = f"{frequency.station}.{'' if frequency.start_ms is None else frequency.start_ms}"
    return page


def _frequency_bucket(frequency: Frequency) -> songs_pb2.FrequencyBucket:
    return songs_pb2.FrequencyBucket(
        station=f"stations/{frequency.station}",
        start_time=None if frequency.start_ms is None else timestamp(frequency.start_ms),
        recorded_s=frequency.recorded_s,
        counts=[
            songs_pb2.TypeCount(song_type=type_name(type_id), n_songs=n) for type_id, n in frequency.counts.items()
        ],
        n_novel=frequency.n_novel,
        n_noise=frequency.n_noise,
    )


def decision_name(seq: int) -> str:
    """Return a decision's resource name."""
    return f"decisions/{seq}"


def type_name(type_id: str) -> str:
    """Return a song type's resource name."""
    return f"songTypes/{type_id}"


def bundle_name(digest: str) -> str:
    """Return a bundle's resource name."""
    return f"modelBundles/{digest}"


def timestamp(milliseconds: int) -> Timestamp:
    """Return a time, UTC milliseconds since 1970."""
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


def duration(seconds: float) -> Duration:
    """Return a length of time, which may be negative."""
    nanos = round(seconds * 1_000_000_000)
    whole = int(nanos / 1_000_000_000)  # both parts have the same sign
    return Duration(seconds=whole, nanos=nanos - whole * 1_000_000_000)
