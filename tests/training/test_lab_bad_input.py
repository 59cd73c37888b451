"""What nobody should feed the laboratory, and what it says then: a named error or a row that tells; finished work is kept."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from ray_marks import ray_marks
from songcore.errors import ConfigError, InputError, SongError
from songcore.stream import StreamConfig
from songtrain.cluster import ray_session
from songtrain.commands.lab import lab
from songtrain.datasets.songs import SongSet
from songtrain.lab.report import write_lab_report
from songtrain.lab.results import Row, read_rows, write_rows
from songtrain.lab.run import LabJob, run_laboratory, run_systems
from songtrain.lab.scoring import _usual_size
from songtrain.lab.systems import choose_systems, part
from songtrain.lab.trial import Points, cluster_points
from songtrain.pipeline import TrainJob, train_bundle
from songtrain.settings import TrainSettings

pytestmark = [*ray_marks(600), pytest.mark.usefixtures("no_umap")]

ToySongs = Callable[..., SongSet]
NAMES = ("modulation-kmeans", "classical-floor")


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """Hold one Ray of this machine for the tests of this file."""
    with ray_session(store_bytes=128 * 2**20):
        yield


def job(out: Path, data: Path = Path("unused"), n_clusters: int = 4) -> LabJob:
    """Return a job of two classical systems with one seed."""
    return LabJob(data, out, choose_systems(NAMES), 1, n_clusters)


def recordings(folder: Path, songs: str, rates: tuple[int, ...] = (24_000,)) -> Path:
    """Return a folder with a recording per rate, six tones each, and this songs.csv below its header."""
    folder.mkdir(parents=True)
    for number, rate in enumerate(rates):
        t = np.arange(14 * rate) / rate
        samples = np.random.default_rng(number).normal(0, 1e-3, len(t))
        for song in range(6):
            at = (t >= 1 + 2 * song) & (t < 2 + 2 * song)
            hz = 2000 + 1500 * (song % 2) + 400 * np.sin(2 * np.pi * (3 + song % 2) * t[at])
            samples[at] += 0.3 * np.sin(2 * np.pi * np.cumsum(hz) / rate)
        soundfile.write(folder / f"{number}.wav", samples, rate)
    (folder / "songs.csv").write_text("recording,onset_s,offset_s,label\n" + songs)
    return folder


def annotated(n_recordings: int) -> str:
    """Return lines for the six tones of every recording, of two types in turn."""
    return "".join(f"{r}.wav,{1 + 2 * s},{2 + 2 * s},{'ab'[s % 2]}\n" for r in range(n_recordings) for s in range(6))


def reason(job: LabJob) -> str:
    """Return the reason for which the run is refused."""
    with pytest.raises(SongError) as raised:
        run_laboratory(job)
    return raised.value.reason


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize(
    ("songs", "expected"),
    [
        ("0.wav,1,2,a\n", "TOO_FEW_SONGS"),
        ("gone.wav,1,2,a\n", "RECORDING_MISSING"),
        ("0.wav,4,3,a\n", "TIMES_INVALID"),
        ("0.wav,1,two,a\n", "NUMBER_INVALID"),
        ("".join(f"0.wav,{at},{at + 1},a\n" for at in (20, 30, 40, 50)), "TOO_FEW_SONGS"),
    ],
    ids=["one song", "missing recording", "reversed onsets", "no number", "songs after the end"],
)
def test_folders_that_cannot_be_compared_on_are_refused(songs: str, expected: str, tmp_path: Path) -> None:
    """Each wrong folder ends with a reason before anything is run, and leaves no row."""
    assert reason(job(tmp_path / "out", recordings(tmp_path / "data", songs))) == expected
    assert read_rows(tmp_path / "out") == []


@pytest.mark.usefixtures("ray_here")
def test_what_was_left_out_is_said_where_too_little_is_left(tmp_path: Path) -> None:
    """Songs behind the end and recordings that cannot be read are why there are no songs, and the error says so."""
    lines = "".join(f"{name}.wav,{1000 + i},{1001 + i},a\n" for name in "01" for i in range(4))
    data = recordings(tmp_path / "data", lines, rates=(24_000, 24_000))
    with pytest.raises(InputError, match="8 annotations begin behind the end of their recordings; times are seconds"):
        run_laboratory(job(tmp_path / "out", data))
    (data / "1.wav").write_text("no sound")
    with pytest.raises(
        InputError, match=r"1 recordings were skipped, the first of them 1\.wav: .*; 4 annotations begin"
    ):
        run_laboratory(job(tmp_path / "out", data))


def test_a_half_that_is_too_small_costs_no_row(toy_songs: ToySongs) -> None:
    """OPTICS that asks for more neighbours than half of the songs are still has its row, without stability of halves."""
    (system,) = choose_systems(["basenet-optics"])
    chosen = replace(system, clusterer=part("optics", min_samples=20))
    points = Points(
        np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), tuple(toy_songs(30).labels), 0.0, 0.0
    )
    scores = cluster_points(points, chosen, 0).scores
    assert "ari" in scores
    assert "stability_halves" not in scores


def test_optics_has_a_row_of_fewer_songs_than_its_range_of_sizes(toy_songs: ToySongs) -> None:
    """Of nine songs no cluster of twelve can be asked, which costs the range of numbers and no row."""
    (system,) = choose_systems(["basenet-optics"])
    values = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    scores = cluster_points(Points(values, tuple(toy_songs(9).labels), 0.0, 0.0), system, 0).scores
    assert "ari" in scores
    assert not scores.keys() & {"k_low", "k_high"}


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("optics", {"min_samples": 3}, 3),
        ("optics", {"min_samples": 0.2}, 8),
        ("optics", {"min_samples": 5, "min_cluster_size": 0.1}, 4),
        ("hdbscan", {"min_samples": 3}, 5),
        ("hdbscan", {"min_share": 0.25}, 10),
        ("hdbscan", {"min_cluster_size": 4}, 4),
    ],
)
def test_the_range_of_numbers_is_around_the_smallest_cluster_of_the_row(
    name: str, parameters: dict[str, float], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OPTICS that is told none takes its least number of neighbours, and both may be shares of the forty songs."""
    asked: list[int] = []

    def note(_: object, size: int) -> tuple[int, int]:
        asked.append(size)
        return 1, 2

    monkeypatch.setattr("songtrain.lab.scoring.k_range", note)
    (system,) = choose_systems(["basenet-optics"])
    values = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    chosen = replace(system, clusterer=part(name, **parameters))
    assert cluster_points(Points(values, ("a", "b") * 20, 0.0, 0.0), chosen, 0).scores["k_high"] == 2
    assert asked == [expected]
    assert _usual_size({"min_cluster_size": None}, 40) == 5, "an estimator of one's own"


