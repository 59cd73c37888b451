"""Golden songs: recordings whose songs, features, embeddings and types are known, recomputed whenever a bundle is loaded.

They catch what hashes cannot: another library version, another processor, a changed line of ours that moves results.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from songcore.arrays import FloatArray
from songcore.assign import Catalogue
from songcore.embed import Embedder
from songcore.errors import BundleError
from songcore.stream import Song, SongStream, StreamConfig

__all__ = ["check_golden", "expected_results", "golden_audio"]

# Other processors round differently; more than this is another result.
MAX_FEATURE_DIFFERENCE = 0.01  # of 10 dB
MIN_COSINE = 0.999

_PCM16 = 32768.0

# Kind of number and number of axes of each array, besides one audio_<index> per recording.
_FORMS = {
    **dict.fromkeys(("recording", "onset", "offset", "n_frames"), ("i", 1)),
    **dict.fromkeys(("features", "embedding"), ("f", 2)),
    "type_id": ("U", 1),
}


def expected_results(
    recordings: Sequence[FloatArray], config: StreamConfig, embedder: Embedder, catalogue: Catalogue
) -> dict[str, Any]:
    """Return the arrays of golden.npz for recordings (n,) float32 at the bundle's rate.

    Raises BundleError when one of them holds no song.
    """
    quantised = [np.clip(np.round(samples * _PCM16), -32768, 32767).astype(np.int16) for samples in recordings]
    songs, recording = _songs(quantised, config)
    if not recordings or len(set(recording)) < len(recordings):
        raise BundleError(
            f"{len(recordings)} golden recordings give songs in {len(set(recording))}; each must hold at least one",
            reason="GOLDEN_EMPTY",
        )
    embeddings = embedder.embed([song.features for song in songs])
    type_ids = [assignment.type_id for assignment in catalogue.assign(embeddings)]
    return {
        **{f"audio_{index}": samples for index, samples in enumerate(quantised)},
        "recording": np.asarray(recording, np.int64),
        "onset": np.asarray([song.onset for song in songs], np.int64),
        "offset": np.asarray([song.offset for song in songs], np.int64),
        "n_frames": np.asarray([len(song.features) for song in songs], np.int64),
        "features": np.concatenate([song.features for song in songs]),
        "embedding": embeddings,
        "type_id": np.asarray(type_ids),
    }


def check_golden(expected: Mapping[str, Any], config: StreamConfig, embedder: Embedder, catalogue: Catalogue) -> None:
    """Recompute the golden songs; raise BundleError GOLDEN_DRIFT when anything differs, GOLDEN_INVALID for other arrays."""
    songs, recording = _songs(_audio(expected), config)
    found = [(r, song.onset, song.offset, len(song.features)) for r, song in zip(recording, songs, strict=True)]
    wanted = list(zip(*(expected[key].tolist() for key in ("recording", "onset", "offset", "n_frames")), strict=False))
    if found != wanted or not wanted:
        raise _drift(f"the golden songs lie at {found}, expected {wanted} (recording, onset, offset, frames)")
    features = np.concatenate([song.features for song in songs])
    if features.shape != expected["features"].shape:
        raise _drift(f"their features have shape {features.shape}, expected {expected['features'].shape}")
    difference = float(np.abs(features - expected["features"]).max())
    if not difference <= MAX_FEATURE_DIFFERENCE:
        raise _drift(f"their features differ by {difference:.3g}, at most {MAX_FEATURE_DIFFERENCE} is rounding")
    embeddings = embedder.embed([song.features for song in songs])
    if embeddings.shape != expected["embedding"].shape:
        raise _drift(f"their embeddings have shape {embeddings.shape}, expected {expected['embedding'].shape}")
    cosine = float((embeddings * expected["embedding"]).sum(axis=1).min())
    if not cosine >= MIN_COSINE:
        raise _drift(
            f"their embeddings have cosine {cosine:.5f} to the expected ones, at least {MIN_COSINE} is rounding"
        )
    types = [assignment.type_id for assignment in catalogue.assign(embeddings)]
    if types != expected["type_id"].tolist():
        raise _drift(f"they are named {types}, expected {expected['type_id'].tolist()}")


def golden_audio(expected: Mapping[str, Any]) -> list[FloatArray]:
    """Return the recordings (n,) float32 of golden.npz; raises BundleError GOLDEN_INVALID for other arrays."""
    return [samples.astype(np.float32) / np.float32(_PCM16) for samples in _audio(expected)]


def _audio(expected: Mapping[str, Any]) -> list[Any]:
    """Return the golden recordings after looking at the form of every array."""
    names = [f"audio_{index}" for index in range(len(expected) - len(_FORMS))]
    forms = {**dict.fromkeys(names, ("i", 1)), **_FORMS}
    if set(expected) != set(forms):
        raise BundleError(f"golden.npz holds {sorted(expected)}, expected {sorted(forms)}", reason="GOLDEN_INVALID")
    for name, form in forms.items():
        array = expected[name]
        if (array.dtype.kind, array.ndim) != form:
            raise BundleError(
                f"golden.npz: {name} is {array.dtype} {array.shape}, not what was written", reason="GOLDEN_INVALID"
            )
    return [expected[name] for name in names]


def _songs(recordings: Sequence[Any], config: StreamConfig) -> tuple[list[Song], list[int]]:
    songs: list[Song] = []
    recording: list[int] = []
    for index, samples in enumerate(recordings):
        stream = SongStream(config, config.frontend.sample_rate_hz)
        found = stream.push(samples.astype(np.float32) / np.float32(_PCM16)) + stream.finish()
        songs += found
        recording += [index] * len(found)
    return songs, recording


def _drift(what: str) -> BundleError:
    return BundleError(
        f"this machine does not reproduce the bundle's golden songs: {what}; the model would give other results here than "
        "where it was trained, so it is not served",
        reason="GOLDEN_DRIFT",
    )
