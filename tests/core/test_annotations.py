"""Annotations in songs.csv, Raven and Audacity form: round trips, real tables, and what is wrong with broken ones."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from songcore.annotation_files import read_annotations
from songcore.annotations import Annotation, read_songs_csv, write_songs_csv
from songcore.audacity import read_audacity, write_audacity
from songcore.errors import InputError
from songcore.raven import COLUMNS, read_raven, write_raven

FORMATS = Path(__file__).parents[3] / "shared" / "data" / "formats"
real_formats = pytest.mark.skipif(not FORMATS.is_dir(), reason="the recordings beside the checkout are absent")

words = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=12)
labels = st.lists(words.filter(bool), max_size=3).map(" ".join)
microseconds = st.integers(0, 10_800_000_000)
names = st.sampled_from(["a.wav", "2024/north pole/b.flac", "c,d.mp3", 'e"f.ogg'])


@st.composite
def annotations(draw: st.DrawFn) -> Annotation:
    """Songs at whole microseconds, the resolution of the tables."""
    onset, length = draw(microseconds), draw(st.integers(1, 60_000_000))
    band = draw(st.none() | st.tuples(st.integers(0, 90_000), st.integers(0, 90_000)))
    return Annotation(
        draw(names),
        onset / 1e6,
        (onset + length) / 1e6,
        draw(labels),
        low_hz=None if band is None else band[0] / 10,
        high_hz=None if band is None else band[1] / 10,
        more={"similarity": draw(words)},
    )


def _key(song: Annotation) -> tuple[str, int, int, str]:
    return song.recording, round(song.onset_s * 1e6), round(song.offset_s * 1e6), song.label


@given(st.lists(annotations(), max_size=8))
def test_songs_csv_round_trip(songs: list[Annotation]) -> None:
    """Songs written to songs.csv are read back with recording, times, label and further columns unchanged."""
    file = io.StringIO(newline="")
    write_songs_csv(file, songs, more=["similarity"])
    file.seek(0)
    read = read_songs_csv(file)
    assert [_key(song) for song in read] == [_key(song) for song in songs]
    assert [song.more for song in read] == [song.more for song in songs]


@given(st.lists(annotations(), max_size=8), st.permutations(["a.wav", "2024/north pole/b.flac", "c,d.mp3", 'e"f.ogg']))
def test_raven_round_trip_over_several_recordings(songs: list[Annotation], order: list[str]) -> None:
    """Songs of several recordings in one Raven table come back within their own recording, whatever the order."""
    file = io.StringIO(newline="")
    durations_s = dict.fromkeys(order, 10_860.0)
    write_raven(file, songs, durations_s=durations_s, band_hz=(700, 11_500), more=["similarity"])
    file.seek(0)
    read = read_raven(file)
    assert [song.label for song in read] == [song.label for song in songs]
    assert [song.recording for song in read] == [song.recording for song in songs]
    for written, back in zip(songs, read, strict=True):
        # Begin and End are rounded separately at times of hours, so a length may be off by a microsecond.
        assert back.onset_s == pytest.approx(written.onset_s, abs=1e-6)
        assert back.offset_s == pytest.approx(written.offset_s, abs=3e-6)
        assert back.low_hz == (700 if written.low_hz is None else pytest.approx(written.low_hz))
        assert back.more["similarity"] == written.more["similarity"]


@given(st.lists(annotations(), max_size=8))
def test_audacity_round_trip(songs: list[Annotation]) -> None:
    """Songs written as Audacity labels are read back with times, label and frequencies unchanged."""
    file = io.StringIO(newline="")
    write_audacity(file, songs)
    file.seek(0)
    read = read_audacity(file)
    assert [_key(song)[1:] for song in read] == [_key(song)[1:] for song in songs]
    assert [(song.low_hz, song.high_hz) for song in read] == [(song.low_hz, song.high_hz) for song in songs]


def test_raven_begin_times_accumulate_and_file_offset_does_not() -> None:
    """In a table of two recordings Begin Time counts from the first one's start, File Offset from each one's own."""
    file = io.StringIO(newline="")
    songs = [Annotation("a.wav", 1, 2, "T0001"), Annotation("b.wav", 3, 4.5, "T0002")]
    write_raven(file, songs, durations_s={"a.wav": 60.0, "b.wav": 30.0}, band_hz=(700, 11_500))
    header, first, second = (line.split("\t") for line in file.getvalue().splitlines())
    assert tuple(header[:7]) == COLUMNS
    assert first[:10] == [
        "1",
        "Spectrogram 1",
        "1",
        "1.000000",
        "2.000000",
        "700.0",
        "11500.0",
        "a.wav",
        "1.000000",
        "T0001",
    ]
    assert [*second[3:5], second[8]] == ["63.000000", "64.500000", "3.000000"]


def test_raven_selection_shown_in_two_views_is_one_song() -> None:
    """Waveform and spectrogram rows of one selection are one song; equal numbers at other times are two."""
    table = "\t".join(COLUMNS) + "\n"
    table += "1\tWaveform 1\t1\t1.0\t2.0\t\t\n"
    table += "1\tSpectrogram 1\t1\t1.0\t2.0\t500\t900\n1\tSpectrogram 1\t1\t5.0\t6.0\t500\t900\n"
    songs = read_raven(io.StringIO(table), recording="x.wav")
    assert [(song.onset_s, song.low_hz) for song in songs] == [(1.0, 500.0), (5.0, 500.0)]


HEADER = "recording,onset_s,offset_s,label\n"
RAVEN = "Selection\tBegin Time (s)\tEnd Time (s)\n"


@pytest.mark.parametrize(
    ("read", "text", "reason", "message"),
    [
        (read_songs_csv, "", "COLUMN_MISSING", "empty"),
        (read_songs_csv, "recording,onset_s,label\nx,1,2\n", "COLUMN_MISSING", "offset_s"),
        (read_songs_csv, HEADER + "a,1,2,\na,3,2,\n", "TIMES_INVALID", "line 3"),
        (read_songs_csv, HEADER + "a,2,2,\n", "TIMES_INVALID", "line 2"),
        (read_songs_csv, HEADER + "a,-1,2,\n", "TIMES_INVALID", "line 2"),
        (read_songs_csv, HEADER + "a,one,2,\n", "NUMBER_INVALID", "'one'"),
        (read_songs_csv, HEADER + "a,nan,2,\n", "NUMBER_INVALID", "line 2"),
        (read_songs_csv, HEADER + "a,1\n", "NUMBER_INVALID", "offset_s is ''"),
        (read_songs_csv, HEADER + 'a,1,2,"never closed\n', "NOT_A_TABLE", "line"),
        (read_raven, "Selection\tBegin Time (s)\n1\t2\n", "COLUMN_MISSING", "End Time"),
        (read_raven, RAVEN + "1\t2.0\t1.0\n", "TIMES_INVALID", "line 2"),
        (read_raven, RAVEN + "1\t2.0\tx\n", "NUMBER_INVALID", "line 2"),
        (
            read_raven,
            RAVEN.strip() + "\tBegin Path\n1\t2\t3\ta.wav\n2\t70\t71\tb.wav\n",
            "OFFSET_MISSING",
            "2 recordings",
        ),
        (read_audacity, "1.0\n", "COLUMN_MISSING", "line 1"),
        (read_audacity, "\\\t1\t2\n", "COLUMN_MISSING", "line 1"),
        (read_audacity, "2.0\t1.0\tx\n", "TIMES_INVALID", "line 1"),
        (read_audacity, "1.0\tinf\tx\n", "NUMBER_INVALID", "line 1"),
    ],
)
def test_broken_tables_say_where_and_what(
    read: Callable[[io.StringIO], list[Annotation]], text: str, reason: str, message: str
) -> None:
    """A broken table raises InputError with the reason's stable name, and a message that names the place."""
    with pytest.raises(InputError, match=message) as caught:
        read(io.StringIO(text, newline=""))
    assert caught.value.reason == reason


