"""Which songs can be learned from, said before an hour is spent on them."""

import numpy as np

from songcore.errors import InputError
from songtrain.datasets.songs import SongSet

__all__ = ["screen_songs"]


def screen_songs(songs: SongSet, *, min_songs: int, left_out: str = "") -> tuple[SongSet, int]:
    """Return the songs that hold any sound above the noise, and how many do not.

    ``left_out`` is told where too few are left: what is missing, and why.

    Raises InputError: TOO_FEW_SONGS, SONGS_EQUAL, NOT_FINITE.
    """
    if not np.isfinite(songs.frames).all():
        raise InputError(
            "features hold NaN or infinity; delete the folder of features and run again", reason="NOT_FINITE"
        )
    loudest = (
        [float(part.max(initial=0)) for part in np.split(songs.frames, np.cumsum(songs.lengths)[:-1])]
        if len(songs)
        else []
    )
    heard = np.flatnonzero(np.asarray(loudest) > 0)
    n_silent = len(songs) - len(heard)
    if len(heard) < min_songs:
        silent = f" and {n_silent} that are silent" if n_silent else ""
        why = f" ({left_out})" if left_out else ""
        raise InputError(
            f"{len(heard)} songs{silent}; at least {min_songs} are needed to tell types apart: give more recordings{why}",
            reason="TOO_FEW_SONGS",
        )
    kept = songs.subset(heard) if n_silent else songs
    if len({part.tobytes() for part in np.split(kept.frames, np.cumsum(kept.lengths)[:-1])}) < min_songs // 2:
        raise InputError(
            f"nearly all of the {len(kept)} songs are copies of one another; give real recordings", reason="SONGS_EQUAL"
        )
    return kept, n_silent
