"""What the laboratory does around its rows: time limits, features made once, one command per folder, tables beside."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import soundfile

from own_modules import importable
from ray_marks import ray_marks
from songcore.errors import ConfigError
from songcore.presets import STREAMS
from songcore.stream import StreamConfig
from songtrain.cluster import ray_session
from songtrain.datasets.songs import SongPlace, SongSet
from songtrain.datasets.sound import SoundSource
from songtrain.lab.chain import Chain
from songtrain.lab.copies import agreement_with_copies, altered, shared_neighbours
from songtrain.lab.keepsakes import keep_songs, read_points, read_songs
from songtrain.lab.ledger import Ledger, held_folder, plan_trial
from songtrain.lab.options import n_clusters_given, with_clusters, with_minutes, with_parameters
from songtrain.lab.results import read_rows
from songtrain.lab.run import LabJob, run_systems
from songtrain.lab.sweep import Sweep, _Plan
from songtrain.lab.systems import System, choose_systems, part
from songtrain.lab.tasks import describe_songs
from songtrain.lab.trial import cluster_points, place_songs

pytestmark = ray_marks(600)

ToySongs = Callable[..., SongSet]

OWN_PARTS = '''
from pathlib import Path
import numpy as np
from sklearn.base import BaseEstimator
from songtrain.lab.features import LogMelImage

class Once(LogMelImage):
    """Images of songs, with a line in `file` for every time that they are made."""
    def __init__(self, file="", n_frames=96):
        super().__init__(n_frames)
        self.file = file

    def fit_transform(self, X, y=None):
        with Path(self.file).open("a") as lines:
            lines.write("made\\n")
        return super().fit_transform(X)

class Echo(BaseEstimator):
    """An autoencoder that gives half of everything back, one epoch of three being done."""
    def __init__(self, n_epochs=3, max_minutes=None):
        self.n_epochs, self.max_minutes = n_epochs, max_minutes

    def fit_transform(self, X):
        self.history_ = [{"loss": np.float32(0.5), "nmi": 0.9, "stage": "warm-up"}]
        return X

    def transform(self, X):
        return X

    def reconstruct(self, X):
        return X / 2
'''


@pytest.fixture(scope="module")
def own_parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put a package of estimators of one's own on the path of this process and of Ray's workers."""
    with importable(tmp_path_factory.mktemp("own"), "own_parts", OWN_PARTS):
        yield


@pytest.fixture(scope="module")
def ray_here(own_parts: None) -> Iterator[None]:  # noqa: ARG001 - must be on the path before workers start
    """Hold one Ray of this machine for the tests of this file."""
    with ray_session(store_bytes=128 * 2**20):
        yield


@pytest.mark.usefixtures("ray_here")
def test_memory_of_what_ran_before_does_not_count(toy_songs: ToySongs, stream: StreamConfig) -> None:
    """Workers keep what they held; the peak of the next task is its own all the same."""
    songs, floor = toy_songs(24), choose_systems(["classical-floor"])[0]

    @ray.remote
    def peak_after(n_bytes: int) -> float:
        np.ones(n_bytes, np.uint8)
        return place_songs(songs, floor, 0, stream).peak_memory_mib

    after_little = ray.get(peak_after.remote(1))
    assert ray.get(peak_after.remote(500 * 2**20)) < after_little + 100


@pytest.mark.usefixtures("ray_here")
def test_features_are_made_once_for_all_seeds_and_systems(
    toy_songs: ToySongs, stream: StreamConfig, tmp_path: Path
) -> None:
    """Two systems that begin with the same features, with two seeds each, give what they give alone, and make them once."""
    features = part("own_parts:Once", file=str(tmp_path / "made"))
    clusterer = part("kmeans", n_clusters=6)
    systems = [
        System(name, "", features, None, part("pca", n_components=n), clusterer) for name, n in (("a", 4), ("b", 8))
    ]
    found = run_systems(toy_songs(48), stream, LabJob(Path("unused"), tmp_path, systems, 2)).rows
    assert (tmp_path / "made").read_text() == "made\n"
    assert [row.error for row in found] == [""] * 4
    alone = cluster_points(place_songs(toy_songs(48), systems[1], 1, stream), systems[1], 1)
    assert found[3].labels == tuple(alone.labels.tolist())


