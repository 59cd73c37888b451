"""The quality of songs: what is wrong is found in the song itself, wherever the stream was cut, and only that."""

import numpy as np
import pytest

from bundles import sing, stream_config
from songcore.arrays import FloatArray
from songcore.quality import FullScale, QualityConfig, crowding
from songcore.stream import SongStream, StreamConfig

RATE = 48_000
GATE = QualityConfig(min_song_s=0.5, min_snr_db=3.0, max_crowding=0.6)


def heard(*sounds: FloatArray, gate: QualityConfig = GATE) -> list[str]:
    """Return the quality of the songs among sounds with pauses between."""
    rng = np.random.default_rng(0)
    quiet = (0.001 * rng.standard_normal(2 * RATE)).astype(np.float32)
    samples = np.concatenate([quiet, *(part for sound in sounds for part in (sound, quiet))])
    config = stream_config("song")
    stream = SongStream(StreamConfig(config.frontend, config.segmenter, config.features, gate), RATE)
    return [song.quality for song in stream.push(samples) + stream.finish()]


def test_every_fault_is_named() -> None:
    """A clear song is good; one in full scale, one hardly above the noise, a blow of noise and a scrap are not."""
    rng = np.random.default_rng(1)
    song = sing(2, rng, RATE)
    blow = (0.1 * rng.standard_normal(RATE)).astype(np.float32)
    scrap = song[: round(0.42 * RATE)]
    clipped = np.clip(40 * song, -1, 1)
    found = heard(song, clipped, blow, scrap)
    assert found == ["good", "clipped", "overlapped", "short"]
    assert heard(song, gate=QualityConfig(min_snr_db=60)) == ["faint"]


def test_without_limits_only_distortion_is_wrong() -> None:
    """The defaults, which a bundle of an older songstream has, let everything pass that is not clipped or cut."""
    rng = np.random.default_rng(1)
    song = sing(2, rng, RATE)
    assert heard(song, (0.1 * rng.standard_normal(RATE)).astype(np.float32), gate=QualityConfig()) == ["good"] * 2


@pytest.mark.parametrize("size", [1, 777, 5_000])
def test_full_scale_is_counted_alike_for_any_pieces(size: int) -> None:
    """The share of samples at full scale does not depend on the chunks, and what is forgotten is gone."""
    samples = np.zeros(10_000, np.float32)
    samples[2_000:2_300] = -1
    counter = FullScale(48_000, 24_000, 100)
    for first in range(0, len(samples), size):
        counter.push(samples[first : first + size])
    assert counter.share(1_000, 1_200) == pytest.approx(300 / 400)
    assert counter.share(2_000, 4_000) == 0
    counter.forget(30)
    assert counter.share(1_000, 1_200) == 0


def test_crowding_is_the_part_of_the_bands_that_sound() -> None:
    """One band of 64 is a whistle, four are two of them, all are wind; silence between the notes does not count."""
    floor = np.full(64, -10, np.float32)
    frames = np.tile(floor, (100, 1))
    assert crowding(frames[:0], floor) == 0
    frames[:50, 20] = 0
    assert crowding(frames, floor) == pytest.approx(1 / 64)
    frames[:50, [21, 40, 41]] = -1
    assert crowding(frames, floor) == pytest.approx(4 / 64)
    frames[:50] = 0
    assert crowding(frames, floor) == 1