def test_files_are_told_apart_by_content(tmp_path: Path) -> None:
    """One function reads all three formats whatever the file is called, and a spreadsheet's byte order mark."""
    songs = [Annotation("x.wav", 1, 2, "T0001")]
    to_raven = partial(write_raven, durations_s={"x.wav": 9.0}, band_hz=(1, 2))
    writers: list[Callable[[TextIO, list[Annotation]], None]] = [write_songs_csv, write_audacity, to_raven]
    for number, write in enumerate(writers):
        path = tmp_path / f"{number}.txt"
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            write(file, songs)
        read = read_annotations(path, recording="x.wav")
        assert [_key(song) for song in read] == [_key(song) for song in songs]


def test_missing_and_binary_annotation_files_are_input_errors(tmp_path: Path) -> None:
    """An annotation file that is absent, a folder or not text raises InputError, never anything else."""
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)) * 40)
    for path, reason in [("absent.csv", "NOT_FOUND"), (".", "NOT_FOUND"), ("binary.csv", "NOT_A_TABLE")]:
        with pytest.raises(InputError) as caught:
            read_annotations(tmp_path / path)
        assert caught.value.reason == reason


@real_formats
@pytest.mark.real_data
def test_tables_written_by_raven_and_audacity() -> None:
    """Tables as Raven and Audacity write them are read whole: short rows, no rows, further columns, frequencies."""
    counts = {path.name: len(read_annotations(path, recording="x")) for path in sorted(FORMATS.glob("*.txt"))}
    lines = {
        path.name: sum(bool(line.strip()) for line in path.read_text().splitlines()) for path in FORMATS.glob("*.txt")
    }
    for name, n_songs in counts.items():
        assert n_songs == (lines[name] // 2 if name == "spinetail.txt" else lines[name] - 1), name
    first = read_annotations(FORMATS / "13738.Table.1.selections.txt", recording="13738.mp3")[0]
    assert first == Annotation(
        "13738.mp3", 0.459636349, 2.298181746, "GWWA_song", low_hz=4029.8, high_hz=17006.4, more={"Notes": ""}
    )
    by_type = read_annotations(
        FORMATS / "MSD-0003_20180427_2minstart00.Table.1.selections.txt", label_column="distance"
    )
    assert by_type[0].more["Species"] == "WOTH"
    crer = read_annotations(FORMATS / "spinetail.txt")[1]
    assert (crer.label, crer.low_hz, crer.high_hz) == ("CRER", 2593.156006, 8866.920898)


@real_formats
@pytest.mark.real_data
def test_a_missing_label_column_is_named() -> None:
    """Asking a real Raven table for a label column it lacks names that column."""
    with pytest.raises(InputError, match="has no column Dialect"):
        read_annotations(FORMATS / "16989.Table.1.selections.txt", label_column="Dialect")
