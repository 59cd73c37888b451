"""Streams: the same songs bit for bit for any chunks, any restart from any checkpoint; bounded memory and lag."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles import sing, soundscape, stream_config
from songcore.arrays import FloatArray
from songcore.errors import InputError
from songcore.features import FeatureConfig, song_features
from songcore.frontend import FrontendConfig, LogMel
from songcore.resample import Resampler
from songcore.segment import Segmenter, SegmenterConfig
from songcore.stream import Checkpoint, Song, SongStream, StreamConfig

RATES = [24_000, 44_100, 48_000]
CONFIGS: dict[str, StreamConfig] = {
    "song": stream_config("song"),
    "syllable": stream_config("syllable"),
    # Odd sizes, songs longer than their features, and songs so short that cuts are everywhere.
    "odd": StreamConfig(
        FrontendConfig(sample_rate_hz=22_051, n_fft=333, hop=111, n_mels=20, f_max_hz=11_000),
        SegmenterConfig(min_gap_s=0.1, min_song_s=0.05, max_song_s=0.5),
        FeatureConfig(max_song_s=0.3, bucket_frames=7),
    ),
}

Key = tuple[int, int, bool, float, str, tuple[int, ...], bytes]


def key(song: Song) -> Key:
    """Return all of a song, comparable bit for bit."""
    features = song.features
    return song.onset, song.offset, song.forced_cut, song.snr_db, song.quality, features.shape, features.tobytes()


def trill(rate_hz: int, duration_s: float, seed: int = 0) -> FloatArray:
    """Return a trill without a pause long enough to end a song."""
    t = np.arange(int(duration_s * rate_hz)) / rate_hz
    noise = 0.001 * np.random.default_rng(seed).standard_normal(len(t))
    return np.asarray(0.2 * np.sin(2 * np.pi * 3_000 * t) * ((t * 8) % 1 < 0.5) + noise, np.float32)


@lru_cache
def signal(name: str, rate_hz: int) -> FloatArray:
    """Return one of the signals that all the tests below cut up."""
    rng = np.random.default_rng(1)
    song = sing(2, rng, rate_hz)
    quiet = (0.002 * rng.standard_normal(3 * rate_hz)).astype(np.float32)
    match name:
        case "songs":
            return soundscape([0, 1, 2, 3], 5, rate_hz=rate_hz)[0]
        case "borders":  # a song on the very first and on the very last sample
            return np.concatenate([song, quiet, song, quiet, song])
        case "short":  # ends before the noise floor is first known
            return song[: int(0.8 * rate_hz)]
        case "clipped":  # every other song
            sounds = [np.clip(song * gain, -1, 1) for gain in (1, 20, 1, 20)]
            return np.concatenate([part for sound in sounds for part in (sound, quiet)])
        case "endless":
            return np.concatenate([quiet, trill(rate_hz, 25), quiet])
        case "silence":
            return np.zeros(4 * rate_hz, np.float32)
    raise AssertionError(name)


SIGNALS = ["songs", "borders", "short", "clipped", "endless", "silence"]


def pieces(samples: FloatArray, cuts: Sequence[float]) -> Iterator[FloatArray]:
    """Yield the samples in the pieces between relative cuts."""
    yield from np.split(samples, sorted(int(cut * len(samples)) for cut in cuts))


@lru_cache
def whole(name: str, preset: str, rate_hz: int) -> list[Key]:
    """Return the songs of a signal pushed at once."""
    stream = SongStream(CONFIGS[preset], rate_hz)
    return [key(song) for song in stream.push(signal(name, rate_hz)) + stream.finish()]


def test_the_signals_are_worth_cutting() -> None:
    """The songs are found where they were sung, at both ends of a file, before the first noise floor, and cut by force."""
    for rate in RATES:
        assert len(whole("songs", "song", rate)) == 4
        borders, n = whole("borders", "song", rate), len(signal("borders", rate)) * 24_000 // rate
        assert len(borders) == 3
        assert borders[0][0] < 24_000 * 0.1
        assert n - 24_000 * 0.1 < borders[-1][1] <= n
        assert len(whole("short", "song", rate)) == 1
        assert sum(song[2] for song in whole("endless", "song", rate)) >= 1
        assert len(whole("endless", "odd", rate)) > 20
        assert whole("silence", "song", rate) == []


@settings(max_examples=40)
@given(
    name=st.sampled_from(SIGNALS),
    preset=st.sampled_from(list(CONFIGS)),
    rate=st.sampled_from(RATES),
    cuts=st.lists(st.floats(0, 1), max_size=40),
    asking=st.booleans(),
)
def test_chunks_change_no_bit(name: str, preset: str, rate: int, cuts: list[float], *, asking: bool) -> None:
    """Any cutting, asking for checkpoints between or not, gives the songs of one push, features bit for bit."""
    stream, songs = SongStream(CONFIGS[preset], rate), []
    for piece in pieces(signal(name, rate), cuts):
        songs += stream.push(piece)
        if asking:
            stream.checkpoint()
    assert [key(song) for song in songs + stream.finish()] == whole(name, preset, rate)


@pytest.mark.parametrize("n_chunk", [1, 160, 4_410])
def test_equal_chunks_change_no_bit(n_chunk: int) -> None:
    """Single samples, and chunks as a sound card gives them, give the songs of one push."""
    rate = 8_000
    samples = signal("borders", rate)[: 2 * rate] if n_chunk == 1 else signal("borders", rate)
    at_once, stream = SongStream(CONFIGS["song"], rate), SongStream(CONFIGS["song"], rate)
    expected = at_once.push(samples) + at_once.finish()
    songs = [song for i in range(0, len(samples), n_chunk) for song in stream.push(samples[i : i + n_chunk])]
    assert [key(song) for song in songs + stream.finish()] == [key(song) for song in expected] != []


@settings(max_examples=50)
@given(
    name=st.sampled_from(SIGNALS),
    preset=st.sampled_from(list(CONFIGS)),
    rate=st.sampled_from(RATES),
    cuts=st.lists(st.floats(0, 1), min_size=1, max_size=25),
    crashes=st.sets(st.integers(0, 24), max_size=6),
)
def test_restarts_change_no_bit(name: str, preset: str, rate: int, cuts: list[float], crashes: set[int]) -> None:
    """However often a stream is lost and taken up at its checkpoint, every song comes, in order, and no other song."""
    samples, config = signal(name, rate), CONFIGS[preset]
    stream, position = SongStream(config, rate), 0
    returned: list[Key] = []
    ends = [*sorted(int(cut * len(samples)) for cut in cuts), len(samples)]
    for index, end in enumerate(ends):
        returned += [key(song) for song in stream.push(samples[position:end])]
        position = max(position, end)
        if index in crashes:
            checkpoint = stream.checkpoint()
            assert checkpoint.input_sample <= position
            stream, position = SongStream.resume(config, rate, checkpoint.state), checkpoint.input_sample
    returned += [key(song) for song in stream.push(samples[position:]) + stream.finish()]
    expected = whole(name, preset, rate)
    assert list(dict.fromkeys(returned)) == expected
    if not crashes:
        assert returned == expected


@pytest.mark.parametrize("preset", CONFIGS)
@pytest.mark.parametrize("name", ["songs", "endless", "borders"])
def test_any_checkpoint_finds_the_songs_after_it(name: str, preset: str) -> None:
    """From any of a dozen checkpoints the rest of the signal gives the last songs, all that were not returned yet."""
    rate, config = 48_000, CONFIGS[preset]
    samples, expected = signal(name, rate), whole(name, preset, rate)
    stream, n_returned = SongStream(config, rate), 0
    seen: dict[int, tuple[Checkpoint, int]] = {}
    for begin in range(0, len(samples), rate // 2):
        n_returned += len(stream.push(samples[begin : begin + rate // 2]))
        checkpoint = stream.checkpoint()
        seen.setdefault(checkpoint.input_sample, (checkpoint, n_returned))
    assert len(seen) > 2
    for checkpoint, n in list(seen.values())[:: 1 + len(seen) // 12]:
        resumed = SongStream.resume(config, rate, checkpoint.state)
        songs = resumed.push(samples[checkpoint.input_sample :]) + resumed.finish()
        assert len(songs) >= len(expected) - n
        assert [key(song) for song in songs] == expected[len(expected) - len(songs) :]


def test_a_stream_is_its_stages() -> None:
    """Resampler, log-mel, segmenter and features run one after the other over the whole signal give the same songs."""
    for preset, config in CONFIGS.items():
        resampler, front = Resampler(44_100, config.frontend.sample_rate_hz), LogMel(config.frontend)
        samples = np.concatenate([resampler.push(signal("songs", 44_100)), resampler.finish()])
        frames = np.concatenate([front.push(samples), front.finish()])
        segmenter = Segmenter(config.segmenter, config.frontend)
        segments = segmenter.push(frames) + segmenter.finish()
        songs = whole("songs", preset, 44_100)
        assert len(songs) == len(segments) > 0
        for segment, (onset, offset, forced_cut, snr_db, _, shape, features) in zip(segments, songs, strict=True):
            assert (segment.onset, min(segment.offset, len(samples))) == (onset, offset)
            assert (segment.forced_cut, segment.snr_db) == (forced_cut, snr_db)
            first, last = ceil(onset / config.frontend.hop), ceil(segment.offset / config.frontend.hop)
            cut = song_features(frames[first:last], segment.floor, config.frontend, config.features)
            assert cut.shape == shape
            assert cut.tobytes() == features


def test_features_of_an_endless_song_are_bounded() -> None:
    """A song longer than the encoder looks at has features of that many frames, padded to a whole bucket."""
    for preset, config in CONFIGS.items():
        bucket = config.features.bucket_frames
        longest = ceil(config.frontend.n_frames(config.features.max_song_s) / bucket) * bucket
        lengths = {song[5][0] for song in whole("endless", preset, 24_000)}
        assert max(lengths) <= longest
        assert all(length % bucket == 0 for length in lengths)
    assert max(song[5][0] for song in whole("endless", "odd", 24_000)) == longest


@pytest.mark.parametrize("n_samples", [0, 1, 50, 383])
@pytest.mark.parametrize("preset", CONFIGS)
def test_shorter_than_a_hop(preset: str, n_samples: int) -> None:
    """Streams of no or a few samples end without a song and without an error, also after a restart."""
    samples = (0.5 * np.random.default_rng(0).standard_normal(n_samples)).astype(np.float32)
    stream = SongStream(CONFIGS[preset], 44_100)
    assert stream.push(samples) == []
    resumed = SongStream.resume(CONFIGS[preset], 44_100, stream.checkpoint().state)
    assert stream.finish() == []
    assert resumed.push(samples) + resumed.finish() == []


def sounds(name: str, n: int, rng: np.random.Generator) -> FloatArray:
    """Return one of the sounds that never end, in samples (n,) at 24 kHz."""
    t = np.arange(n) / 24_000
    match name:
        case "silence":
            return np.zeros(n, np.float32)
        case "noise":
            return (0.05 * rng.standard_normal(n)).astype(np.float32)
        case "tone":
            return np.asarray(0.5 * np.sin(2 * np.pi * 3_000 * t), np.float32)
        case "trill":
            return trill(24_000, n / 24_000)
        case "clipping":
            return np.sign(rng.standard_normal(n)).astype(np.float32)
        case _:  # songs whose pauses are hardly long enough to part them
            song = sing(1, rng)
            period = np.concatenate([song, np.zeros(int(0.5 * 24_000), np.float32)])
            return np.resize(period, n) + (0.001 * rng.standard_normal(n)).astype(np.float32)


@pytest.mark.parametrize("preset", ["song", "syllable"])
@pytest.mark.parametrize("name", ["silence", "noise", "tone", "trill", "clipping", "chorus"])
def test_memory_and_lag_are_bounded(name: str, preset: str) -> None:
    """In two minutes of anything, frames and checkpoint reach no further back than the longest song and three seconds."""
    config, rate = CONFIGS[preset], 24_000
    samples = sounds(name, 120 * rate, np.random.default_rng(2))
    stream, last = SongStream(config, rate), 0
    longest_s = config.segmenter.max_song_s + config.segmenter.decision_delay_s
    for begin in range(0, len(samples), rate // 2):
        stream.push(samples[begin : begin + rate // 2])
        end = begin + rate // 2
        assert len(stream._frames) * config.frontend.hop_s <= longest_s + 1.5
        checkpoint = stream.checkpoint()
        assert last <= checkpoint.input_sample <= end
        assert end - checkpoint.input_sample <= (longest_s + 3) * rate
        assert len(checkpoint.state) < 70_000
        assert stream.open_since <= end
        last = checkpoint.input_sample


def test_no_song_begins_before_open_since() -> None:
    """What was announced as decided is: later songs begin at or after ``open_since``."""
    for name in ("songs", "endless", "borders"):
        samples, stream, decided = signal(name, 24_000), SongStream(CONFIGS["song"], 24_000), 0
        for begin in range(0, len(samples), 5_000):
            songs = stream.push(samples[begin : begin + 5_000])
            assert all(song.onset + 24_000 * config_hop_s() >= decided for song in songs)
            decided = stream.open_since
        assert all(song.onset + 24_000 * config_hop_s() >= decided for song in stream.finish())


def config_hop_s() -> float:
    """Return the length of a frame: borders lie half a hop before the frames' centres."""
    return CONFIGS["song"].frontend.hop_s


