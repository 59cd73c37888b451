"""Songs with known types, small enough to train on in seconds, and a store with a season of them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bundles import make_test_bundle
from reclusterings import NEW, sung
from seasons import Season, fill_store
from songcore.arrays import FloatArray
from songcore.bundle import load_bundle
from songcore.features import FeatureConfig
from songcore.presets import PRESETS
from songcore.stream import StreamConfig
from songtrain.datasets.songs import SongPlace, SongSet
from songtrain.settings import TrainSettings

ToySongs = Callable[..., SongSet]


def make_songs(n_songs: int = 96, n_types: int = 6, seed: int = 0) -> SongSet:
    """Return songs that are a few tones in a type's own order, in light noise; two lengths, twelve recordings."""
    rng = np.random.default_rng(seed)
    patterns = [rng.integers(4, 60, size=8) for _ in range(n_types)]
    frames, places, lengths = [], [], []
    for index in range(n_songs):
        kind = index % n_types
        length = 64 if kind % 2 else 96
        song = rng.exponential(0.05, (length, 64))
        for step, band in enumerate(patterns[kind]):
            begin = 4 + step * 6 + rng.integers(0, 3)
            song[begin : begin + 5, band - 1 : band + 2] += 2.5 + rng.normal(0, 0.2)
        song[-8:] = 0
        frames.append(np.clip(song, 0, 4.5))
        lengths.append(length)
        places.append(SongPlace(f"r{index // 8:02d}.wav", index * 48_000, index * 48_000 + length * 384, f"type{kind}"))
    background = rng.exponential(0.1, (256, 64)).astype(np.float16)
    return SongSet(
        tuple(places),
        np.asarray(lengths, np.int64),
        np.concatenate(frames).astype(np.float16),
        background,
        n_songs * 2.0,
    )


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Keep torch on one thread: on a busy machine threads that wait for one another take ten times as long."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy_songs() -> ToySongs:
    """Return the maker of toy songs."""
    return make_songs


@pytest.fixture
def stream() -> StreamConfig:
    """Return the song preset's parameters."""
    return StreamConfig(*PRESETS["song"], FeatureConfig())


@pytest.fixture
def tiny() -> TrainSettings:
    """Return parameters for a network that trains in a second."""
    return TrainSettings.model_validate(
        {
            "encoder": {"width": 4, "n_features": 32, "dimension": 16},
            "warmup": {"n_epochs": 2, "neighbours_from_epoch": 1},
            "rounds": {"n_rounds": 1, "n_epochs": 1},
            "run": {"batch_size": 32, "precision": "float32", "checkpoint_every_s": 0},
        }
    )


@pytest.fixture
def no_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the map by UMAP out of reports: it compiles itself for ten seconds, and the tests of pictures draw it."""
    monkeypatch.setattr("songtrain.report.cluster_pictures.find_spec", lambda _: None)


@pytest.fixture(scope="session")
def known_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle that knows all types but one."""
    path = tmp_path_factory.mktemp("bundle") / "bundle"
    make_test_bundle(path)
    return path


@pytest.fixture(scope="session")
def season_songs() -> tuple[list[FloatArray], list[int]]:
    """Return features and true types of a season: five known types, and one that is new."""
    numbers = [*range(NEW)] * 6 + [NEW] * 20
    return sung(numbers, 7), numbers


@pytest.fixture(scope="session")
def filled(
    tmp_path_factory: pytest.TempPathFactory, known_bundle: Path, season_songs: tuple[list[FloatArray], list[int]]
) -> Season:
    """Return a store with the season."""
    return fill_store(tmp_path_factory.mktemp("filled") / "data", load_bundle(known_bundle), *season_songs)


@pytest.fixture
def season(filled: Season, tmp_path: Path) -> Season:
    """Return a copy of the store."""
    shutil.copytree(filled.folder, tmp_path / "data")
    return replace(filled, folder=tmp_path / "data")
