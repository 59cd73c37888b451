"""Songs are heard again where their places say, at any rate, in any order."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from songcore.errors import InputError
from songtrain.datasets.folder import RecordingFile
from songtrain.datasets.songs import SongPlace
from songtrain.datasets.sound import SoundSource, song_sounds, sound_source

RATE_HZ = 24_000


def source(tmp_path: Path) -> tuple[SoundSource, np.ndarray]:
    """Return two recordings, of different rates and channels, and what is on the first."""
    noise = np.random.default_rng(0).normal(0, 0.1, (15 * RATE_HZ, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", noise, RATE_HZ, subtype="FLOAT")
    time_s = np.arange(48_000 * 2) / 48_000
    soundfile.write(tmp_path / "b.wav", 0.5 * np.sin(2 * np.pi * 3000 * time_s), 48_000, subtype="FLOAT")
    files = [RecordingFile(name, tmp_path / name, None) for name in ("a.wav", "b.wav")]
    return sound_source(files, RATE_HZ), noise


def test_sounds_are_the_samples_of_their_places(tmp_path: Path) -> None:
    """Songs in any order, overlapping, across decoded blocks and past the end are the recording's samples and then silence."""
    recordings, noise = source(tmp_path)
    spans = [(230_000, 250_000), (100, 5_000), (3_000, 9_000), (359_000, 361_000)]
    heard = list(song_sounds(recordings, [SongPlace("a.wav", *span) for span in spans], RATE_HZ))
    mono = np.concatenate([noise.mean(axis=1), np.zeros(1_000, np.float32)])
    for (onset, offset), sound in zip(spans, heard, strict=True):
        assert sound.dtype == np.float32
        np.testing.assert_allclose(sound, mono[onset:offset], atol=1e-6)
    right = SoundSource(recordings.paths, RATE_HZ, channel=2)
    (first,) = song_sounds(right, [SongPlace("a.wav", 100, 5_000)], RATE_HZ)
    np.testing.assert_array_equal(first, noise[100:5_000, 1])


def test_sounds_come_at_the_rate_asked_for(tmp_path: Path) -> None:
    """A tone recorded at 48 kHz, its place counted at 24 kHz, is the same tone at 16 kHz, from the same moment on."""
    recordings, _ = source(tmp_path)
    (sound,) = song_sounds(recordings, [SongPlace("b.wav", 12_000, 36_000)], 16_000)
    time_s = 0.5 + np.arange(16_000) / 16_000
    np.testing.assert_allclose(sound, 0.5 * np.sin(2 * np.pi * 3000 * time_s), atol=1e-3)


def test_unknown_recording_is_named(tmp_path: Path) -> None:
    """A place in a recording that the source does not have is refused, not silent."""
    recordings, _ = source(tmp_path)
    with pytest.raises(InputError, match=r"c\.wav is not among the 2 recordings") as refused:
        list(song_sounds(recordings, [SongPlace("c.wav", 0, 10)], RATE_HZ))
    assert refused.value.reason == "RECORDING_MISSING"
