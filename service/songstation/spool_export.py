"""A spool for people: what is in it, and its sound as recordings. Reads only, also beside a station that runs."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal
from uuid import UUID

import numpy as np
import soundfile
from numpy.typing import NDArray

from songcore.errors import ConfigError, InputError
from songstation.clock import SampleClock
from songstation.outbox import Loss
from songstation.spool_files import file_name, read_record
from songstation.spool_recovery import Recovered, recover, segment_items
from songstation.spool_sessions import Session, SpooledSound

__all__ = ["SpooledSession", "export", "listed", "require_spool"]


@dataclass(frozen=True)
class SpooledSession:
    """One session, as far as its files are there."""

    session: str
    station: str
    start: datetime
    """Of the first sample that is there."""
    sample_rate_hz: int
    seconds: float
    lost_s: float
    """Declared lost, found damaged, or noted as lost behind its files."""
    committed_s: float
    """Of what is there, that the server has."""
    finished: bool
    n_bytes: int


def listed(directory: Path) -> list[SpooledSession]:
    """Return the sessions of a spool, oldest first."""
    spool = _looked_at(directory)
    return [_described(directory, spool, uuid) for uuid in spool.index.sessions()]


def export(directory: Path, session: str, to: Path, file_format: Literal["wav", "flac"]) -> Path:
    """Write a session as one recording, silence in the place of losses; return its path, named by its start in UTC.

    Raises InputError SESSION_MISSING when the spool has no such session, ConfigError OUTPUT_NOT_WRITABLE.
    """
    spool = _looked_at(directory)
    uuid = next((one for one in spool.index.sessions() if str(one) == session), None)
    if uuid is None:
        raise InputError(
            f"no session {session} in {directory}; `station spool list` names them", reason="SESSION_MISSING"
        )
    description = spool.sessions[uuid]
    path = to / f"{_file_name(spool, uuid)}.{file_format}"
    unfinished = path.with_name(f"{path.name}.tmp")
    try:
        to.mkdir(parents=True, exist_ok=True)
        _write(unfinished, description.sample_rate_hz, file_format, _samples(directory, spool, uuid))
        unfinished.replace(path)
    except (OSError, soundfile.SoundFileError) as error:  # reading raises neither: what cannot be read is silence
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{path} cannot be written ({why}); name another directory by --to, or make room",
            reason="OUTPUT_NOT_WRITABLE",
        ) from error
    return path


def _file_name(spool: Recovered, uuid: UUID) -> str:
    """Return a name without its ending, another for each session of the spool."""
    names: Counter[tuple[str, str]] = Counter()
    for one in spool.index.sessions():
        start = _time_of(spool.sessions[one], spool.index.of(one)[0].first_sample)
        name = spool.sessions[one].station, f"{start:%Y%m%d_%H%M%S}"
        names[name] += 1
        if one == uuid:
            break
    station, time = name
    if names[name] > 1:  # the clock was set back, say
        station = f"{station}-{names[name]}"
    # As recorders name theirs, so that every program that reads such names, ours too, knows the time and its zone.
    return f"{station}_{time}Z"


def _write(path: Path, sample_rate_hz: int, file_format: str, parts: Iterator[NDArray[np.int16]]) -> None:
    """Write a recording; raises OSError or SoundFileError unless all of it is in the file."""
    n_samples = 0
    with soundfile.SoundFile(path, "w", sample_rate_hz, 1, "PCM_16", format=file_format.upper()) as file:
        for samples in parts:
            file.write(samples)
            n_samples += len(samples)
    # libsndfile tells nobody that the disk took no more when it closed the file.
    if (there := soundfile.info(path).frames) != n_samples:
        raise OSError(f"the file has {there} of {n_samples} samples")


def _samples(directory: Path, spool: Recovered, uuid: UUID) -> Iterator[NDArray[np.int16]]:
    """Give the sound of a session in parts, (n,) int16, zeros for what was lost or is damaged."""
    for item in _items(directory, spool, uuid):
        data = None
        if isinstance(item, SpooledSound):
            data = read_record(directory / file_name(item.segment), item.offset, uuid, item.sequence_number)
        if data is not None:
            yield np.frombuffer(data, "<i2")
            continue
        for begin in range(0, item.n_samples, 2**16):
            yield np.zeros(min(2**16, item.n_samples - begin), np.int16)


def require_spool(directory: Path) -> None:
    """Raise InputError SPOOL_MISSING unless there is such a directory."""
    if not directory.is_dir():
        raise InputError(
            f"there is no spool {directory}; name that of `station run` by --spool", reason="SPOOL_MISSING"
        )


def _looked_at(directory: Path) -> Recovered:
    require_spool(directory)
    return recover(directory, now_s=0.0, repair=False)


def _items(directory: Path, spool: Recovered, uuid: UUID) -> Iterator[SpooledSound | Loss]:
    for segment in spool.index.of(uuid):
        yield from segment_items(directory, segment)


def _described(directory: Path, spool: Recovered, uuid: UUID) -> SpooledSession:
    description, segments = spool.sessions[uuid], spool.index.of(uuid)
    rate, first, end = description.sample_rate_hz, segments[0].first_sample, spool.ends[uuid][1]
    standing = spool.standings.get(uuid)
    committed = max(0, (standing.committed_sample if standing else 0) - first)
    owed = sum(one.n_samples for one in spool.owed if one.session.uuid == uuid)
    lost = owed + sum(item.n_samples for item in _items(directory, spool, uuid) if isinstance(item, Loss))
    return SpooledSession(
        str(uuid),
        description.station,
        _time_of(description, first),
        rate,
        (end + owed - first) / rate,
        lost / rate,
        committed / rate,
        standing.finished if standing else False,
        sum(segment.n_bytes for segment in segments),
    )


def _time_of(description: Session, sample: int) -> datetime:
    return SampleClock(description.start, description.sample_rate_hz).time_of(sample)
