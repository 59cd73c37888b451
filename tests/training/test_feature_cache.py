"""Features on disk that is full or damaged: told or made anew, and what is finished is kept."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from ray.exceptions import OutOfMemoryError

from disks import mounted
from songcore.errors import ConfigError
from songcore.stream import StreamConfig
from songtrain.cluster import ray_session
from songtrain.datasets.cache import load_cached, pack, unpack
from songtrain.datasets.distributed import extract_features
from songtrain.datasets.folder import RecordingFile
from songtrain.datasets.songs import RecordingSongs, SongPlace

FULL_DISK = """
import resource
import sys
from pathlib import Path
from songcore.errors import ConfigError
from songtrain.datasets.cache import store_cached
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
folder = Path(sys.argv[1])
store_cached(folder, "small", bytes(1000))
try:
    store_cached(folder, "large", bytes(100_000))
except ConfigError as error:
    print(error.reason)
"""


@pytest.fixture
def songs() -> RecordingSongs:
    """Return two songs of noise."""
    rng = np.random.default_rng(0)
    frames = rng.random((7, 4)).astype(np.float16)
    return RecordingSongs(
        (SongPlace("a.wav", 1, 2, "x"), SongPlace("a.wav", 5, 9, "y")), np.array([3, 4]), frames, frames[:2], 3.0
    )


def test_any_damage_is_absence_or_no_damage(songs: RecordingSongs, tmp_path: Path) -> None:
    """A file with one byte changed, wherever, or cut short, is read as absent unless every value in it is as it was."""
    content = pack(songs)
    n_absent = 0
    for at in range(0, len(content), 7):
        for bit in (0, 3, 7):
            damaged = bytearray(content)
            damaged[at] ^= 1 << bit
            (tmp_path / "key.npz").write_bytes(damaged)
            found = load_cached(tmp_path, "key")
            n_absent += found is None
            if found is not None:
                again = unpack(found, "a.wav")
                assert (again.places, again.duration_s) == (songs.places, songs.duration_s)
                for name in ("lengths", "frames", "background"):
                    assert np.array_equal(getattr(again, name), getattr(songs, name))
        (tmp_path / "key.npz").write_bytes(content[:at])
        assert load_cached(tmp_path, "key") is None
    assert n_absent > len(content) // 7


def test_file_of_another_version_is_absent(songs: RecordingSongs, tmp_path: Path) -> None:
    """A whole file that lacks an array which this version needs is made anew, not an error."""
    np.savez(tmp_path / "key.npz", lengths=songs.lengths, frames=songs.frames)
    assert load_cached(tmp_path, "key") is None


def test_file_that_does_not_fit_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """Where files may have 50 kB the small one is stored, the large one is WORK_UNWRITABLE, and no part of it stays."""
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["WORK_UNWRITABLE"]
    assert [path.name for path in tmp_path.iterdir()] == ["small.npz"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tasks_that_ray_gives_up_are_told(
    stream: StreamConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where one recording does not fit into the memory: no traceback of Ray's, but what to look after."""

    class Lost:
        def map(self, _: object) -> "Lost":
            return self

        def iter_rows(self) -> Iterator[dict[str, object]]:
            yield {"index": 0, "reason": "NOT_AUDIO", "message": ""}
            raise OutOfMemoryError("killed for memory")  # type: ignore[no-untyped-call]  # Ray has no types here

    monkeypatch.setattr("ray.data.from_items", lambda *_, **__: Lost())
    seen: list[None] = []
    with pytest.raises(ConfigError, match=r"killed for memory.*give the same command again") as caught:
        extract_features(
            [RecordingFile("a.wav", tmp_path, None)], stream, tmp_path, on_recording=lambda: seen.append(None)
        )
    assert caught.value.reason == "WORKERS_LOST"
    assert len(seen) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a disk of 96 kB."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=96k", "songstream-test") as folder:
        yield folder


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_full_disk_stops_features_and_keeps_what_is_finished(
    small_disk: Path, stream: StreamConfig, tmp_path: Path
) -> None:
    """Extraction of twelve recordings ends with WORK_UNWRITABLE; with more room it takes up what was stored."""
    rng = np.random.default_rng(0)
    files = []
    for number in range(12):
        samples = rng.normal(0, 1e-3, 24_000 * 4)
        samples[48_000:72_000] += 0.3 * np.sin(2 * np.pi * 3000 * np.arange(24_000) / 24_000)
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, samples, 24_000)
        files.append(RecordingFile(path.name, path, None))
    with ray_session(store_bytes=128 * 2**20):
        with pytest.raises(ConfigError, match="make room") as caught:
            extract_features(files, stream, small_disk)
        assert caught.value.reason == "WORK_UNWRITABLE"
        stored = list(small_disk.iterdir())
        assert 0 < len(stored) < 12
        assert all(path.suffix == ".npz" for path in stored)
        subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
        again = extract_features(files, stream, small_disk)
    assert again.n_cached >= len(stored)
    assert len(again.songs) == 12
