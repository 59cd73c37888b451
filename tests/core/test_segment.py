"""The segmenter: songs of known onset and offset are found there, whatever the chunks, restarts, gain and length."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from songcore.arrays import FloatArray
from songcore.frontend import DB_PER_UNIT, FrontendConfig, LogMel
from songcore.noise import NoiseConfig, NoiseFloor
from songcore.presets import PRESETS
from songcore.segment import Segment, Segmenter, SegmenterConfig

FRONTEND, CONFIG = PRESETS["song"]
SYLLABLE_FRONTEND, SYLLABLE = PRESETS["syllable"]
RATE = FRONTEND.sample_rate_hz


def sound(
    spans: list[tuple[float, float]],
    duration_s: float,
    *,
    tone_db: float = -20.0,
    noise_db: float = -60.0,
    tone_hz: float = 3000.0,
) -> FloatArray:
    """Return white noise with a tone in the spans of seconds, (n,) float32; levels in dB below full scale."""
    time = np.arange(round(duration_s * RATE)) / RATE
    samples = 10 ** (noise_db / 20) * np.random.default_rng(5).standard_normal(len(time))
    gate = np.zeros(len(time))
    for begin, end in spans:
        gate[round(begin * RATE) : round(end * RATE)] = 1
    return np.asarray(samples + gate * 10 ** (tone_db / 20) * np.sin(2 * np.pi * tone_hz * time), np.float32)


def trill(begin: float, end: float, note_s: float = 0.1, pause_s: float = 0.1) -> list[tuple[float, float]]:
    """Return the notes of a trill from ``begin`` to ``end``, seconds."""
    n = round((end - begin + pause_s) / (note_s + pause_s))
    return [(begin + i * (note_s + pause_s), begin + i * (note_s + pause_s) + note_s) for i in range(n)]


def frames_of(samples: FloatArray, frontend: FrontendConfig = FRONTEND) -> FloatArray:
    """Return the log-mel frames of a whole signal."""
    mel = LogMel(frontend)
    return np.concatenate([mel.push(samples), mel.finish()])


def songs_in(
    frames: FloatArray, config: SegmenterConfig = CONFIG, frontend: FrontendConfig = FRONTEND
) -> list[Segment]:
    """Return all songs of a whole recording."""
    segmenter = Segmenter(config, frontend)
    return segmenter.push(frames) + segmenter.finish()


def seconds(songs: list[Segment]) -> list[tuple[float, float]]:
    """Return onsets and offsets in seconds."""
    return [(song.onset / RATE, song.offset / RATE) for song in songs]


def bits(songs: list[Segment]) -> list[tuple[int, int, bool, float, bytes]]:
    """Return all that a song holds, comparable."""
    return [(song.onset, song.offset, song.forced_cut, song.snr_db, song.floor.tobytes()) for song in songs]


@lru_cache
def season() -> FloatArray:
    """Return the frames of a minute with trills, whistles, a song of 22 s, and a background that grows restless."""
    spans = [*trill(0.05, 2.0), (4.0, 5.5), (5.8, 6.5), *trill(9.0, 31.0, 0.15, 0.08), *trill(40.0, 43.0, 0.3, 0.3)]
    samples = sound(spans, 60.0)
    samples[33 * RATE :] += sound(trill(0.0, 27.0, 0.05, 0.7), 27.0, tone_db=-48.0, noise_db=-55.0, tone_hz=5000.0)
    return frames_of(samples)


def test_songs_are_found_where_they_are() -> None:
    """Onset and offset of two whistles and a trill are right to half a window and a frame of the front end."""
    truth = [(2.0, 3.0), (6.0, 7.7), (11.0, 13.9)]
    spans = truth[:2] + trill(*truth[2])
    tolerance_s = (FRONTEND.n_fft / 2 + FRONTEND.hop) / RATE
    assert np.asarray(seconds(songs_in(frames_of(sound(spans, 17.0))))) == pytest.approx(
        np.asarray(truth), abs=tolerance_s
    )


def test_syllables_are_found_where_they_are() -> None:
    """With the syllable preset, notes of 60 ms and pauses of 20 ms are separate and right to half a window and a frame."""
    truth = trill(2.0, 4.0, 0.06, 0.02)
    songs = songs_in(frames_of(sound(truth, 6.0), SYLLABLE_FRONTEND), SYLLABLE, SYLLABLE_FRONTEND)
    tolerance_s = (SYLLABLE_FRONTEND.n_fft / 2 + SYLLABLE_FRONTEND.hop) / RATE
    assert np.asarray(seconds(songs)) == pytest.approx(np.asarray(truth), abs=tolerance_s)


def test_weak_syllables_are_not_broken_by_noise() -> None:
    """A tone of 200 ms, 6 dB below the noise in the whole band, is one syllable though its level wavers."""
    truth = [(2.0, 2.2), (3.0, 3.2), (4.0, 4.2)]
    frames = frames_of(sound(truth, 6.0, tone_db=-43.0, noise_db=-40.0), SYLLABLE_FRONTEND)
    songs = songs_in(frames, SYLLABLE, SYLLABLE_FRONTEND)
    assert np.asarray(seconds(songs)) == pytest.approx(np.asarray(truth), abs=0.02)


@pytest.mark.parametrize("gain_db", [-20.0, 20.0])
def test_gain_changes_nothing(gain_db: float) -> None:
    """Ten times louder or softer, the same songs are found, to a frame."""
    spans = [*trill(3.0, 5.0), (8.0, 9.5)]
    samples = sound(spans, 12.0, noise_db=-45.0)
    expected = songs_in(frames_of(samples))
    songs = songs_in(frames_of(samples * np.float32(10 ** (gain_db / 20))))
    assert len(expected) == len(songs) == 2
    for one, other in zip(songs, expected, strict=True):
        assert abs(one.onset - other.onset) <= FRONTEND.hop
        assert abs(one.offset - other.offset) <= FRONTEND.hop
        assert one.snr_db == pytest.approx(other.snr_db, abs=1.0)  # the front end adds its own floor


def test_snr_and_floor_have_their_closed_form() -> None:
    """A steady tone over white noise: the song's SNR and noise floor are those of the frames themselves."""
    frames = frames_of(sound([(4.0, 6.0)], 9.0)).astype(np.float64)
    (song,) = songs_in(frames.astype(np.float32))
    noise = np.exp(frames[20:230]).mean(axis=0)
    first, last = round(song.onset / FRONTEND.hop + 0.5), round(song.offset / FRONTEND.hop + 0.5)
    signal = np.exp(frames[first:last]).sum(axis=1).mean()
    assert song.snr_db == pytest.approx(10 * np.log10(signal / noise.sum()), abs=0.7)
    assert np.median(np.abs(song.floor - np.log(noise))) * DB_PER_UNIT < 0.7


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 3750), max_size=40))
def test_chunks_change_no_bit(cuts: list[int]) -> None:
    """Whatever the chunks, empty ones too, the songs are the same to the last bit."""
    segmenter, songs = Segmenter(CONFIG, FRONTEND), []
    for chunk in np.split(season(), sorted(cuts)):
        songs += segmenter.push(chunk)
    assert len(songs) >= 5
    assert bits(songs + segmenter.finish()) == bits(songs_in(season()))


