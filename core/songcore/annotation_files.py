"""Annotation files on disk: which of the known formats a file has, and its songs."""

from pathlib import Path

from songcore.annotations import Annotation, read_songs_csv
from songcore.audacity import read_audacity
from songcore.errors import InputError
from songcore.raven import read_raven

__all__ = ["read_annotations"]


def read_annotations(path: Path, *, recording: str = "", label_column: str | None = None) -> list[Annotation]:
    """Return the songs of a ``songs.csv``, a Raven selection table or an Audacity label track, told apart by content.

    ``recording`` names the recording where the file does not. Raises InputError: NOT_FOUND, or that of the format.
    """
    try:
        # utf-8-sig, because spreadsheets write a byte order mark.
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(4096)
            file.seek(0)
            if "\t" not in first:
                return read_songs_csv(file, name=path.name)
            if "Begin Time" in first or "Selection" in first:
                return read_raven(file, recording=recording, label_column=label_column, name=path.name)
            return read_audacity(file, recording=recording, name=path.name)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path.name}: not readable as text ({error}); expected UTF-8", reason="NOT_A_TABLE"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", reason="NOT_FOUND") from error