@pytest.mark.usefixtures("ray_here")
def test_networks_tell_of_their_epochs_and_give_songs_back(
    toy_songs: ToySongs, stream: StreamConfig, tmp_path: Path
) -> None:
    """A row says how many epochs were done of how many and what each lost; a few songs and their copies are kept beside."""
    parts = part("log-mel", n_frames=96), part("own_parts:Echo"), part("pca"), part("kmeans", n_clusters=6)
    job = LabJob(Path("unused"), tmp_path, [System("an/echo", "", *parts)], 2, max_minutes=0.5)
    row, other = run_systems(toy_songs(48), stream, job).rows
    assert (row.n_epochs, row.n_epochs_asked) == (1, 3)
    assert row.history == ({"loss": 0.5, "nmi": 0.9},)
    assert json.loads(row.description)["encoder"][1]["max_minutes"] == 0.5
    assert read_rows(tmp_path) == [row, other]
    kept = read_points(tmp_path, "an/echo")
    assert kept is not None
    assert kept.reconstructions is not None
    assert kept.reconstructions.shape == (2, 6, 96, 64)
    assert np.array_equal(kept.reconstructions[1], kept.reconstructions[0] / 2)
    assert len(kept.values) == len(kept.chosen) == 48
    assert read_points(tmp_path, "nothing") is None
    assert {"neighbour_agreement", "stability_halves", "effective_rank", "largest_share"} <= row.scores.keys()
    assert row.scores["n_distinct"] == 48


def test_a_row_by_other_parameters_is_not_the_trials_own(
    toy_songs: ToySongs, stream: StreamConfig, tmp_path: Path
) -> None:
    """A row of the same name and seed is known only where it was made by the same parameters."""
    songs = toy_songs(8)
    old, new = (plan_trial(with_clusters(system_of("mfcc"), k), 0, songs, "digest", stream) for k in (3, 4))
    ledger = Ledger(tmp_path, "digest")
    ledger.add(old.blank)
    assert ledger.knows(old)
    assert not ledger.knows(new)
    assert not ledger.has(new)


def test_sweeps_ask_for_types_as_small_as_the_sound_has(toy_songs: ToySongs) -> None:
    """On syllables a swept density clusterer has the preset's smallest type, as in a run, unless that is what is swept."""
    (floor,) = choose_systems(["classical-floor"])
    syllables = STREAMS["syllable"]
    for setting, share in (({"reducer.n_components": 8}, 0.005), ({"clusterer.min_cluster_size": 4}, None)):
        trial = _Plan(Sweep(floor, [setting], 1), toy_songs(8), syllables, "digest").add(setting, 0)
        assert json.loads(trial.blank.description)["clusterer"][1]["min_share"] == share


