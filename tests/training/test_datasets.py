"""From folders to songs: annotated or cut by the segmenter, by the code that serves, and bad input refused by name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from songcore.annotations import Annotation
from songcore.arrays import FloatArray
from songcore.errors import InputError
from songcore.features import FeatureConfig
from songcore.stream import SongStream, StreamConfig
from songtrain.datasets.cache import cache_key, load_cached, pack, store_cached, unpack
from songtrain.datasets.extract import extract_songs
from songtrain.datasets.folder import scan_folder
from songtrain.datasets.screening import screen_songs
from songtrain.datasets.songs import RecordingSongs, SongPlace, SongSet, join_recordings
from songtrain.datasets.split import hold_out

RATE = 24_000
HEADER = "recording,onset_s,offset_s,label\n"


def singing(seed: int = 0, n_songs: int = 4) -> FloatArray:
    """Return noise with a warbling tone of a second every three seconds, the first at two seconds."""
    rng = np.random.default_rng(seed)
    samples = rng.normal(0, 1e-3, RATE * (3 * n_songs + 2))
    t = np.arange(RATE) / RATE
    for index in range(n_songs):
        begin = RATE * (2 + 3 * index)
        samples[begin : begin + RATE] += 0.3 * np.sin(2 * np.pi * (3000 * t + 30 * np.sin(2 * np.pi * 6 * t)))
    return samples.astype(np.float32)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Return a file with four songs."""
    path = tmp_path / "a.wav"
    soundfile.write(path, singing(), RATE)
    return path


def test_segmented_songs_are_those_of_a_stream(recording: Path, stream: StreamConfig) -> None:
    """Training cuts and measures the very songs that the service would, to half precision."""
    served = SongStream(stream, RATE)
    samples, _ = soundfile.read(recording, dtype="float32")
    songs = served.push(samples) + served.finish()
    trained = extract_songs(recording, "a.wav", None, stream)
    assert len(songs) == 4
    assert [(p.onset, p.offset) for p in trained.places] == [(s.onset, s.offset) for s in songs]
    assert trained.frames == pytest.approx(np.concatenate([s.features for s in songs]), abs=4e-3)
    assert trained.lengths.tolist() == [len(s.features) for s in songs]


def test_songs_that_only_people_heard_are_cut_where_they_were_marked(recording: Path, stream: StreamConfig) -> None:
    """Times and labels come from the annotations, features have sound, and one behind the end is left out."""
    marks = [
        Annotation("a.wav", 2.0, 2.4, "x"),
        Annotation("a.wav", 5.0, 5.4, "y"),
        Annotation("a.wav", 99.0, 100.0, "z"),
    ]
    songs = extract_songs(recording, "a.wav", marks, stream)
    assert [(p.onset, p.offset, p.label) for p in songs.places] == [(48_000, 57_600, "x"), (120_000, 129_600, "y")]
    assert songs.frames.max() > 2
    assert len(songs.background) > 0
    assert songs.background.mean() < songs.frames.mean() / 3


def test_annotated_songs_take_the_borders_that_serving_gives_them(recording: Path, stream: StreamConfig) -> None:
    """A mark that overlaps a found song by half or more has that song's borders and features, and keeps its label."""
    served = extract_songs(recording, "a.wav", None, stream)
    marks = [
        Annotation("a.wav", (p.onset + 1500) / RATE, (p.offset - 900) / RATE, f"{i}")
        for i, p in enumerate(served.places)
    ]
    songs = extract_songs(recording, "a.wav", marks, stream)
    assert [(p.onset, p.offset) for p in songs.places] == [(p.onset, p.offset) for p in served.places]
    assert [p.label for p in songs.places] == ["0", "1", "2", "3"]
    assert np.array_equal(songs.frames, served.frames)


def test_annotated_borders_can_be_kept(recording: Path, stream: StreamConfig) -> None:
    """With the borders of songs.csv kept, a unit of 40 ms inside a song stays one, as does a clip longer than its sounds."""
    (recording.parent / "songs.csv").write_text(HEADER + "a.wav,2.10,2.14,x\na.wav,0,14,y\n")
    assert [f.keep_borders for f in scan_folder(recording.parent, "auto").recordings] == [False]
    (file,) = scan_folder(recording.parent, "annotated").recordings
    songs = extract_songs(file.path, file.name, file.annotations, stream, keep_borders=file.keep_borders)
    assert [(p.onset, p.offset) for p in songs.places] == [(50_400, 51_360), (0, 336_000)]
    loudest = replace(stream, features=FeatureConfig(reference="loudest"))
    assert len(extract_songs(file.path, file.name, file.annotations, loudest).background) == 0


