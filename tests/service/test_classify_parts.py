"""The parts of a batch run: finding recordings, reading names, keeping results, outliving a dead worker."""

import errno
import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import pytest
import soundfile

from bundles import soundscape
from songcore.errors import ConfigError, InputError
from songcore.recorders import stated_start, utc_start
from songserve.archive.pool import WorkerPool
from songserve.archive.recordings import FoundRecording, find_recordings
from songserve.archive.results import FoundSong, Journal, Problem, RecordingResult, atomic_file
from songserve.archive.worker import Job, Outcome, classify_recording, describe_bundle


def _touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_folders_are_searched_and_hidden_and_other_files_left_out(tmp_path: Path) -> None:
    """A folder gives its recordings in all subfolders by relative name, and no hidden or foreign file."""
    for name in ["b/x.WAV", "a/y.flac", "a/._y.flac", ".trash/z.wav", "a/notes.txt", "c.mp3"]:
        _touch(tmp_path / name)
    assert [recording.name for recording in find_recordings([tmp_path])] == ["a/y.flac", "b/x.WAV", "c.mp3"]


def test_several_paths_share_a_root_and_give_each_file_once(tmp_path: Path) -> None:
    """Names of several paths are relative to what they have in common; a file named twice is one recording."""
    first, second = _touch(tmp_path / "north/x.wav"), _touch(tmp_path / "south/x.wav")
    found = find_recordings([first, second, tmp_path / "north", first.parent / ".." / "south"])
    assert [recording.name for recording in found] == ["north/x.wav", "south/x.wav"]


def test_a_file_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    """A file that is named outright is a recording even without a known ending."""
    assert find_recordings([_touch(tmp_path / "recording.dat")])[0].name == "recording.dat"