@pytest.mark.usefixtures("ray_here")
def test_overlapping_songs_and_mixed_rates_are_taken_and_silent_songs_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Songs that overlap are songs, at one rate whatever the files have; silent ones are counted; for training as well."""
    silent = "silent.wav,1,2,a\nsilent.wav,3,4,b\n"
    lines = "0.wav,1.5,3.5,c\n" + annotated(3) + silent
    data = recordings(tmp_path / "data", lines, rates=(16_000, 24_000, 44_100))
    soundfile.write(data / "silent.wav", np.zeros(6 * 32_000), 32_000)
    run = run_laboratory(job(tmp_path / "out", data, n_clusters=3))
    assert [(row.error, row.n_songs) for row in run.rows] == [("", 19)] * 2
    assert run.rows[0].scores["ari"] > 0.5
    assert (run.n_silent, run.left_out) == (2, "2 songs are silent")

    class LearnedFromError(Exception):
        """Ends a training before it begins, with the songs that it would learn from."""

    def learned_from(songs: SongSet, *_: object, **__: object) -> None:
        raise LearnedFromError(songs)

    monkeypatch.setattr("songtrain.pipeline.train_encoder", learned_from)
    settings = TrainSettings.model_validate({"data": {"min_songs": 19}})
    work = tmp_path / "out"  # where the features are
    with pytest.raises(LearnedFromError) as raised:
        train_bundle(TrainJob(data, tmp_path / "bundle", settings, work, "", datetime(2026, 5, 1, tzinfo=UTC)))
    (songs,) = raised.value.args
    seconds = {(p.recording, p.label, p.onset / 24_000, p.offset / 24_000) for p in songs.places}
    assert len(songs) == len(seconds) == 16
    assert "silent.wav" not in songs.recordings
    # Whoever overlaps a found song best has its borders, all others keep their own.
    assert ("0.wav", "c", 1.5, 3.5) in seconds
    for number in range(3):
        onsets = sorted(onset for name, label, onset, _ in seconds if name == f"{number}.wav" and label != "c")
        assert np.allclose(onsets, np.arange(1, 1 + 2 * len(onsets), 2), atol=0.2)


@pytest.mark.usefixtures("ray_here")
def test_songs_that_tell_nothing_are_rows_with_a_reason(
    toy_songs: ToySongs, stream: StreamConfig, tmp_path: Path
) -> None:
    """More clusters than songs, all songs equal, NaN: every row says why, the page shows it, other systems go on."""
    songs = toy_songs(12)
    few = run_systems(songs, stream, job(tmp_path / "few", n_clusters=13)).rows
    assert [row.error[-15:] for row in few] == ["[TOO_FEW_SONGS]", ""]
    same = songs.subset(np.zeros(12, np.int64))
    equal = run_systems(same, stream, job(tmp_path / "equal")).rows
    assert all(row.error.endswith("[SONGS_EQUAL]") for row in equal)
    broken = replace(songs, frames=np.full_like(songs.frames, np.nan))
    assert all(row.error.endswith("[NOT_FINITE]") for row in run_systems(broken, stream, job(tmp_path / "nan")).rows)
    page = write_lab_report(tmp_path / "few", datetime(2026, 5, 1, tzinfo=UTC)).read_text()
    assert "13 clusters are asked of 12 songs" in page


@pytest.mark.usefixtures("ray_here")
def test_a_type_with_one_song_and_silent_songs(toy_songs: ToySongs, stream: StreamConfig, tmp_path: Path) -> None:
    """A type sung once is in the table of types; songs of silence among others are placed and clustered like any."""
    songs = toy_songs(24)
    places = (replace(songs.places[0], label="once"), *songs.places[1:])
    frames = songs.frames.copy()
    frames[songs.starts[5] : songs.starts[5] + songs.lengths[5]] = 0
    rows = run_systems(replace(songs, places=places, frames=frames), stream, job(tmp_path)).rows
    assert [row.error for row in rows] == ["", ""]
    page = write_lab_report(tmp_path, datetime(2026, 5, 1, tzinfo=UTC)).read_text()
    assert "<td>once</td><td>1</td>" in page


def test_unknown_names_are_answered_with_the_choices() -> None:
    """A system, a parameter of a sweep, a choice of an option that there is not: an error that lists what there is."""
    base = ["--data", "x", "--out", "y"]
    for arguments, words in (
        (["run", *base, "--systems", "nothing"], "classical-floor"),
        (["run", *base, "--segmenter", "nothing"], "syllable"),
        (["sweep", *base, "--system", "classical-floor"], "--grid or --search"),
        (["sweep", *base, "--system", "classical-floor", "--grid", "reducer.wrong=1"], "n_components"),
        (["sweep", *base, "--system", "classical-floor", "--grid", "encoder.wrong=1"], "features, reducer, clusterer"),
    ):
        error = CliRunner().invoke(lab, arguments).exception
        assert isinstance(error, ConfigError)
        assert words in str(error)
    with pytest.raises(InputError, match="lab run"):
        write_lab_report(Path("nowhere"), datetime(2026, 5, 1, tzinfo=UTC))


def test_a_page_that_the_disk_does_not_take_leaves_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full in the middle of the new page ends the command by name, and the page before it is whole."""
    write_rows(tmp_path, [Row("a", 0, "", "songs", 2, n_clusters=1, labels=(0, 0))])
    now = datetime(2026, 5, 1, tzinfo=UTC)
    former = write_lab_report(tmp_path, now).read_text()

    def half(handle: int) -> None:
        os.truncate(handle, os.fstat(handle).st_size // 2)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", half)
    with pytest.raises(ConfigError, match="No space left") as raised:
        write_lab_report(tmp_path, now)
    assert raised.value.reason == "OUTPUT_NOT_WRITABLE"
    assert (tmp_path / "report.html").read_text() == former


def test_full_disk_is_told_and_leaves_no_half_file(tmp_path: Path) -> None:
    """Where files may not grow, as on a full disk, storing features ends with WORK_UNWRITABLE and nothing under the key."""
    program = f"""
import resource, signal
from pathlib import Path
from songcore.errors import ConfigError
from songtrain.datasets.cache import load_cached, store_cached
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    store_cached(Path({str(tmp_path)!r}), "key", bytes(100_000))
except ConfigError as error:
    print(error.reason, load_cached(Path({str(tmp_path)!r}), "key"))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["WORK_UNWRITABLE", "None"]
    assert not list(tmp_path.glob("*.npz"))
