"""Stored songs as files: ``songs.csv``, clips, one Raven table over the clips, Audacity labels for each session."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

import soundfile

from songcore.annotations import Annotation, write_songs_csv
from songcore.audacity import write_audacity
from songcore.errors import ConfigError
from songcore.raven import write_raven
from songserve.archive.results import atomic_file, atomic_path, create_folder
from songserve.cells import NOVEL, cell
from songserve.clients.songs import SongRow
from songserve.clips_shelf import start_sample

__all__ = ["FORMATS", "ClipFile", "ClipOutcome", "fetch_clips", "song_label", "write_tables"]

FORMATS = ("csv", "raven", "audacity")
ClipOutcome = Literal["there", "fetched", "gone", "elsewhere", "damaged"]
"""there: fetched earlier; gone: deleted on the server, or never kept; elsewhere: on another server of the same store."""

AT_ONCE = 4
GROUP = 64
_REFUSED: dict[str, ClipOutcome] = {"CLIP_UNKNOWN": "gone", "CLIP_ELSEWHERE": "elsewhere"}
_MORE = (
    "station",
    "session",
    "onset_utc",
    "offset_utc",
    "type_id",
    "type_name",
    "kind",
    "similarity",
    "novelty_score",
    "p_value",
    "novel",
    "novelty",
    "quality",
    "snr_db",
    "forced_cut",
    "by_people",
    "model_type_id",
    "bundle",
    "uid",
    "clip",
)
"""Columns of ``songs.csv`` and of Raven's table after their own."""

Annotated = Callable[[Iterable[SongRow]], Iterator[Annotation]]


@dataclass(frozen=True, slots=True)
class ClipFile:
    """A song's sound on this disk."""

    path: str
    """Below the folder of the export, with forward slashes."""
    start_s: float
    """Of its first sample, from the start of the session."""
    duration_s: float
    sample_rate_hz: int


def song_label(one: SongRow, names: Mapping[str, str]) -> str:
    """Return what tables call a song: the name of its type, its id where it has none, or *novel*."""
    return NOVEL if one.is_novel else names.get(one.type) or one.type


def fetch_clips(
    out: Path,
    songs: Sequence[SongRow],
    fetch: Callable[[str], bytes],
    report: Callable[[ClipOutcome], None],
) -> tuple[dict[str, ClipFile], Counter[ClipOutcome]]:
    """Have the clips of the songs in a folder; return those that are there, by uid, and how many songs ended how.

    ``fetch`` gives the FLAC file of a uid, from several threads, and raises ConfigError; only CLIP_UNKNOWN and
    CLIP_ELSEWHERE are outcomes, others are raised. A clip that is there already is not fetched; one appears whole or not at
    all. Raises ConfigError OUTPUT_NOT_WRITABLE.
    """
    found: dict[str, ClipFile] = {}
    outcomes: Counter[ClipOutcome] = Counter()
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for first in range(0, len(songs), GROUP):
            group = songs[first : first + GROUP]
            for one, (outcome, clip) in zip(group, pool.map(lambda one: _have(out, one, fetch), group), strict=True):
                outcomes[outcome] += 1
                report(outcome)
                if clip is not None:
                    found[one.uid] = clip
    finally:
        pool.shutdown(cancel_futures=True)
    return found, outcomes


def _have(out: Path, one: SongRow, fetch: Callable[[str], bytes]) -> tuple[ClipOutcome, ClipFile | None]:
    path = f"clips/{one.station}/{one.start:%Y%m%d}/{one.start:%H%M%S}_{one.uid}.flac"
    file = out / path
    if file.exists() and (clip := _clip(path, file)):
        return "there", clip
    try:
        data = fetch(one.uid)
    except ConfigError as error:
        if error.reason not in _REFUSED:
            raise
        return _REFUSED[error.reason], None
    clip = _clip(path, BytesIO(data))
    if clip is None:
        return "damaged", None
    create_folder(file.parent)
    with atomic_path(file) as temporary:
        temporary.write_bytes(data)
    return "fetched", clip


def _clip(path: str, source: Path | BinaryIO) -> ClipFile | None:
    """Return what a clip says of itself, or None when it is none."""
    try:
        with soundfile.SoundFile(source) as file:
            rate = file.samplerate
            return ClipFile(path, start_sample(file) / rate, file.frames / rate, rate)
    except (OSError, ValueError, soundfile.LibsndfileError):
        return None