def test_a_name_that_is_not_utf8_gets_one_that_is(tmp_path: Path) -> None:
    """A file name in another encoding is listed with a replacement character, so that tables can hold it."""
    try:
        _touch(Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.wav")))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found = find_recordings([tmp_path])
    assert found[0].name == "caf\ufffd.wav"
    assert found[0].path.exists()


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_nothing_to_do_is_an_input_error(tmp_path: Path, name: str) -> None:
    """A path that does not exist, or a folder without recordings, raises InputError."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        find_recordings([tmp_path / name])
    assert caught.value.reason == {"absent": "NOT_FOUND", "empty": "NO_RECORDINGS"}[name]


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("20240501_033000.WAV", datetime(2024, 5, 1, 3, 30, tzinfo=UTC)),
        ("field/north/20240501_033000.wav", datetime(2024, 5, 1, 3, 30, tzinfo=UTC)),
        ("20240501_033000T.WAV", datetime(2024, 5, 1, 3, 30, tzinfo=UTC)),
        ("20240231_033000.WAV", None),
        ("S4A06622_20240501_033000.wav", None),
        ("20240501_033000.mp3", None),
    ],
)
def test_audiomoth_names_state_utc(name: str, time: datetime | None) -> None:
    """AudioMoth's names give the UTC start; other recorders' names, in local time, and impossible dates give none."""
    assert utc_start(stated_start(name), None) == time


def _result(recording: FoundRecording, bundle: str = "b1", channel: int | None = None) -> RecordingResult:
    song = FoundSong(
        onset=10, offset=20, type_id="T0001", kind="song", similarity=0.1 + 0.2, p_value=0.5, novelty="known",
        forced_cut=False, snr_db=12.3, quality="good",
    )  # fmt: skip
    return RecordingResult(
        recording=recording.name, size_bytes=recording.size_bytes, modified_ns=recording.modified_ns, bundle=bundle,
        channel=channel, sample_rate_hz=48_000, bundle_rate_hz=24_000, n_channels=1, n_samples=96_000, songs=(song,),
        start=datetime(2024, 5, 1, 3, 30),  # noqa: DTZ001 - of a recorder that tells no zone
    )  # fmt: skip


def test_a_kept_result_holds_until_anything_changes(tmp_path: Path) -> None:
    """The journal returns a result exactly as it was, and not for another size, time, bundle, channel or recording."""
    recording = FoundRecording("a/x.wav", tmp_path / "x.wav", 1000, 123)
    journal = Journal(tmp_path, bundle="b1", channel=None)
    assert journal.load(recording) is None
    journal.save(recording, _result(recording))
    assert journal.load(recording) == _result(recording)
    assert journal.load(FoundRecording("a/x.wav", recording.path, 1001, 123)) is None
    assert journal.load(FoundRecording("a/x.wav", recording.path, 1000, 124)) is None
    assert journal.load(FoundRecording("a/y.wav", recording.path, 1000, 123)) is None
    assert Journal(tmp_path, bundle="b2", channel=None).load(recording) is None
    assert Journal(tmp_path, bundle="b1", channel=2).load(recording) is None


@pytest.mark.parametrize("damage", [b"", b"{", b'{"recording": "x"}', b"\xff\x00"])
def test_a_damaged_result_counts_as_absent(tmp_path: Path, damage: bytes) -> None:
    """A journal file that is cut short, altered or not JSON is not believed."""
    recording = FoundRecording("x.wav", tmp_path / "x.wav", 1000, 123)
    journal = Journal(tmp_path, bundle="b1", channel=None)
    journal.save(recording, _result(recording))
    journal.path(recording).write_bytes(damage)
    assert journal.load(recording) is None


def _write_half(file: TextIO) -> None:
    file.write("half a ta")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_table_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """When writing breaks off, the file of before stays as it was and no temporary file is left."""
    (tmp_path / "songs.csv").write_text("before")
    with pytest.raises(ConfigError) as caught, atomic_file(tmp_path / "songs.csv") as file:
        _write_half(file)
    assert caught.value.reason == "OUTPUT_NOT_WRITABLE"
    assert [path.name for path in tmp_path.iterdir()] == ["songs.csv"]
    assert (tmp_path / "songs.csv").read_text() == "before"


def test_one_run_at_a_time_writes_to_a_folder(tmp_path: Path) -> None:
    """A second run into a folder that is being written raises ConfigError, and may have it afterwards."""
    first, second = (Journal(tmp_path, bundle="b", channel=None) for _ in range(2))
    with first.locked(), pytest.raises(ConfigError) as caught, second.locked():
        pass
    assert caught.value.reason == "OUTPUT_IN_USE"
    with second.locked():
        pass


def test_metadata_that_cannot_be_read_cost_no_songs(
    bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk fails at a recording's metadata, after the songs were found, these are kept; the name tells the start."""
    samples, truth = soundscape([0, 1], 31)
    path = tmp_path / "20260501_033000.wav"
    soundfile.write(path, samples, 24_000)

    def fail(_: object) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("songserve.archive.worker.read_guano", fail)
    (recording,) = find_recordings([path])
    outcome = classify_recording(Job(bundle_dir, tmp_path / "out", None, "cpu"), recording)
    assert (outcome.n_songs, outcome.problem, outcome.kept) == (len(truth), None, True)
    journal = Journal(
        tmp_path / "out", bundle=describe_bundle(Job(bundle_dir, tmp_path, None, "cpu")).digest, channel=None
    )
    result = journal.load(recording)
    assert result is not None
    assert result.start == datetime(2026, 5, 1, 3, 30, tzinfo=UTC)


def classify_or_die(job: Job, recording: FoundRecording) -> Outcome:
    """Stand in for a worker's task: kill the process on some recordings, as a decoder's crash would."""
    marker = job.out / recording.name
    if "deadly" in recording.name or ("once" in recording.name and not marker.exists()):
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(recording, 1.0, 0, None, kept=True)


def test_a_worker_that_dies_costs_one_recording(tmp_path: Path) -> None:
    """The recording that kills its worker twice is reported; every other one is classified, exactly once."""
    names = ["0.wav", "1.wav", "2-deadly.wav", "3-once.wav", "4.wav", "5.wav", "6.wav"]
    recordings = [FoundRecording(name, tmp_path / name, 1, 1) for name in names]
    job = Job(tmp_path / "bundle", tmp_path, None, "cpu")
    with WorkerPool(job, 2, classify=classify_or_die) as pool:
        outcomes = list(pool.outcomes(recordings))
    assert sorted(outcome.recording.name for outcome in outcomes) == sorted(names)
    failed = {outcome.recording.name: outcome.problem for outcome in outcomes if outcome.problem}
    died = Problem(reason="WORKER_DIED", message="the process that read it alone was killed, twice")
    assert failed == {"2-deadly.wav": died}