@pytest.mark.parametrize("change", ["features", "segmenter", "frontend", "rate", "empty", "short"])
def test_a_foreign_checkpoint_is_refused(change: str) -> None:
    """A state of other parameters, of another input rate, or cut off, is refused and never half taken up."""
    config = CONFIGS["song"]
    stream = SongStream(config, 48_000)
    stream.push(signal("songs", 48_000))
    state, rate = stream.checkpoint().state, 48_000
    match change:
        case "features":
            config = StreamConfig(config.frontend, config.segmenter, FeatureConfig(margin_db=4))
        case "segmenter":
            config = StreamConfig(config.frontend, SegmenterConfig(min_gap_s=0.41), config.features)
        case "frontend":
            config = StreamConfig(FrontendConfig(floor_db=-99), config.segmenter, config.features)
        case "rate":
            rate = 44_100
        case "empty":
            state = b""
        case "short":
            state = state[:20]
    with pytest.raises(InputError, match="other model parameters") as caught:
        SongStream.resume(config, rate, state)
    assert caught.value.reason == "CHECKPOINT_FOREIGN"


def test_a_resumed_stream_has_the_checkpoint_it_came_from() -> None:
    """Before anything is pushed, a resumed stream's checkpoint is the one it was made of."""
    stream = SongStream(CONFIGS["song"], 44_100)
    stream.push(signal("endless", 44_100)[: 44_100 * 15])
    checkpoint = stream.checkpoint()
    assert checkpoint.input_sample > 0
    assert SongStream.resume(CONFIGS["song"], 44_100, checkpoint.state).checkpoint() == checkpoint
