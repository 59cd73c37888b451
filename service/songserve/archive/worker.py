"""What one worker process does: hear one recording from begin to end and keep the result."""

import logging
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from songcore.audio import Recording, open_recording
from songcore.errors import BundleError, ConfigError, InputError
from songcore.recorders import read_guano, stated_start
from songserve.archive.recordings import FoundRecording
from songserve.archive.results import FoundSong, Journal, Problem, RecordingResult

if TYPE_CHECKING:
    from songcore.bundle import Bundle
    from songcore.stream import Song

__all__ = ["BundleFacts", "Job", "Outcome", "classify_recording", "describe_bundle", "start_worker"]

SONGS_PER_BATCH = 32
BLOCK_S = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """What is the same for every recording of a run."""

    bundle: Path
    out: Path
    channel: int | None
    device: Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """What the parent process needs to know of a bundle, so that it need not load it."""

    digest: str
    name: str
    provider: str
    band_hz: tuple[float, float]
    type_names: dict[str, str]
    """Name by id; empty where none was given."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one recording went; the songs are in the journal when ``kept``."""

    recording: FoundRecording
    duration_s: float
    n_songs: int
    problem: Problem | None
    kept: bool


def start_worker() -> None:
    """Prepare a worker process: Ctrl-C is the parent's business, and without a parent there is no business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@cache
def _loaded(bundle: Path, device: Literal["auto", "cpu", "cuda"]) -> "Bundle":
    # Imported late: the parent process, which imports this module too, needs neither onnxruntime nor FAISS.
    from songcore.bundle import load_bundle

    return load_bundle(bundle, device=device)


def describe_bundle(job: Job) -> BundleFacts:
    """Load and verify the bundle in this process, and return what others must know; raises BundleError, ConfigError."""
    bundle = _loaded(job.bundle, job.device)
    return BundleFacts(
        digest=bundle.digest,
        name=bundle.manifest.name,
        provider=bundle.embedder.provider,
        band_hz=(bundle.manifest.frontend.f_min_hz, bundle.manifest.frontend.f_max_hz),
        type_names={song_type.id: song_type.name for song_type in bundle.types},
    )


def classify_recording(job: Job, recording: FoundRecording) -> Outcome:
    """Classify one recording and keep the result in the journal.

    Whatever is wrong with the recording is in the outcome. Raises BundleError and ConfigError only, which concern every
    recording.
    """
    bundle = _loaded(job.bundle, job.device)
    try:
        result = _hear(bundle, job.channel, recording)
    except (BundleError, ConfigError):
        raise
    except InputError as error:
        return Outcome(recording, 0.0, 0, Problem(reason=error.reason, message=str(error)), kept=False)
    except OSError as error:
        return Outcome(recording, 0.0, 0, Problem(reason="READ_FAILED", message=str(error)), kept=False)
    except Exception as error:
        # A fault of ours in one recording of a hundred thousand must not cost the others.
        log.exception("unexpected error in %s", recording.name)
        return Outcome(recording, 0.0, 0, Problem(reason="INTERNAL", message=repr(error)), kept=False)
    Journal(job.out, bundle=bundle.digest, channel=job.channel).save(recording, result)
    return Outcome(recording, result.duration_s, len(result.songs), result.problem, kept=True)


def _hear(bundle: "Bundle", channel: int | None, found: FoundRecording) -> RecordingResult:
    with open_recording(found.path, channel=channel) as recording, found.path.open("rb") as file:
        n_samples, songs, problem = _songs(bundle, recording)
        return RecordingResult(
            recording=found.name,
            size_bytes=found.size_bytes,
            modified_ns=found.modified_ns,
            bundle=bundle.digest,
            channel=channel,
            sample_rate_hz=recording.sample_rate_hz,
            bundle_rate_hz=bundle.manifest.frontend.sample_rate_hz,
            n_channels=recording.n_channels,
            n_samples=n_samples,
            start=stated_start(found.name, comment=recording.comment, guano=_guano(file)),
            songs=tuple(songs),
            problem=problem,
        )


def _guano(file: BinaryIO) -> str:
    try:
        return read_guano(file)
    except OSError:
        # A part of the disk that cannot be read there must not cost the songs, which were found by now.
        return ""


def _songs(bundle: "Bundle", recording: Recording) -> tuple[int, list[FoundSong], Problem | None]:
    """Return samples heard, songs, and why the recording broke off, if it did: what came before that is good."""
    stream = bundle.new_stream(recording.sample_rate_hz)
    n_samples, found, problem = 0, [], None
    waiting: list[Song] = []
    try:
        for block in recording.blocks(BLOCK_S):
            n_samples += len(block)
            waiting += stream.push(block)
            if len(waiting) >= SONGS_PER_BATCH:
                found += _named(bundle, waiting)
                waiting = []
    except InputError as error:
        if error.reason != "TRUNCATED" or n_samples == 0:
            raise
        problem = Problem(reason=error.reason, message=str(error))
    found += _named(bundle, waiting + stream.finish())
    return n_samples, found, problem


def _named(bundle: "Bundle", songs: "list[Song]") -> list[FoundSong]:
    return [
        FoundSong(
            onset=song.onset,
            offset=song.offset,
            type_id=assignment.type_id,
            kind=assignment.kind,
            similarity=assignment.similarity,
            p_value=assignment.p_value,
            novelty=assignment.novelty,
            forced_cut=song.forced_cut,
            snr_db=song.snr_db,
            quality=song.quality,
        )
        for song, assignment in zip(songs, bundle.classify(songs), strict=True)
    ]
