"""A folder of recordings, with or without songs.csv: what there is to learn from."""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from songcore.annotations import Annotation, read_songs_csv
from songcore.audio import AUDIO_SUFFIXES, recordings_below
from songcore.errors import InputError

__all__ = ["DataFolder", "RecordingFile", "scan_folder"]


@dataclass(frozen=True)
class RecordingFile:
    """One recording and its annotated songs; None leaves the cutting to the segmenter."""

    name: str
    path: Path
    annotations: tuple[Annotation, ...] | None
    keep_borders: bool = False
    """Whether annotated songs begin and end exactly where they were marked, whatever the segmenter finds there."""


@dataclass(frozen=True)
class DataFolder:
    """The recordings of a folder in the order of their names."""

    recordings: tuple[RecordingFile, ...]
    is_annotated: bool


def scan_folder(folder: Path, segmentation: Literal["auto", "annotated", "automatic"] = "auto") -> DataFolder:
    """Return the recordings below ``folder``, hidden files and those that songs.csv, when it is used, never names left out.

    ``annotated`` keeps the borders of songs.csv as they are; ``auto`` lets the segmenter move them to where serving cuts.

    Raises InputError: NOT_FOUND, NO_RECORDINGS, TOO_FEW_SONGS when songs.csv names none, RECORDING_MISSING when it names what
    is not there, RECORDING_AMBIGUOUS, and whatever reading it raises.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder; give one with recordings, and songs.csv if there is one", reason="NOT_FOUND"
        )
    files = recordings_below(folder)
    if not files:
        raise InputError(
            f"no recordings below {folder}; expected {', '.join(sorted(AUDIO_SUFFIXES))}", reason="NO_RECORDINGS"
        )
    table = folder / "songs.csv"
    if segmentation == "annotated" and not table.exists():
        raise InputError(f"{table} does not exist; write it, or choose automatic segmentation", reason="NOT_FOUND")
    if segmentation == "automatic" or not table.exists():
        return DataFolder(tuple(RecordingFile(str(p.relative_to(folder)), p, None) for p in files), is_annotated=False)
    found = _annotated(folder, files, table)
    if segmentation == "annotated":
        found = tuple(replace(file, keep_borders=True) for file in found)
    return DataFolder(found, is_annotated=True)


def _annotated(folder: Path, files: list[Path], table: Path) -> tuple[RecordingFile, ...]:
    with table.open(encoding="utf-8", newline="") as file:
        annotations = read_songs_csv(file, name=str(table))
    if not annotations:
        raise InputError(
            f"{table} names no song; write some, or take it away to have all recordings cut by the segmenter",
            reason="TOO_FEW_SONGS",
        )
    songs: dict[str, list[Annotation]] = defaultdict(list)
    for annotation in annotations:
        songs[annotation.recording].append(annotation)
    # songs.csv may name a recording by its path below the folder or by its file name alone.
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        for name in {str(path.relative_to(folder)), path.name}:
            by_name[name].append(path)
    missing = sorted(name for name in songs if name not in by_name)
    if missing:
        shown = ", ".join(missing[:3])
        raise InputError(
            f"{table} names {len(missing)} recordings that are not below {folder}: {shown}; add them or take out their lines",
            reason="RECORDING_MISSING",
        )
    for name in songs:
        if len(by_name[name]) > 1:
            raise InputError(
                f"{table}: {name} could be any of {len(by_name[name])} files; write its path",
                reason="RECORDING_AMBIGUOUS",
            )
    return _joined({name: (by_name[name][0], found) for name, found in songs.items()}, folder)


def _joined(songs: dict[str, tuple[Path, list[Annotation]]], folder: Path) -> tuple[RecordingFile, ...]:
    """Return each file once with all of its songs, a line that stands twice once.

    Else one copy of a song could be learned from and the other held out.
    """
    names: dict[Path, list[str]] = defaultdict(list)
    for name, (path, _) in songs.items():
        names[path].append(name)
    files = []
    for path, own in names.items():
        name = own[0] if len(own) == 1 else str(path.relative_to(folder))
        lines = {(a.onset_s, a.offset_s, a.label): a for one in own for a in songs[one][1]}
        files.append(RecordingFile(name, path, tuple(replace(a, recording=name) for a in lines.values())))
    return tuple(sorted(files, key=lambda file: file.name))