def test_cache_gives_back_what_was_stored_and_tells_inputs_apart(
    recording: Path, stream: StreamConfig, tmp_path: Path
) -> None:
    """Packed songs come back equal; another channel, annotation or content has another key; a damaged file is absent."""
    songs = extract_songs(recording, "a.wav", None, stream)
    key = cache_key(recording, None, stream, None)
    store_cached(tmp_path / "cache", key, pack(songs))
    content = load_cached(tmp_path / "cache", key)
    assert content is not None
    again = unpack(content, "a.wav")
    assert again.places == songs.places
    assert np.array_equal(again.frames, songs.frames)
    other = tmp_path / "b.wav"
    soundfile.write(other, singing(1), RATE)
    keys = {
        key,
        cache_key(recording, None, stream, 1),
        cache_key(recording, [], stream, None),
        cache_key(recording, [], stream, None, keep_borders=True),
        cache_key(other, None, stream, None),
    }
    assert len(keys) == 5
    (tmp_path / "cache" / f"{key}.npz").write_bytes(content[: len(content) // 2])
    assert load_cached(tmp_path / "cache", key) is None


def test_song_sets_can_be_cut_and_joined(toy_songs: Callable[..., SongSet]) -> None:
    """A subset holds its songs' features in the order asked for."""
    songs = toy_songs(20)
    part = songs.subset([7, 2])
    assert np.array_equal(part.features(0), songs.features(7))
    assert np.array_equal(part.features(1), songs.features(2))
    assert part.labels == [songs.labels[7], songs.labels[2]]
    assert len(join_recordings([], 64)) == 0


def test_whole_recordings_are_held_out() -> None:
    """About the share asked for is held out and no recording is on both sides; few recordings give their last songs."""
    names = [f"r{i // 10}" for i in range(200)]
    held = hold_out(names, 0.15, np.random.default_rng(0))
    assert 20 <= len(held) <= 40
    assert not {names[i] for i in held} & {names[i] for i in set(range(200)) - set(held.tolist())}
    assert hold_out(["a"] * 10 + ["b"] * 10, 0.2, np.random.default_rng(0)).tolist() == [8, 9, 18, 19]


@pytest.mark.parametrize("sizes", [[600, *[50] * 9], [40, 3, 3, 3, 3], [5] * 5, [97, 1, 1, 1, 1, 1], [1] * 30])
def test_what_is_held_out_leaves_the_most_to_learn_from(sizes: list[int]) -> None:
    """However unequal recordings are, between one song and twice the share is held out, whatever the draw."""
    names = [f"r{number}" for number, size in enumerate(sizes) for _ in range(size)]
    for seed in range(40):
        held = hold_out(names, 0.15, np.random.default_rng(seed))
        assert 1 <= len(held) <= 2 * 0.15 * len(names)
        assert not {names[i] for i in held} & {names[i] for i in set(range(len(names))) - set(held.tolist())}


def test_songs_of_a_few_recordings_are_held_out_by_time() -> None:
    """A table sorted by label does not decide: the last songs are those that were sung last."""
    onsets = [5, 1, 9, 3, 7, 2, 8, 4, 6, 0]
    held = hold_out(["a"] * 10, 0.2, np.random.default_rng(0), onsets)
    assert sorted(onsets[i] for i in held) == [8, 9]
    twice = hold_out(["a"] * 10, 0.1, np.random.default_rng(0), [0, 1, 2, 3, 4, 4, 3, 2, 1, 0])
    assert twice.tolist() == [4, 5], "one song under two labels is not on both sides"
    assert hold_out(["a"] * 4, 0.25, np.random.default_rng(0), [7] * 4).tolist() == [3]


def test_a_copy_of_a_recording_is_the_recording(toy_songs: Callable[..., SongSet]) -> None:
    """Its songs have the source of the first of them, so that none is learned from and held out under another name."""
    songs = toy_songs(48)
    places = [*songs.places, *(replace(place, recording=f"backup/{place.recording}") for place in songs.places[8:24])]
    every = songs.subset([*range(48), *range(8, 24)])
    every = replace(every, places=tuple(places))
    assert songs.sources == songs.recordings
    assert every.sources == [*songs.recordings, *songs.recordings[8:24]]
    held = set(hold_out(every.sources, 0.3, np.random.default_rng(0)).tolist())
    assert {every.sources[i] for i in held}.isdisjoint(every.sources[i] for i in set(range(len(every))) - held)


def test_of_a_few_recordings_each_leaves_a_song() -> None:
    """Nothing is held out of a recording with one song, and one song of all when there are only such recordings."""
    assert hold_out(["a", "b", "b", "c", "c", "c"], 0.15, np.random.default_rng(0)).tolist() == [2, 5]
    assert hold_out(["a", "b", "c", "d"], 0.15, np.random.default_rng(0)).tolist() == [3]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (HEADER + "missing.wav,1,2,x\n", "RECORDING_MISSING"),
        (HEADER + "a.wav,3,2,x\n", "TIMES_INVALID"),
        (HEADER + "a.wav,one,2,x\n", "NUMBER_INVALID"),
        (HEADER, "TOO_FEW_SONGS"),
        ("recording,begin\n", "COLUMN_MISSING"),
    ],
)
def test_wrong_annotations_are_refused_by_name(recording: Path, table: str, reason: str) -> None:
    """A missing recording, reversed times, words for numbers, missing columns, and no line at all raise InputError."""
    (recording.parent / "songs.csv").write_text(table)
    with pytest.raises(InputError) as raised:
        scan_folder(recording.parent)
    assert raised.value.reason == reason


