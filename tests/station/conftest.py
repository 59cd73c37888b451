"""The test bundle, and a recording with the songs that are in it."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile

from bundles import make_test_bundle, soundscape
from songcore.bundle import Bundle, load_bundle

RATE_HZ = 48_000


@dataclass(frozen=True)
class Played:
    """A recording, and what a bundle hears in it: (onset_s, offset_s, type id, novel) of every song."""

    path: Path
    duration_s: float
    songs: list[tuple[float, float, str, bool]]


@pytest.fixture(scope="session")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the test bundle."""
    path = tmp_path_factory.mktemp("bundles") / "test"
    make_test_bundle(path)
    return path


@pytest.fixture(scope="session")
def bundle(bundle_dir: Path) -> Bundle:
    """Return the test bundle, loaded."""
    return load_bundle(bundle_dir, device="cpu")


@pytest.fixture(scope="session")
def recording(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Return ten songs, the novel type among them, named as AudioMoth does."""
    path = tmp_path_factory.mktemp("recordings") / "20240501_033000.WAV"
    samples, _ = soundscape([0, 1, 2, 5, 3, 4, 0, 5, 1, 2], 11, rate_hz=RATE_HZ)
    soundfile.write(path, samples, RATE_HZ, subtype="PCM_16")
    samples, _ = soundfile.read(path, dtype="float32")
    stream = bundle.new_stream(RATE_HZ)
    songs = stream.push(samples) + stream.finish()
    rate = bundle.manifest.frontend.sample_rate_hz
    named = bundle.classify(songs)
    heard = [(s.onset / rate, s.offset / rate, a.type_id, a.is_novel) for s, a in zip(songs, named, strict=True)]
    return Played(path, len(samples) / RATE_HZ, heard)
