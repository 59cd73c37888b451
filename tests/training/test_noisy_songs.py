"""The bench of songs in noise: ratios are what they are called, and borders and songs stay the same at all of them."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import butter, sosfiltfilt

from songcore.annotations import Annotation
from songcore.stream import StreamConfig

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from noisy_songs import BAND_HZ, NoisySongs, read_sound

RATE_HZ = 24_000
SONGS = (Annotation("a.wav", 14.0, 16.0), Annotation("a.wav", 17.0, 18.5))


def noisy(folder: Path, stream: StreamConfig) -> NoisySongs:
    """Return two tones in a recording of twenty seconds, and noise that is mostly below the band."""
    rng = np.random.default_rng(0)
    sound = 0.001 * rng.normal(size=20 * RATE_HZ)
    for song in SONGS:
        t = np.arange(round(song.onset_s * RATE_HZ), round(song.offset_s * RATE_HZ))
        sound[t] += 0.1 * np.sin(2 * np.pi * 3000 * t / RATE_HZ)
    soundfile.write(folder / "a.wav", sound, RATE_HZ, subtype="FLOAT")
    rumble = 0.5 * np.sin(2 * np.pi * 120 * np.arange(60 * RATE_HZ) / RATE_HZ)
    soundfile.write(folder / "noise.wav", rumble + 0.02 * rng.normal(size=60 * RATE_HZ), RATE_HZ, subtype="FLOAT")
    return NoisySongs(SONGS, folder, [read_sound(folder / "noise.wav", RATE_HZ)], stream)


@pytest.mark.parametrize("snr_db", [20.0, 0.0])
def test_ratio_is_of_powers_in_the_band_over_the_song(tmp_path: Path, stream: StreamConfig, snr_db: float) -> None:
    """What the mix adds is, within the song and the band of birds, that many decibels below the song."""
    songs = noisy(tmp_path, stream)
    band = butter(6, BAND_HZ, "bandpass", fs=RATE_HZ, output="sos")
    for (loud, onset, offset), (clean, *_) in zip(songs.mixed(snr_db, 0), songs.mixed(200.0, 0), strict=True):
        song, added = (sosfiltfilt(band, x)[onset:offset] for x in (clean, loud - clean))
        assert 10 * np.log10(np.mean(song**2) / np.mean(added**2)) == pytest.approx(snr_db, abs=0.1)


def test_songs_keep_their_length_and_sink(tmp_path: Path, stream: StreamConfig) -> None:
    """Noise takes level from a song, not frames, and another mix has other stretches of noise."""
    songs = noisy(tmp_path, stream)
    clean, faint, other = songs.features(60.0, 0), songs.features(0.0, 0), songs.features(0.0, 1)
    assert [len(song) for song in clean] == [len(song) for song in faint]
    for one, two, three in zip(clean, faint, other, strict=True):
        assert two.max() < one.max() - 0.5
        assert not np.array_equal(two, three)
