"""``songstream classify`` as its users run it: the real command, real files, real processes."""

import csv
import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from bad_recordings import REASONS, sparse_wav, write_bad_recordings
from bundles import make_test_bundle, soundscape
from songcore.annotation_files import read_annotations
from songcore.audio import open_recording
from songcore.bundle import load_bundle

SONGSTREAM = str(Path(sys.executable).with_name("songstream"))
NIGHTINGALES = Path(__file__).parents[3] / "shared" / "data" / "nightingale"
AUDIOMOTH = "20240501_033000.WAV"
GOOD = {
    AUDIOMOTH: 3,
    "silent.wav": 0,
    "one_sample.wav": 0,
    "high_rate.flac": 2,
    "sub/stereo.wav": 2,
    "truncated.wav": 3,
}
"""Recordings that can be read, at least in part, and how many songs are in them."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the test bundle."""
    path = tmp_path_factory.mktemp("bundle") / "b"
    make_test_bundle(path)
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of good and bad recordings."""
    folder = tmp_path_factory.mktemp("archive")
    write_bad_recordings(folder)
    (folder / "sub").mkdir()
    samples, _ = soundscape([0, 1, 2], 1, rate_hz=48_000)
    soundfile.write(folder / AUDIOMOTH, samples, 48_000, subtype="PCM_16")
    whole = (folder / AUDIOMOTH).read_bytes()
    (folder / "truncated.wav").write_bytes(whole[: len(whole) - 96_000])
    soundfile.write(folder / "silent.wav", np.zeros(48_000), 24_000, subtype="PCM_16")
    soundfile.write(folder / "one_sample.wav", np.full(1, 0.5), 24_000, subtype="PCM_16")
    high, _ = soundscape([3, 4], 2, rate_hz=384_000)
    soundfile.write(folder / "high_rate.flac", high, 384_000)
    bird, _ = soundscape([2, 1], 3)
    soundfile.write(folder / "sub/stereo.wav", np.stack([np.zeros_like(bird), bird], axis=1), 24_000, subtype="PCM_16")
    return folder


def classify(*arguments: object, workers: int = 1) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [SONGSTREAM, "classify", *map(str, arguments), "--workers", str(workers)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


@pytest.fixture(scope="module")
def run(
    archive: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Return the output folder of one run over the archive, and how the command ended."""
    out = tmp_path_factory.mktemp("out") / "deep" / "er"
    return out, classify(archive, "--bundle", bundle, "--out", out, "--json", "--device", "cpu", workers=2)


def rows(path: Path) -> list[dict[str, str]]:
    """Return a CSV's rows by column."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_bad_recordings_are_listed_and_the_others_classified(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    """Every bad recording is in failed.csv with its reason, every good one has its songs, and the exit status is 3."""
    out, ended = run
    assert ended.returncode == 3, ended.stderr
    failed = {row["recording"]: row["reason"] for row in rows(out / "failed.csv")}
    assert failed == REASONS | {"truncated.wav": "TRUNCATED"}
    effort = {row["recording"]: int(row["n_songs"]) for row in rows(out / "recordings.csv")}
    assert effort == GOOD
    summary = json.loads(ended.stdout)
    assert (summary["n_recordings"], summary["n_failed"]) == (len(GOOD), len(REASONS) + 1)
    assert all(name in ended.stderr for name in failed)
    assert "Traceback" not in ended.stderr


def test_songs_are_those_of_the_core(
    run: tuple[Path, subprocess.CompletedProcess[str]], archive: Path, bundle: Path
) -> None:
    """Songs, types and scores in songs.csv equal those of one stream over the whole recording in this process."""
    out, _ = run
    model = load_bundle(bundle, device="cpu")
    with open_recording(archive / "high_rate.flac") as recording:
        stream = model.new_stream(recording.sample_rate_hz)
        songs = [song for block in recording.blocks(0.3) for song in stream.push(block)] + stream.finish()
    expected = [
        (
            f"{song.onset / 24_000:.6f}",
            f"{song.offset / 24_000:.6f}",
            named.type_id,
            f"{named.similarity:.6f}",
            f"{named.p_value:.6f}",
        )
        for song, named in zip(songs, model.classify(songs), strict=True)
    ]
    columns = ("onset_s", "offset_s", "type_id", "similarity", "p_value")
    found = [tuple(row[c] for c in columns) for row in rows(out / "songs.csv") if row["recording"] == "high_rate.flac"]
    assert found == expected
    assert {row["bundle"] for row in rows(out / "songs.csv")} == {model.digest}
    # The types of this bundle have no names; a label says which type it is all the same.
    assert {row["type_name"] for row in rows(out / "songs.csv")} == {""}
    assert all(row["label"] in {row["type_id"], "novel"} for row in rows(out / "songs.csv"))


def test_every_format_holds_the_same_songs(run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """CSV, Parquet, Raven and Audacity tables agree, and songcore's readers read them back."""
    out, _ = run
    songs = read_annotations(out / "songs.csv")
    assert len(songs) == sum(GOOD.values())
    assert songs == sorted(songs, key=lambda song: (song.recording, song.onset_s))
    parquet = pq.read_table(out / "songs.parquet").to_pylist()
    assert [(row["recording"], round(row["onset_s"], 6), row["label"]) for row in parquet] == [
        (song.recording, song.onset_s, song.label) for song in songs
    ]
    for recording in GOOD:
        own = [song for song in songs if song.recording == recording]
        raven = read_annotations(out / "raven" / f"{recording}.selections.txt")
        audacity = read_annotations(out / "audacity" / f"{recording}.labels.txt", recording=recording) if own else []
        for table in (raven, audacity):
            assert [(s.recording, s.onset_s, s.offset_s, s.label) for s in table] == [
                (s.recording, s.onset_s, s.offset_s, s.label) for s in own
            ]
        assert [(song.low_hz, song.high_hz) for song in raven] == [(700.0, 11_500.0)] * len(own)


