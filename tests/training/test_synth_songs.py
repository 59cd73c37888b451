"""The parts of the simulator below a season: notes, types, singers, noise, echoes."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from songcore.arrays import FloatArray
from songtrain.synth.config import SeasonConfig, season_config
from songtrain.synth.noise import BLOCK, Weather, band_power, render_noise
from songtrain.synth.notes import N_KNOTS, Note, PlayedNote, Timbre, render_notes
from songtrain.synth.others import OTHER_BIRDS, render_phrase
from songtrain.synth.repertoire import draw_types, zipf_weights
from songtrain.synth.scene import Carrier, draw_path, draw_stations, gain_for_snr
from songtrain.synth.sections import SECTION_KINDS, draw_section
from songtrain.synth.singer import draw_singers, perform, render_songs

RATE = 48_000
STILL = Weather(pink_exponent=1.0, wind_db=None, rain_db=None, insects=())


def tone(hz: float, duration_s: float = 0.5, **more: object) -> Note:
    """Return a note of constant pitch."""
    return replace(Note(duration_s, (float(np.log2(hz)),) * N_KNOTS), **more)  # type: ignore[arg-type]


def rendered(note: Note, timbre: Timbre | None = None) -> FloatArray:
    """Return one note as sound."""
    played = [PlayedNote(note, 0.0, note.duration_s, 0.0, note.level_db)]
    return render_notes(played, timbre or Timbre(), RATE, np.random.default_rng(0))


def spectrum_db(samples: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return frequencies, Hz, and levels, dB against a sine of amplitude 1."""
    window = np.hanning(len(samples))
    level = np.abs(np.fft.rfft(samples * window)) * 2 / window.sum()
    return np.fft.rfftfreq(len(samples), 1 / RATE).astype(np.float64), 20 * np.log10(level + 1e-12)