def test_folders_without_recordings_are_refused(tmp_path: Path) -> None:
    """A missing folder and one without recordings raise InputError."""
    with pytest.raises(InputError, match="not a folder"):
        scan_folder(tmp_path / "absent")
    with pytest.raises(InputError) as raised:
        scan_folder(tmp_path)
    assert raised.value.reason == "NO_RECORDINGS"


def test_hidden_files_teach_nothing(recording: Path) -> None:
    """The twins that macOS writes beside recordings, and folders in the trash, are not taken, annotated or not."""
    folder = recording.parent
    (folder / ".Trashes").mkdir()
    for name in ("._a.wav", ".Trashes/a.wav"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    assert [f.name for f in scan_folder(folder).recordings] == ["a.wav"]
    (folder / "songs.csv").write_text(HEADER + "a.wav,2,3,x\n")
    assert [f.path for f in scan_folder(folder).recordings] == [recording]


def test_annotation_names_may_be_paths_or_file_names(tmp_path: Path) -> None:
    """songs.csv finds recordings in sub-folders; a name that two files have must be written as a path."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "a.wav", singing(n_songs=1), RATE)
    (tmp_path / "songs.csv").write_text(HEADER + "one/a.wav,2,3,x\n")
    found = scan_folder(tmp_path)
    assert [(f.name, f.path.parent.name) for f in found.recordings] == [("one/a.wav", "one")]
    assert len(scan_folder(tmp_path, "automatic").recordings) == 2
    (tmp_path / "songs.csv").write_text(HEADER + "a.wav,2,3,x\n")
    with pytest.raises(InputError) as raised:
        scan_folder(tmp_path)
    assert raised.value.reason == "RECORDING_AMBIGUOUS"


def test_a_file_that_is_named_in_two_ways_is_one_recording(tmp_path: Path) -> None:
    """Songs under its path and under its name are of one recording, and a line that stands twice is one song."""
    (tmp_path / "one").mkdir()
    soundfile.write(tmp_path / "one" / "a.wav", singing(n_songs=2), RATE)
    lines = ("one/a.wav,2,3,x", "a.wav,2,3,x", "a.wav,5,6,y", "a.wav,5,6,y")
    (tmp_path / "songs.csv").write_text(HEADER + "\n".join(lines) + "\n")
    (file,) = scan_folder(tmp_path).recordings
    assert file.name == "one/a.wav"
    assert [(a.recording, a.onset_s, a.label) for a in file.annotations or ()] == [
        ("one/a.wav", 2, "x"),
        ("one/a.wav", 5, "y"),
    ]


def test_background_of_held_out_recordings_is_not_learned_from() -> None:
    """It goes with recordings that only held-out songs are of; where both sides share a recording it stays."""

    def recording(name: str, n_songs: int, level: int) -> RecordingSongs:
        places = tuple(SongPlace(name, i, i + 1) for i in range(n_songs))
        frames = np.zeros((n_songs, 2), np.float16)
        background = np.full((level, 2), level, np.float16)
        return RecordingSongs(places, np.ones(n_songs, np.int64), frames, background, 1.0)

    songs = join_recordings([recording("a", 2, 1), recording("", 0, 2), recording("b", 1, 3), recording("c", 2, 4)], 2)
    learned, held_out = songs.parted(np.array([2, 4]))
    assert [len(learned), held_out.recordings] == [3, ["b", "c"]]
    assert np.unique(learned.background).tolist() == [1, 2, 4]
    assert len(learned.background) == 7
    again, _ = learned.subset([0, 2]).parted(np.array([1]))
    assert np.unique(again.background).tolist() == [1, 2]
    unknown = replace(songs, background_of=())
    assert unknown.parted(np.array([2]))[0].background is unknown.background


def test_songs_that_cannot_teach_are_refused(toy_songs: Callable[..., SongSet]) -> None:
    """Too few songs, silent songs and copies of one song raise InputError, and a few silent ones are only left out."""
    songs = toy_songs(24)
    with pytest.raises(InputError) as raised:
        screen_songs(songs.subset([0]), min_songs=20, left_out="2 recordings were skipped")
    assert raised.value.reason == "TOO_FEW_SONGS"
    assert "2 recordings were skipped" in str(raised.value)
    with pytest.raises(InputError) as raised:
        screen_songs(songs.subset([3] * 24), min_songs=20)
    assert raised.value.reason == "SONGS_EQUAL"
    silenced = SongSet(songs.places, songs.lengths, songs.frames.copy(), songs.background, 1.0)
    silenced.frames[: songs.lengths[0]] = 0
    kept, n_silent = screen_songs(silenced, min_songs=20)
    assert (len(kept), n_silent) == (23, 1)
    silenced.frames[:] = 0
    with pytest.raises(InputError, match="24 that are silent"):
        screen_songs(silenced, min_songs=20)
    silenced.frames[0] = np.nan
    with pytest.raises(InputError) as raised:
        screen_songs(silenced, min_songs=20)
    assert raised.value.reason == "NOT_FINITE"