def test_one_command_per_folder(tmp_path: Path) -> None:
    """While a command holds a folder another one is refused, by name; afterwards it is let in."""
    with (
        held_folder(tmp_path / "out"),
        pytest.raises(ConfigError, match="another") as raised,
        held_folder(tmp_path / "out"),
    ):
        pass
    assert raised.value.reason == "OUTPUT_IN_USE"
    with held_folder(tmp_path / "out"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as raised, held_folder(tmp_path / "file"):
        pass
    assert raised.value.reason == "OUTPUT_NOT_WRITABLE"


def test_parameters_of_systems_are_changed_by_name() -> None:
    """Clusters and minutes reach the parts that take them and no others; a name that is none is answered with the choices."""
    floor, kmeans = choose_systems(["classical-floor", "modulation-kmeans"])
    assert with_clusters(floor, 7) == with_minutes(floor, 1.0) == floor
    assert n_clusters_given(floor) is None
    assert n_clusters_given(with_clusters(kmeans, 7)) == 7
    changed = with_parameters(kmeans, {"reducer.n_components": 8, "clusterer.n_clusters": 9})
    assert changed.chain == "modulation → pca(n_components=8) → kmeans(n_clusters=9)"
    for wrong, words in (
        ({"reducer.wrong": 1}, "no parameter wrong"),
        ({"encoder.width": 1}, "features, reducer, clusterer"),
        ({"n_clusters": 1}, "PART.PARAMETER"),
    ):
        with pytest.raises(ConfigError, match=words) as raised:
            with_parameters(kmeans, wrong)
        assert raised.value.reason == "PART_UNKNOWN"
    with pytest.raises(ConfigError, match="cannot be imported"):
        with_parameters(System("a", "", part("mfcc"), None, part("none"), part("no.such:Thing")), {"clusterer.a": 1})


@pytest.mark.usefixtures("ray_here")
def test_table_of_songs_has_durations_labels_and_sound(stream: StreamConfig, tmp_path: Path) -> None:
    """Songs are written with what is known of their sound; recordings that are gone leave the rest of the table."""
    t = np.arange(24_000) / 24_000
    soundfile.write(tmp_path / "a.wav", np.concatenate([0.5 * np.sin(2 * np.pi * 3000 * t), np.zeros(24_000)]), 24_000)
    places = (SongPlace("a.wav", 0, 24_000, "tone"), SongPlace("a.wav", 30_000, 42_000, "silence"))
    songs = SongSet(places, np.array([2, 2]), np.zeros((4, 64), np.float16), np.zeros((0, 64), np.float16), 2.0)
    found = describe_songs(places, stream.frontend, SoundSource({"a.wav": tmp_path / "a.wav"}, 24_000))
    assert found
    assert found[0].zero_crossings_hz == pytest.approx(6000, rel=0.01)
    keep_songs(tmp_path, songs, 24_000, found, "digest")
    table = read_songs(tmp_path)
    assert table is not None
    assert table.labels == ("tone", "silence")
    assert table.duration_s.tolist() == [1.0, 0.5]
    assert table.statistics["rms_db"] == pytest.approx([-9.03, -120], abs=0.05)
    assert describe_songs(places, stream.frontend, SoundSource({"a.wav": tmp_path / "gone.wav"}, 24_000)) == []
    assert describe_songs(places, stream.frontend, None) == []


def test_copies_of_songs_share_neighbours_when_points_say_what_is_sung(
    toy_songs: ToySongs, stream: StreamConfig
) -> None:
    """A point shares all neighbours with itself, few with another one; altered songs keep more of them than by chance."""
    points = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    chosen = np.arange(0, 100, 2)
    assert shared_neighbours(points, chosen, points[chosen]) == 1
    assert shared_neighbours(points, chosen, points[chosen[::-1]]) < 0.3
    assert shared_neighbours(points, chosen, np.full((50, 8), np.nan)) == 0
    songs, rng = toy_songs(48), np.random.default_rng(0)
    copies = altered(songs, rng)
    assert np.array_equal(copies.lengths, songs.lengths)
    assert not np.array_equal(copies.frames, songs.frames)
    floor = choose_systems(["classical-floor"])[0]
    chain = Chain(floor, 0, stream)
    share = agreement_with_copies(chain, songs, chain.fit(songs), rng)
    assert share is not None
    assert 0.3 < share <= 1, "five of 47 at random would share 0.1"
    map_only = Chain(System("map", "", part("log-mel"), None, part("tsne"), part("kmeans")), 0, stream)
    assert agreement_with_copies(map_only, songs, points, rng) is None


def system_of(features: str) -> System:
    """Return k-means on these features, by their name."""
    return System(features, "", part(features), None, part("pca"), part("kmeans", n_clusters=4))