@pytest.mark.parametrize("n", [1, 7, 62])
def test_equal_chunks_change_no_bit(n: int) -> None:
    """Frame by frame, or a second at a time, the songs are the same to the last bit."""
    segmenter, songs = Segmenter(CONFIG, FRONTEND), []
    for begin in range(0, len(season()), n):
        songs += segmenter.push(season()[begin : begin + n])
    assert bits(songs + segmenter.finish()) == bits(songs_in(season()))


@settings(max_examples=25)
@given(stop=st.integers(0, 3750), preset=st.sampled_from(sorted(PRESETS)))
def test_restart_changes_no_bit(stop: int, preset: str) -> None:
    """Restored from its state at any frame, bootstrap and open songs included, a segmenter goes on to the last bit."""
    frontend, config = PRESETS[preset]
    if preset == "syllable":
        spans = trill(0.3, 4.0, 0.07, 0.03) + trill(5.0, 9.0, 0.2, 0.1)
        frames = frames_of(sound(spans, 10.1, tone_db=-35.0), frontend)
    else:
        frames = season()
    first = Segmenter(config, frontend)
    songs = first.push(frames[:stop])
    second = Segmenter(config, frontend)
    second.restore(first.state(), stop)
    assert (second.next_frame, second.needed_from) == (first.next_frame, first.needed_from)
    songs += second.push(frames[stop:]) + second.finish()
    assert bits(songs) == bits(songs_in(frames, config, frontend))


