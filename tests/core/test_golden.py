"""Golden songs: the same machine reproduces them, rounding passes, and any drift or ill-formed array does not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bundles import random_encoder
from songcore.assign import Catalogue
from songcore.bundle import BundleParts
from songcore.embed import Embedder
from songcore.errors import BundleError
from songcore.features import FeatureConfig
from songcore.golden import check_golden, expected_results
from songcore.segment import SegmenterConfig
from songcore.stream import StreamConfig

Arrays = dict[str, Any]


def catalogue(parts: BundleParts) -> Catalogue:
    """Return the song types of the test bundle."""
    return Catalogue(
        prototypes=parts.prototypes,
        type_index=parts.type_index,
        type_ids=[song_type.id for song_type in parts.types],
        kinds=[song_type.kind for song_type in parts.types],
        bank=parts.bank,
        calibration=parts.calibration,
        novelty=parts.novelty,
    )


@pytest.fixture
def golden(parts: BundleParts) -> Arrays:
    """Return the golden arrays of the test bundle, to be changed."""
    embedder = Embedder(parts.encoder, device="cpu")
    return expected_results(parts.golden_recordings, parts.stream, embedder, catalogue(parts))


def check(parts: BundleParts, golden: Arrays, *, stream: StreamConfig | None = None, encoder: bytes = b"") -> None:
    """Check the golden songs against the test bundle, or one with other parameters or weights."""
    embedder = Embedder(encoder or parts.encoder, device="cpu")
    check_golden(golden, stream or parts.stream, embedder, catalogue(parts))


def test_golden_songs_are_reproduced(parts: BundleParts, golden: Arrays) -> None:
    """The results hold one song per recording with all its frames, and checking them again finds no difference."""
    assert golden["recording"].tolist() == [0, 1, 2]
    assert golden["n_frames"].sum() == len(golden["features"])
    assert golden["type_id"].tolist() == ["T0001", "T0002", "T0003"]
    np.testing.assert_allclose(np.linalg.norm(golden["embedding"], axis=1), 1, atol=1e-5)
    check(parts, golden)


def test_rounding_passes(parts: BundleParts, golden: Arrays) -> None:
    """Another processor's last bits are no drift."""
    golden["features"] += np.float32(1e-4)
    golden["embedding"] *= np.float32(1 + 1e-5)
    check(parts, golden)


DRIFT: dict[str, Callable[[Arrays], Arrays]] = {
    "onset": lambda g: {"onset": g["onset"] + 384},
    "offset": lambda g: {"offset": g["offset"] - 384},
    "recording": lambda g: {"recording": g["recording"][::-1].copy()},
    "frames": lambda g: {"n_frames": g["n_frames"] + 32},
    "one feature": lambda g: {"features": g["features"] + np.eye(*g["features"].shape, dtype=np.float32) * 0.02},
    "feature NaN": lambda g: {"features": g["features"] * np.float32("nan")},
    "features cut": lambda g: {"features": g["features"][:-1]},
    "embedding": lambda g: {"embedding": np.roll(g["embedding"], 1, axis=0)},
    "embedding NaN": lambda g: {"embedding": g["embedding"] * np.float32("nan")},
    "embedding cut": lambda g: {"embedding": g["embedding"][:, :8]},
    "type": lambda g: {"type_id": np.roll(g["type_id"], 1)},
    "type missing": lambda g: {"type_id": g["type_id"][:-1]},
    "audio": lambda g: {"audio_1": g["audio_1"] // 2},
    "silence": lambda g: {"audio_1": g["audio_1"] * 0},
    "one song less": lambda g: {key: g[key][:-1] for key in ("recording", "onset", "offset", "n_frames")},
    "no songs": lambda g: {key: g[key][:0] for key in ("recording", "onset", "offset", "n_frames")},
}


@pytest.mark.parametrize("change", DRIFT.values(), ids=DRIFT)
def test_drift_is_not_served(parts: BundleParts, golden: Arrays, change: Callable[[Arrays], Arrays]) -> None:
    """A change of any expected result beyond rounding is drift, and the message says what moved."""
    with pytest.raises(BundleError, match="does not reproduce") as caught:
        check(parts, {**golden, **change(golden)})
    assert caught.value.reason == "GOLDEN_DRIFT"


def test_other_parameters_or_weights_drift(parts: BundleParts, golden: Arrays) -> None:
    """The golden songs of one model are not those of another segmenter, feature scale or encoder."""
    front = parts.stream.frontend
    streams = (
        StreamConfig(front, SegmenterConfig(min_song_s=5.0), FeatureConfig()),
        StreamConfig(front, SegmenterConfig(), FeatureConfig(margin_db=4)),
        StreamConfig(front, SegmenterConfig(), FeatureConfig(bucket_frames=50)),
    )
    for stream in streams:
        with pytest.raises(BundleError, match="does not reproduce"):
            check(parts, golden, stream=stream)
    with pytest.raises(BundleError, match="cosine"):
        check(parts, golden, encoder=random_encoder(seed=5))


def without(*names: str) -> Callable[[Arrays], Arrays]:
    """Return a change that leaves out arrays."""
    return lambda golden: {name: array for name, array in golden.items() if name not in names}


ILL_FORMED: dict[str, Callable[[Arrays], Arrays]] = {
    "no onsets": without("onset"),
    "no features": without("features"),
    "no types": without("type_id"),
    "no audio": without("audio_0", "audio_1", "audio_2"),
    "audio missing": without("audio_1"),
    "extra": lambda g: {**g, "notes": np.zeros(3)},
    "audio of floats": lambda g: {**g, "audio_0": g["audio_0"] / 2},
    "audio of two axes": lambda g: {**g, "audio_0": g["audio_0"][:, None]},
    "words": lambda g: {**g, "features": np.full(g["features"].shape, "a")},
    "numbers for words": lambda g: {**g, "type_id": np.arange(3)},
    "scalar": lambda g: {**g, "onset": np.int64(3)},
}


@pytest.mark.parametrize("change", ILL_FORMED.values(), ids=ILL_FORMED)
def test_ill_formed_arrays_are_refused(parts: BundleParts, golden: Arrays, change: Callable[[Arrays], Arrays]) -> None:
    """Missing, additional and other kinds of arrays are a BundleError and no crash."""
    with pytest.raises(BundleError, match=r"golden|does not reproduce") as caught:
        check(parts, change(golden))
    assert caught.value.reason in {"GOLDEN_INVALID", "GOLDEN_DRIFT"}


def test_loud_recordings_are_kept_within_16_bits(parts: BundleParts) -> None:
    """A golden recording beyond full scale is clipped before its results are computed, so it reproduces."""
    loud = [10 * samples for samples in parts.golden_recordings]
    embedder = Embedder(parts.encoder, device="cpu")
    golden = expected_results(loud, parts.stream, embedder, catalogue(parts))
    assert golden["audio_0"].dtype == np.int16
    assert golden["audio_0"].max() == 32767
    check(parts, golden)