def test_a_constant_note_is_a_sine_of_amplitude_one() -> None:
    """A note of level 0 dB and constant pitch is a sine of that frequency with amplitude 1 between its flanks."""
    samples = rendered(tone(2000))
    middle = samples[len(samples) // 4 : len(samples) // 2]
    hz, level = spectrum_db(middle)
    assert abs(hz[level.argmax()] - 2000) < 5
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(1, rel=1e-3)
    assert len(samples) == RATE // 2
    assert abs(samples[0]) < 0.01
    assert abs(samples[-1]) < 0.01


def test_partials_have_their_ratio_and_level() -> None:
    """A harmonic and an inharmonic partial sound at their frequency ratios, at their levels."""
    samples = rendered(tone(2000, partials=((2.0, -10.0), (1.37, -20.0))))
    hz, level = spectrum_db(samples[6000:18000])
    for expected_hz, expected_db in ((2000, 0), (4000, -10), (2740, -20)):
        near = np.abs(hz - expected_hz) < 20
        assert level[near].max() == pytest.approx(expected_db, abs=0.5)


def test_partials_above_half_the_rate_are_silent() -> None:
    """A partial that would fold back from above half the sample rate is left out."""
    hz, level = spectrum_db(rendered(tone(9000, partials=((3.0, 0.0),)))[6000:18000])
    assert level[np.abs(hz - 9000) > 500].max() < -60


def test_tilt_turns_about_three_kilohertz() -> None:
    """A tilt of -6 dB per octave halves the amplitude at 6 kHz and leaves 3 kHz alone."""
    for hz, expected_db in ((3000, 0.0), (6000, -6.0)):
        samples = rendered(tone(hz), Timbre(tilt_db_per_octave=-6.0))
        assert spectrum_db(samples[6000:18000])[1].max() == pytest.approx(expected_db, abs=0.2)


@pytest.mark.parametrize("kind", SECTION_KINDS)
def test_sections_stay_in_the_band(kind: str) -> None:
    """Every kind of section has nearly all of its energy between 0.8 and 14 kHz, whatever is drawn."""
    for seed in range(8):
        section = draw_section(kind, np.random.default_rng(seed))
        samples = rendered(section.motif[0])
        hz = np.fft.rfftfreq(len(samples), 1 / RATE)
        power = np.abs(np.fft.rfft(samples)) ** 2
        assert power[(hz > 700) & (hz < 14_000)].sum() > 0.8 * power.sum()
        assert section.kind in section.in_words()


def test_types_follow_from_the_type_seed_alone() -> None:
    """Seasons with one type seed share their types; another type seed has others; more types leave the first alone."""
    base = season_config("easy", type_seed=3)
    assert draw_types(base) == draw_types(base.model_copy(update={"seed": 99, "n_songs": 7, "n_singers": 2}))
    assert draw_types(base) != draw_types(base.model_copy(update={"type_seed": 4}))
    assert draw_types(base.model_copy(update={"n_types": 50}))[:40] == draw_types(base)


def test_near_variants_share_sections() -> None:
    """A near-variant differs from its type in one or two sections, and the share of variants is the one asked for."""
    types = draw_types(season_config("hard", near_variant_share=0.5))
    variants = [t for t in types if t.variant_of is not None]
    assert len(variants) == 30
    for variant in variants:
        assert variant.variant_of is not None
        base = types[variant.variant_of]
        assert base.variant_of is None
        assert len(base.sections) == len(variant.sections)
        n_changed = sum(a != b for a, b in zip(base.sections, variant.sections, strict=True))
        assert 1 <= n_changed <= 2


def test_originals_differ_everywhere() -> None:
    """Two types that are no variants of each other have no section in common."""
    types = draw_types(season_config("easy", near_variant_share=0.0))
    sections = [s for t in types for s in t.sections]
    assert len(set(sections)) == len(sections)


def test_weights_are_zipfian_and_leave_out_the_withheld() -> None:
    """Shares fall as one over the rank; withheld types have none and the others keep their proportions."""
    weights = zipf_weights(SeasonConfig(n_types=5, zipf_exponent=1.0, withheld=(1,)))
    assert weights.sum() == pytest.approx(1)
    assert weights[1] == 0
    np.testing.assert_allclose(weights[[0, 2, 3, 4]] / weights[0], [1, 1 / 3, 1 / 4, 1 / 5])


def test_every_type_has_a_singer() -> None:
    """However small the repertoires, every type is known by some bird, and neighbours share more than strangers."""
    singers = draw_singers(SeasonConfig(n_types=100, n_singers=8, n_sites=2, repertoire_share=0.3))
    assert frozenset().union(*(s.repertoire for s in singers)) == frozenset(range(100))
    shared: dict[bool, list[int]] = {True: [], False: []}
    for a, b in combinations(singers, 2):
        shared[a.site == b.site].append(len(a.repertoire & b.repertoire))
    assert np.mean(shared[True]) > np.mean(shared[False]) + 5


def test_renditions_vary_about_their_type() -> None:
    """Renditions of one type differ from each other, and last about as long as the type is written."""
    config = season_config("hard")
    types, singers = draw_types(config), draw_singers(config)
    rng = np.random.default_rng(0)
    for song_type in types[:12]:
        songs = [perform(song_type, singers[0], config, rng) for _ in range(4)]
        assert len({len(s.samples) for s in songs}) > 1
        assert np.median([len(s.samples) / RATE for s in songs]) == pytest.approx(song_type.duration_s, rel=0.35)
        for song in songs:
            assert 0 <= song.loud_onset < len(song.samples)
            loud = np.abs(song.samples[song.loud_onset :]).max()
            before = np.abs(song.samples[: song.loud_onset]).max(initial=0)
            assert before < loud


def test_songs_last_as_long_as_nightingales_sing() -> None:
    """Renditions of all types last between 1 and 8 s, most of them 1.5 to 6 s."""
    config = season_config("hard")
    songs = render_songs(config, draw_types(config), list(range(60)))
    lengths = np.array([len(samples) / RATE for _, samples in songs])
    assert [label for label, _ in songs[:2]] == ["T000", "T001"]
    assert lengths.min() > 1
    assert lengths.max() < 8
    assert np.mean((lengths > 1.5) & (lengths < 6)) > 0.9


def test_no_variation_gives_the_same_notes() -> None:
    """With every spread at zero, two singers give the same song up to level jitter and small timing jitter."""
    config = season_config("easy", tempo_sd=0, pitch_sd_octaves=0, slip_share=0, voice_sd_octaves=0)
    types, singers = draw_types(config), draw_singers(config)
    lengths = [len(perform(types[0], s, config, np.random.default_rng(i)).samples) for i, s in enumerate(singers)]
    assert max(lengths) < 1.15 * min(lengths)


def test_band_power_is_parsevals() -> None:
    """A sine in the band has half its squared amplitude as power; one below the band has none."""
    time = np.arange(RATE) / RATE
    inside, below = (np.sin(2 * np.pi * hz * time).astype(np.float32) for hz in (3000, 500))
    assert band_power(0.5 * inside, RATE) == pytest.approx(0.125, rel=1e-3)
    assert band_power(below, RATE) < 1e-6


def test_still_air_has_unit_band_power_and_falls_with_frequency() -> None:
    """Still air has band power 1 and the slope of its exponent: 3 dB per octave for exponent 1."""
    colour = np.zeros(BLOCK // 2 + 1, np.float32)
    noise = render_noise(STILL, 60 * RATE, RATE, colour, np.random.default_rng(0))
    assert len(noise) == 60 * RATE
    assert 10 * np.log10(band_power(noise, RATE)) == pytest.approx(0, abs=0.6)
    power = np.abs(np.fft.rfft(noise)) ** 2
    hz = np.fft.rfftfreq(len(noise), 1 / RATE)
    octaves = [power[(hz >= low) & (hz < 1.1 * low)].mean() for low in (250, 500)]
    assert 10 * np.log10(octaves[0] / octaves[1]) == pytest.approx(3, abs=0.5)


def test_wind_rain_and_insects_sound_where_they_should() -> None:
    """Wind adds energy below 300 Hz, rain around 5 kHz, an insect in its own narrow band."""
    colour = np.zeros(BLOCK // 2 + 1, np.float32)
    hz = np.fft.rfftfreq(20 * RATE, 1 / RATE)

    def power(weather: Weather, low: float, high: float) -> float:
        noise = render_noise(weather, 20 * RATE, RATE, colour, np.random.default_rng(1))
        spectrum = np.abs(np.fft.rfft(noise)) ** 2
        return float(10 * np.log10(spectrum[(hz > low) & (hz < high)].mean()))

    assert power(replace(STILL, wind_db=10.0), 60, 300) > power(STILL, 60, 300) + 3
    assert power(replace(STILL, rain_db=5.0), 4000, 6000) > power(STILL, 4000, 6000) + 3
    cricket = replace(STILL, insects=((8000.0, 100.0, 0.0, 12.0),))
    assert power(cricket, 7900, 8100) > power(STILL, 7900, 8100) + 10
    assert power(cricket, 3000, 4000) == pytest.approx(power(STILL, 3000, 4000), abs=1)


def test_a_path_is_a_convolution() -> None:
    """Carrying a song equals convolving it with the impulse response where treble is not lost."""
    config = season_config("easy")
    station = replace(draw_stations(config)[0], colour_db=np.zeros(BLOCK // 2 + 1, np.float32))
    path = draw_path(station, 0.0, RATE, np.random.default_rng(0))
    path = replace(path, gain=np.ones_like(path.gain))
    dry = np.random.default_rng(1).standard_normal(5000).astype(np.float32)
    wet = Carrier(path).carry(dry)
    expected = np.convolve(dry.astype(np.float64), path.response.astype(np.float64))
    assert wet.shape == expected.shape
    np.testing.assert_allclose(wet, expected, atol=1e-4)


def test_far_birds_lose_treble_and_gain_echo() -> None:
    """From farther away less treble arrives, and more of the energy is echo."""
    station = draw_stations(season_config("easy"))[0]
    near, far = (draw_path(station, below, RATE, np.random.default_rng(0)) for below in (0.0, 25.0))
    assert far.gain[-3000] < 0.5 * near.gain[-3000]
    assert np.sum(far.response[1:] ** 2) > 3 * np.sum(near.response[1:] ** 2)
    assert near.response[0] == pytest.approx(1)


def test_gain_gives_the_ratio_asked_for() -> None:
    """Scaled by the gain, song power over noise power in the band is the ratio asked for."""
    rng = np.random.default_rng(0)
    song, noise = rng.standard_normal((2, RATE)).astype(np.float32)
    gain = gain_for_snr(song, noise, 12.0, RATE)
    ratio = 10 * np.log10(band_power(np.float32(gain) * song, RATE) / band_power(noise, RATE))
    assert ratio == pytest.approx(12, abs=1e-3)


@pytest.mark.parametrize("bird", OTHER_BIRDS)
def test_other_birds_sing(bird: str) -> None:
    """Every background bird gives a finite phrase of a sensible length that does not clip."""
    phrase = render_phrase(bird, RATE, np.random.default_rng(0))
    assert 0.3 < len(phrase) / RATE < 8
    assert np.isfinite(phrase).all()
    assert 0.1 < np.abs(phrase).max() < 2