def test_needed_from_is_where_songs_may_still_begin() -> None:
    """While nothing sounds it is the next frame; while a song is open, the song's first; no later song begins before."""
    segmenter, promised, n_idle = Segmenter(CONFIG, FRONTEND), 0, 0
    for begin in range(0, len(season()), 10):
        for song in segmenter.push(season()[begin : begin + 10]):
            assert song.onset >= max(0, promised * FRONTEND.hop - FRONTEND.hop // 2)
        assert promised <= segmenter.needed_from <= segmenter.next_frame
        promised = segmenter.needed_from
        n_idle += promised == segmenter.next_frame
    assert n_idle > 50


def test_song_is_returned_after_the_decision_delay() -> None:
    """Once the declared delay after a song's last sample is heard, and one window for the front end, it is returned."""
    segmenter = Segmenter(CONFIG, FRONTEND)
    frames = frames_of(sound([(3.0, 5.0)], 12.0))
    end = round((5.0 + CONFIG.decision_delay_s) / FRONTEND.hop_s) + FRONTEND.n_fft // (2 * FRONTEND.hop) + 2
    assert segmenter.push(frames[: round(5.2 / FRONTEND.hop_s)]) == []
    assert len(segmenter.push(frames[round(5.2 / FRONTEND.hop_s) : end])) == 1


def test_short_gaps_join_and_long_ones_part() -> None:
    """Notes 0.35 s apart are one song, 0.7 s apart are two."""
    joined, parted = [(3.0, 4.0), (4.35, 5.0)], [(3.0, 4.0), (4.7, 5.7)]
    assert len(songs_in(frames_of(sound(joined, 8.0)))) == 1
    assert len(songs_in(frames_of(sound(parted, 8.0)))) == 2


def test_short_sounds_are_no_songs() -> None:
    """A beep of 0.25 s is dropped, one of 0.6 s is a song; in the syllable preset 15 ms against 50 ms."""
    assert len(songs_in(frames_of(sound([(3.0, 3.25), (5.0, 5.6)], 8.0)))) == 1
    frames = frames_of(sound([(3.0, 3.015), (5.0, 5.05)], 8.0), SYLLABLE_FRONTEND)
    assert len(songs_in(frames, SYLLABLE, SYLLABLE_FRONTEND)) == 1


def test_long_song_is_cut_at_its_quietest_place_and_marked() -> None:
    """A song of 20 s is cut, at the one dip in the second half of the longest length; the rest begins there."""
    spans = trill(3.0, 14.0, 0.1, 0.05) + trill(14.2, 23.0, 0.1, 0.05)
    songs = songs_in(frames_of(sound(spans, 26.0)))
    assert [song.forced_cut for song in songs] == [True, False]
    assert songs[0].offset / RATE == pytest.approx(14.1, abs=0.1)
    assert songs[1].onset / RATE == pytest.approx(14.2, abs=0.05)
    assert songs[0].onset / RATE == pytest.approx(3.0, abs=0.05)
    assert songs[1].offset / RATE == pytest.approx(23.0, abs=0.1)


def test_echo_is_cut_where_it_has_fallen() -> None:
    """After a sound that dies away at 150 dB/s the song ends where it has fallen by ``fall_db``, closed form."""
    samples = sound([], 10.0, noise_db=-85.0)
    time = np.arange(len(samples)) / RATE
    level_db = np.where(time < 3.0, -400, np.where(time < 5.0, -10, -10 - 150 * (time - 5.0)))
    samples += np.asarray(10 ** (level_db / 20) * np.sin(2 * np.pi * 3000 * time), np.float32)
    (song,) = songs_in(frames_of(samples))
    expected_s = 5.0 + CONFIG.fall_db / (150 - CONFIG.recovery_db_per_s)
    assert song.offset / RATE == pytest.approx(expected_s, abs=0.03)


def test_far_bird_behind_a_near_one_is_left_out() -> None:
    """A bird 50 dB below another is heard alone, and left out within the other's pauses."""
    far = sound(trill(4.5, 6.0), 12.0, tone_db=-60.0, noise_db=-80.0, tone_hz=5000.0)
    near = sound([(2.0, 4.0), (7.0, 9.0)], 12.0, tone_db=-10.0, noise_db=-90.0)
    assert len(songs_in(frames_of(far))) == 1
    assert [round(onset) for onset, _ in seconds(songs_in(frames_of(far + near)))] == [2, 7]


def test_insect_does_not_hide_songs_for_long() -> None:
    """A pulsing insect 20 dB above the noise is learned as background; songs in another band are found beside it."""
    insect = sound(trill(0.0, 40.0, 0.2, 0.2), 40.0, tone_db=-45.0, tone_hz=8000.0)
    songs = songs_in(frames_of(insect + sound(trill(30.0, 32.0), 40.0, noise_db=-90.0)))
    found = [(onset, offset) for onset, offset in seconds(songs) if onset > 15]
    assert len(found) == 1
    assert found[0] == pytest.approx((30.0, 31.9), abs=0.05)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_steady_noise_holds_no_songs(preset: str) -> None:
    """Two minutes of white noise hold no song, at any level."""
    frontend, config = PRESETS[preset]
    for noise_db in (-70.0, -10.0):
        assert songs_in(frames_of(sound([], 120.0, noise_db=noise_db), frontend), config, frontend) == []


ENDLESS: dict[str, Callable[[int], NDArray[np.floating]]] = {
    "noise": lambda n: np.resize(frames_of(sound([], 30.0)), (n, 64)),
    "silence": lambda n: np.full((n, 64), np.log(1e-10)),
    "full scale": lambda n: np.zeros((n, 64)),
    "trill": lambda n: np.where((np.arange(n) % 10 < 6)[:, None] & (np.arange(64) == 30), -3.0, -14.0) * np.ones(64),
    "not a number": lambda n: np.full((n, 64), np.nan),
    "infinite": lambda n: np.where(np.arange(n)[:, None] % 2 == 0, np.inf, -np.inf) * np.ones(64),
}


@pytest.mark.parametrize("kind", sorted(ENDLESS))
def test_an_hour_of_anything_stays_small(kind: str) -> None:
    """Whatever comes for an hour, state and open frames stay bounded, songs stay within their limits, nothing breaks."""
    segmenter, n = Segmenter(CONFIG, FRONTEND), round(30 / FRONTEND.hop_s)
    frames = ENDLESS[kind](n).astype(np.float32)
    longest, songs = FRONTEND.n_frames(CONFIG.max_song_s), []
    for _ in range(120):
        songs += segmenter.push(frames)
        assert segmenter.next_frame - segmenter.needed_from <= longest + FRONTEND.n_frames(CONFIG.min_gap_s)
        assert len(segmenter.state()) < 12_000
    songs += segmenter.finish()
    assert all(0 < song.offset - song.onset <= longest * FRONTEND.hop for song in songs)
    assert all(np.isfinite(song.floor).all() and np.isfinite(song.snr_db) for song in songs)
    assert bool(songs) == (kind == "trill")


def test_empty_and_short_recordings() -> None:
    """No frames, one frame, or silence hold no song; one song shorter than the bootstrap is found when it ends."""
    assert Segmenter(CONFIG, FRONTEND).finish() == []
    assert songs_in(np.empty((0, 64), np.float32)) == []
    assert songs_in(frames_of(sound([], 0.01))) == []
    assert songs_in(frames_of(np.zeros(5 * RATE, np.float32))) == []
    (song,) = songs_in(frames_of(sound([(0.2, 0.75)], 0.9)))
    assert (song.onset / RATE, song.offset / RATE) == pytest.approx((0.2, 0.75), abs=0.04)


@pytest.mark.parametrize(
    "wrong",
    [
        {"quiet_db": 12.0, "onset_db": 10.0},
        {"max_song_s": 0.5},
        {"min_gap_s": 0.0},
        {"threshold": 3.0},
        {"noise": {"floor_window_s": 0.1}},
        {"noise": {"floor_quantile": 1.0}},
    ],
)
def test_impossible_configurations_are_refused(wrong: dict[str, object]) -> None:
    """Thresholds out of order, lengths that contradict, zero times and unknown keys are errors."""
    with pytest.raises(ValidationError):
        SegmenterConfig.model_validate(wrong)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_survive_json(preset: str) -> None:
    """A preset is the same after it was written to and read from a bundle's manifest; its delay is below 0.6 s."""
    _, config = PRESETS[preset]
    assert SegmenterConfig.model_validate_json(config.model_dump_json()) == config
    assert 0 < config.decision_delay_s < 0.6


def test_floors_at_are_the_floors_of_the_stream() -> None:
    """For annotated songs the noise floor is the one that the segmenter itself would have used there."""
    songs = songs_in(season())
    indices: NDArray[np.int64] = np.asarray([(song.onset + FRONTEND.hop // 2) // FRONTEND.hop for song in songs])
    floors = NoiseFloor(NoiseConfig(), FRONTEND).floors_at(season(), indices)
    assert np.array_equal(floors, np.stack([song.floor for song in songs]))
