"""Whether there is anything to train on: songs that differ, and not fewer than clusters."""

from songcore.arrays import FloatArray
from songcore.errors import InputError
from songtrain.evaluation.collapse import differ
from songtrain.methods.image_scale import check_images

__all__ = ["check_enough", "differing_images"]


def differing_images(X: FloatArray, n_at_least: int = 2) -> FloatArray:  # noqa: N803 - scikit-learn's name
    """Return images (n, n_frames, n_bands) float32 of at least ``n_at_least`` songs; InputError when they are not that."""
    images = check_images(X)
    check_enough(len(images), n_at_least)
    if not differ(images):
        raise InputError("all songs have the same features; there is nothing to tell apart", reason="SONGS_EQUAL")
    return images


def check_enough(n_songs: int, n_at_least: int) -> None:
    """Raise InputError TOO_FEW_SONGS unless there are so many songs."""
    if n_songs < n_at_least:
        raise InputError(
            f"{n_songs} songs, at least {n_at_least} are needed: give more songs, or ask for fewer clusters",
            reason="TOO_FEW_SONGS",
        )