def test_audiomoth_names_give_utc_times(run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Songs of a recording named by AudioMoth carry their UTC time to the millisecond; others carry none."""
    out, _ = run
    start = datetime(2024, 5, 1, 3, 30, tzinfo=UTC)
    for row in pq.read_table(out / "songs.parquet").to_pylist():
        if row["recording"] == AUDIOMOTH:
            assert abs(row["onset_utc"] - start - timedelta(seconds=row["onset_s"])) < timedelta(milliseconds=1)
        else:
            assert row["onset_utc"] is None
    times = [row["onset_utc"] for row in rows(out / "songs.csv") if row["recording"] == AUDIOMOTH]
    assert all(time.startswith("2024-05-01T03:30:0") and time.endswith("Z") for time in times)


def test_a_second_run_does_only_what_is_new(
    run: tuple[Path, subprocess.CompletedProcess[str]], archive: Path, bundle: Path
) -> None:
    """What is finished is not classified again, a recording that changed is, and another bundle begins anew."""
    out, first = run
    table = (out / "songs.csv").read_bytes()
    (archive / "silent.wav").touch()
    again = json.loads(classify(archive, "--bundle", bundle, "--out", out, "--json").stdout)
    assert (again["n_resumed"], again["heard_s"]) == (len(GOOD) - 1, 2.0)
    assert (out / "songs.csv").read_bytes() == table
    make_test_bundle(bundle.with_name("other"), seed=7)
    other = classify(archive / "sub", "--bundle", bundle.with_name("other"), "--out", out, "--channel", 2, "--json")
    summary = json.loads(other.stdout)
    assert (other.returncode, summary["n_songs"], summary["n_resumed"]) == (0, 2, 0)
    assert summary["bundle"] != json.loads(first.stdout)["bundle"]


def test_a_killed_run_is_taken_up_again(bundle: Path, tmp_path: Path) -> None:
    """After a kill without warning the same command finishes the rest, and the tables equal an undisturbed run's."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    for number in range(12):
        samples, _ = soundscape([number % 5, 1], number, rate_hz=48_000)
        soundfile.write(archive / f"{number:02d}.wav", np.tile(samples, 6), 48_000, subtype="PCM_16")
    command = [SONGSTREAM, "classify", str(archive), "--bundle", str(bundle), "--out", str(out), "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(out.glob(".songstream/*/*.json"))) < 4:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "songs.csv").exists()
    again = classify(archive, "--bundle", bundle, "--out", out, "--json")
    assert json.loads(again.stdout)["n_resumed"] >= 4
    classify(archive, "--bundle", bundle, "--out", tmp_path / "undisturbed")
    assert (out / "songs.csv").read_bytes() == (tmp_path / "undisturbed" / "songs.csv").read_bytes()


def test_three_hours_need_no_more_memory_than_minutes(bundle: Path, tmp_path: Path) -> None:
    """A recording of three hours is listened to in blocks: the process stays far below the gigabyte it would fill."""
    sparse_wav(tmp_path / "night.wav", rate_hz=8_000, duration_s=3 * 3600)
    command = [
        SONGSTREAM,
        "classify",
        str(tmp_path / "night.wav"),
        "--bundle",
        str(bundle),
        "--out",
        str(tmp_path / "out"),
    ]
    measured = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode; "
        "print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", measured, *command], capture_output=True, text=True, check=True, timeout=240
    )
    code, peak_kb = map(int, ended.stdout.split())
    assert code == 0, ended.stderr
    assert rows(tmp_path / "out" / "recordings.csv")[0]["duration_s"] == "10800.000"
    assert peak_kb < 500_000


def test_local_times_wait_for_their_zone(bundle: Path, tmp_path: Path) -> None:
    """Times of unknown zone are counted and said once; with --timezone the same results have UTC times; headers go first."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    samples, _ = soundscape([0], 1, rate_hz=48_000)
    soundfile.write(archive / "SM_20260501_213000.wav", samples, 48_000)
    with soundfile.SoundFile(archive / "SM_20260501_220000.wav", "w", 48_000, 1) as file:
        file.comment = "Recorded at 19:00:00 01/05/2026 (UTC+3) by AudioMoth 243B1F055B65E6F8"
        file.write(samples)
    with soundfile.SoundFile(archive / "later.wav", "w", 48_000, 1) as file:
        file.write(samples)
    with (archive / "later.wav").open("r+b") as raw:
        guano = b"GUANO|Version: 1.0\nTimestamp: 2026-05-01T23:00:00+02:00\n\n"
        raw.seek(0, 2)
        raw.write(b"guan" + len(guano).to_bytes(4, "little") + guano)
        size = raw.tell() - 8
        raw.seek(4)
        raw.write(size.to_bytes(4, "little"))
    first = classify(archive, "--bundle", bundle, "--out", out)
    assert first.returncode == 0, first.stderr
    assert first.stderr.count("unknown zone: 1,") == 1
    assert "--timezone" in first.stderr
    starts = {row["recording"]: row["start_utc"] for row in rows(out / "recordings.csv")}
    known = {"SM_20260501_220000.wav": "2026-05-01T16:00:00.000Z", "later.wav": "2026-05-01T21:00:00.000Z"}
    assert starts == {**known, "SM_20260501_213000.wav": ""}
    for zone in ("Europe/Berlin", "+02:00"):
        again = classify(archive, "--bundle", bundle, "--out", out, "--timezone", zone, "--json")
        summary = json.loads(again.stdout)
        assert (summary["n_resumed"], summary["n_zone_unknown"]) == (3, 0)
        starts = {row["recording"]: row["start_utc"] for row in rows(out / "recordings.csv")}
        assert starts == {**known, "SM_20260501_213000.wav": "2026-05-01T19:30:00.000Z"}
        assert all(row["onset_utc"].startswith("2026-05-01T") for row in rows(out / "songs.csv"))
        assert "zone" not in again.stderr


def test_a_time_that_the_zone_skips_is_told(bundle: Path, tmp_path: Path) -> None:
    """A recorder that records at 02:30 in the night of the change to summer time does not keep the zone: counted and named."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    samples, _ = soundscape([0], 1)
    for stated in ("20260328_023000", "20260329_023000", "20260701_213000"):
        soundfile.write(archive / f"SM4_{stated}.wav", samples, 24_000)
    told = classify(archive, "--bundle", bundle, "--out", out, "--timezone", "Europe/Berlin", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["n_zone_impossible"] == 1
    assert "go forward: 1; SM4_20260329_023000.wav. " in told.stderr
    right = classify(archive, "--bundle", bundle, "--out", out, "--timezone", "+01:00", "--json")
    assert json.loads(right.stdout)["n_zone_impossible"] == 0
    assert "go forward" not in right.stderr
    starts = [row["start_utc"] for row in rows(out / "recordings.csv")]
    assert starts == ["2026-03-28T01:30:00.000Z", "2026-03-29T01:30:00.000Z", "2026-07-01T20:30:00.000Z"]


def test_tables_of_earlier_runs_are_named(bundle: Path, tmp_path: Path) -> None:
    """Tables of recordings that are not among the results, or in other formats, stay and the run says so."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    for number in range(3):
        soundfile.write(archive / f"{number}.wav", soundscape([number], number)[0], 24_000)
    first = classify(archive, "--bundle", bundle, "--out", out)
    assert "earlier runs" not in first.stderr
    (archive / "1.wav").unlink()
    again = classify(archive, "--bundle", bundle, "--out", out, "--format", "csv,raven,audacity")
    assert "× real time" in first.stdout
    assert "real time" not in again.stdout
    assert "earlier runs that are not of these results: 3; audacity/1.wav.labels.txt, " in again.stderr
    assert (out / "raven" / "1.wav.selections.txt").exists()
    assert {row["recording"] for row in rows(out / "songs.csv")} == {"0.wav", "2.wav"}
    summary = json.loads(classify(archive, "--bundle", bundle, "--out", out, "--json").stdout)
    assert summary["older_tables"] == ["audacity/1.wav.labels.txt", "raven/1.wav.selections.txt"]


def test_one_problem_of_all_recordings_is_one_line(bundle: Path, tmp_path: Path) -> None:
    """A channel that no recording has is said once, and there is no table of nothing."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    for number in range(5):
        soundfile.write(archive / f"{number}.wav", np.zeros(24_000), 24_000)
    ended = classify(archive, "--bundle", bundle, "--out", out, "--channel", 5)
    assert ended.returncode == 3
    assert ended.stdout == "Nothing could be read.\n"
    (line,) = [line for line in ended.stderr.splitlines() if "CHANNEL_MISSING" in line]
    assert line.startswith("failed 5 recordings, 0.wav, 1.wav, 2.wav, …: channel 5 was chosen")
    assert len(rows(out / "failed.csv")) == 5
    silent = classify(archive, "--bundle", bundle, "--out", out)
    assert "0 songs in 0.00 h of 5 recordings.\n" in silent.stdout
    assert "known types" not in silent.stdout


@pytest.mark.parametrize(
    ("bundle_name", "out_name", "reason"),
    [
        ("absent", "out", "BUNDLE_MISSING"),
        ("b", "a_file", "OUTPUT_NOT_WRITABLE"),
        ("b", "/proc/nothing", "OUTPUT_NOT_WRITABLE"),
    ],
)
def test_a_run_that_cannot_be_done_says_why(
    bundle: Path, archive: Path, tmp_path: Path, bundle_name: str, out_name: str, reason: str
) -> None:
    """Without a bundle, or a folder to write to, the command ends with status 1 and one line that names the reason."""
    (tmp_path / "a_file").touch()
    ended = classify(archive / AUDIOMOTH, "--bundle", bundle.with_name(bundle_name), "--out", tmp_path / out_name)
    assert ended.returncode == 1
    assert f"[{reason}]" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_full_disk_stops_the_run(bundle: Path, archive: Path, tmp_path: Path) -> None:
    """When nothing more can be written the command ends with status 1, and leaves no half table."""
    limited = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    arguments = ["classify", str(archive / "sub"), "--bundle", str(bundle), "--out", str(tmp_path / "out"), "--json"]
    ended = subprocess.run(
        [sys.executable, "-c", limited, SONGSTREAM, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ended.returncode == 1, ended.stderr
    assert "[OUTPUT_NOT_WRITABLE]" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list((tmp_path / "out").glob("*.csv"))


def test_wrong_usage(bundle: Path, archive: Path, tmp_path: Path) -> None:
    """An unknown format, none, or a path that does not exist is wrong usage, status 2, and nothing is written."""
    out = tmp_path / "out"
    for formats in ("csv,excel", "", " , "):
        ended = classify(archive, "--bundle", bundle, "--out", out, "--format", formats)
        assert ended.returncode == 2
        assert all(name in ended.stderr for name in ("csv", "parquet", "raven", "audacity"))
    assert classify(tmp_path / "absent", "--bundle", bundle, "--out", out).returncode == 2
    ended = classify(archive, "--bundle", bundle, "--out", out, "--timezone", "Mars/Olympus")
    assert (ended.returncode, "Europe/Berlin" in ended.stderr) == (2, True)
    assert not out.exists()


@pytest.mark.real_data
@pytest.mark.skipif(not NIGHTINGALES.is_dir(), reason="the recordings beside the checkout are absent")
def test_real_nightingales(bundle: Path, tmp_path: Path) -> None:
    """Real recordings of several codecs are all read to their end and give about the songs that people marked."""
    ended = classify(NIGHTINGALES, "--bundle", bundle, "--out", tmp_path, "--json")
    assert ended.returncode == 0, ended.stderr
    marked = [song for song in read_annotations(NIGHTINGALES / "songs.csv") if song.recording.startswith("magma")]
    found = [song for song in read_annotations(tmp_path / "songs.csv") if song.recording.startswith("magma")]
    matched = [m for m in marked if any(f.onset_s < m.offset_s and m.onset_s < f.offset_s for f in found)]
    assert len(matched) >= 0.9 * len(marked)
    assert len(found) <= 1.3 * len(marked)