def write_tables(
    out: Path,
    songs: Sequence[SongRow],
    clips: Mapping[str, ClipFile],
    names: Mapping[str, str],
    formats: Sequence[str],
) -> list[Path]:
    """Write the tables named in ``formats`` and return them; ``names`` are those of types by id, ``clips`` go by uid.

    Each appears whole or not at all; raises ConfigError OUTPUT_NOT_WRITABLE.
    """
    create_folder(out)

    def annotated(some: Iterable[SongRow]) -> Iterator[Annotation]:
        # One at a time: with all its cells a song takes several times the memory of its row.
        return (_annotation(one, clips.get(one.uid), names) for one in some)

    files: list[Path] = []
    if "csv" in formats:
        files.append(out / "songs.csv")
        with atomic_file(files[-1]) as file:
            write_songs_csv(file, annotated(songs), more=_MORE)
    if "raven" in formats:
        files.append(_write_raven(out, songs, clips, annotated))
    if "audacity" in formats:
        files += _write_audacity(out, songs, annotated)
    return files


def _recording(one: SongRow) -> str:
    """Return what tables call the recording: a session is one, cut into chunks; named so that it sorts by time."""
    return f"{one.station}/{one.session_start:%Y%m%d_%H%M%S}_{one.session}"


def _annotation(one: SongRow, clip: ClipFile | None, names: Mapping[str, str]) -> Annotation:
    cells = {
        "station": one.station,
        "session": one.session,
        "onset_utc": one.start,
        "offset_utc": one.end,
        "type_id": one.type,
        "type_name": names.get(one.type, ""),
        "kind": one.kind,
        "similarity": one.similarity,
        "novelty_score": one.novelty_score,
        "p_value": one.p_value,
        "novel": one.is_novel,
        "novelty": one.novelty,
        "quality": one.quality,
        "snr_db": one.snr_db,
        "forced_cut": one.forced_cut,
        "by_people": one.by_people,
        "model_type_id": one.model_type,
        "bundle": one.bundle,
        "uid": one.uid,
        "clip": clip.path if clip else "",
    }
    more = {column: cell(value) for column, value in cells.items()}
    return Annotation(_recording(one), one.onset_s, one.offset_s, song_label(one, names), more=more)


def _write_raven(out: Path, songs: Sequence[SongRow], clips: Mapping[str, ClipFile], annotated: Annotated) -> Path:
    # In the order of their paths, in which Raven lists files, so that the accumulated times fit those of the clips opened
    # together.
    kept = sorted((one for one in songs if one.uid in clips), key=lambda one: clips[one.uid].path)

    def place(clip: ClipFile) -> str:
        # Absolute, as Raven opens clips by it.
        return str((out / clip.path).absolute())

    def selections() -> Iterator[Annotation]:
        for one in annotated(kept):
            clip = clips[one.more["uid"]]
            # A clip may begin or end within its song, where the link broke.
            onset_s = min(max(0.0, one.onset_s - clip.start_s), clip.duration_s)
            offset_s = max(onset_s, min(one.offset_s - clip.start_s, clip.duration_s))
            high_hz = clip.sample_rate_hz / 2
            yield replace(one, recording=place(clip), onset_s=onset_s, offset_s=offset_s, low_hz=0.0, high_hz=high_hz)

    durations_s = {place(clip): clip.duration_s for clip in (clips[one.uid] for one in kept)}
    table = out / "clips.selections.txt"
    with atomic_file(table) as file:
        write_raven(file, selections(), durations_s=durations_s, band_hz=(0.0, 0.0), more=_MORE)
    return table


def _write_audacity(out: Path, songs: Sequence[SongRow], annotated: Annotated) -> list[Path]:
    sessions: dict[str, list[SongRow]] = {}
    for one in songs:
        sessions.setdefault(_recording(one), []).append(one)
    files = []
    for recording, sung in sessions.items():
        files.append(out / "audacity" / f"{recording}.labels.txt")
        create_folder(files[-1].parent)
        with atomic_file(files[-1]) as file:
            write_audacity(file, annotated(sung))
    return files
