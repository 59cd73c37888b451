"""Features from the sound of songs against tones whose pitch and level are known, and against librosa."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from songcore.arrays import FloatArray
from songcore.errors import ConfigError
from songcore.stream import StreamConfig
from songtrain.datasets.songs import SongPlace, SongSet
from songtrain.datasets.sound import SoundSource
from songtrain.lab.chain import Chain
from songtrain.lab.parts import build
from songtrain.lab.sound_features import RATE_HZ, SoundCepstra, SoundChroma, SoundLogMel
from songtrain.lab.systems import SYSTEMS, part

RATES = {"a.wav": RATE_HZ, "b.wav": 44_100}


def tone(hz: float, rate: int, amplitude: float = 0.5) -> FloatArray:
    """Return one second of a tone and one of silence, (n,) float32."""
    t = np.arange(rate) / rate
    return np.concatenate([amplitude * np.sin(2 * np.pi * hz * t), np.zeros(rate)]).astype(np.float32)


@pytest.fixture
def heard(tmp_path: Path) -> tuple[SongSet, SoundSource]:
    """Return two songs, tones of 1760 and 2637 Hz (A and E) in recordings of two rates, and where they sound."""
    for (name, rate), hz in zip(RATES.items(), (1760.0, 2637.0), strict=True):
        soundfile.write(tmp_path / name, tone(hz, rate), rate, subtype="FLOAT")
    places = tuple(SongPlace(name, 0, 24_000, name) for name in RATES)
    songs = SongSet(places, np.array([2, 2]), np.zeros((4, 64), np.float16), np.zeros((0, 64), np.float16), 4.0)
    return songs, SoundSource({name: tmp_path / name for name in RATES}, 24_000)


def test_chroma_of_the_sound_names_pitch_classes_whatever_the_rate(heard: tuple[SongSet, SoundSource]) -> None:
    """11 s make 474 frames of twelve classes; A and E are told from recordings of two sample rates; silence lights none."""
    songs, sound = heard
    chroma = SoundChroma(sound=sound).fit_transform(songs)
    assert chroma.shape == (2, 474, 12)
    assert chroma[:, 20].argmax(axis=1).tolist() == [9, 4]
    assert not chroma[:, 60:].any()


def test_cepstra_of_the_sound_are_librosas(heard: tuple[SongSet, SoundSource]) -> None:
    """The coefficients are those of librosa for the same samples, padded with silence."""
    from librosa.feature import mfcc

    songs, sound = heard
    ours = SoundCepstra(n_coefficients=13, seconds=2.0, sound=sound).fit_transform(songs)
    samples = np.pad(tone(1760.0, RATE_HZ)[:RATE_HZ], (0, RATE_HZ))
    np.testing.assert_allclose(ours[0], mfcc(y=samples, sr=RATE_HZ, n_mfcc=13).T, atol=0.05)


def test_log_mel_of_the_sound_has_level_and_high_pass(tmp_path: Path) -> None:
    """A tone 6 dB below full scale stands about 74 dB above silence; one at 200 Hz is filtered out."""
    soundfile.write(tmp_path / "low.wav", np.concatenate([tone(4000, 44_100), tone(200, 44_100)]), 44_100)
    sound = SoundSource({"low.wav": tmp_path / "low.wav"}, 24_000)
    places = (SongPlace("low.wav", 0, 24_000), SongPlace("low.wav", 48_000, 72_000))
    songs = SongSet(places, np.array([2, 2]), np.zeros((4, 64), np.float16), np.zeros((0, 64), np.float16), 4.0)
    images = SoundLogMel(sound=sound).fit_transform(songs)
    assert images.shape == (2, 512, 64)
    # Between two bands a tone loses up to 3 dB to either; in the middle of one the window's side bins add 1.8 dB.
    assert 7.1 <= images[0, 20].max() <= 7.6
    assert images[1, 10:40].max() < 3.5
    assert not images[:, 60:].any()


class Samples(SoundLogMel):
    """What a log-mel is made of."""

    def _describe(self, samples: FloatArray) -> FloatArray:
        return samples[:, None]


def test_the_song_alone_is_filtered(tmp_path: Path) -> None:
    """In the silence behind it the filter would ring out in numbers that are too small to be fast."""
    soundfile.write(tmp_path / "song.wav", tone(4000, 44_100), 44_100)
    places = (SongPlace("song.wav", 0, 24_000, "a"),)
    songs = SongSet(places, np.array([2]), np.zeros((2, 64), np.float16), np.zeros((0, 64), np.float16), 1.0)
    samples = Samples(sound=SoundSource({"song.wav": tmp_path / "song.wav"}, 24_000)).fit_transform(songs)
    assert samples.shape == (1, 11 * RATE_HZ, 1)
    assert samples[0, : RATE_HZ // 2].any()
    assert not samples[0, RATE_HZ:].any()


def test_sound_reaches_the_parts_that_ask_for_it(heard: tuple[SongSet, SoundSource], stream: StreamConfig) -> None:
    """A chain whose features hear songs gets their sound, and without a source says what is missing."""
    songs, sound = heard
    chain = Chain(SYSTEMS["chroma-kmeans"], 0, stream, sound)
    assert chain.hears
    assert chain.fit(songs).shape[0] == 2
    with pytest.raises(ConfigError, match="recordings") as raised:
        build("features", part("sound-chroma")).fit(songs)
    assert raised.value.reason == "PART_MISSING"
