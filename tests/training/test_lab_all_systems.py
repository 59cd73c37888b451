"""Every system that ships, once, on a dozen songs with their sound: too few to learn from, enough to break on."""

import pytest

from songcore.presets import STREAMS
from songtrain.datasets.extract import extract_songs
from songtrain.datasets.folder import scan_folder
from songtrain.datasets.songs import SongSet, join_recordings
from songtrain.datasets.sound import SoundSource, sound_source
from songtrain.lab.options import n_clusters_given, with_clusters, with_minutes, with_parameters
from songtrain.lab.parts import build, parts_of
from songtrain.lab.systems import SYSTEMS
from songtrain.lab.trial import Points, cluster_points, place_songs
from songtrain.synth.config import season_config
from songtrain.synth.write import simulate

STREAM = STREAMS["song"]
N_SONGS, N_TYPES = 12, 4
HURRIED = {"encoder.changes.warmup.n_epochs": 1, "encoder.changes.rounds.n_rounds": 0}


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> tuple[SongSet, SoundSource]:
    """Return a dozen simulated songs, and where their sound is."""
    folder = tmp_path_factory.mktemp("season") / "songs"
    simulate(
        season_config("demo", n_songs=N_SONGS, n_types=N_TYPES, zipf_exponent=0.0, n_singers=1, snr_db=(20.0, 30.0)),
        folder,
    )
    files = scan_folder(folder).recordings
    found = [extract_songs(file.path, file.name, file.annotations, STREAM) for file in files]
    return join_recordings(found, STREAM.frontend.n_mels), sound_source(files, STREAM.frontend.sample_rate_hz)


@pytest.fixture(scope="module")
def placed() -> dict[str, Points]:
    """Return where systems put their points for those that differ in the clusterer alone."""
    return {}


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_runs(name: str, heard: tuple[SongSet, SoundSource], placed: dict[str, Points]) -> None:
    """Given next to no time, every song has a label, and the number of clusters is the one asked for where one is."""
    songs, sound = heard
    system = with_minutes(with_clusters(SYSTEMS[name], N_TYPES), 0.001)
    if system.encoder is not None and system.encoder.name == "self-labelled":
        # The recipe takes its own time, and finds no dense cluster among so few songs.
        system = with_parameters(system, HURRIED)
    before = repr((system.features, system.encoder, system.reducer))
    if before not in placed:
        placed[before] = place_songs(songs, system, 0, STREAM, sound)
    found = cluster_points(placed[before], system, 0)
    assert len(found.labels) == len(songs) == N_SONGS
    assert found.labels.max() < (n_clusters_given(system) or N_SONGS)
    assert found.scores.keys() >= {"ari", "largest_share"}


def test_systems_have_the_values_of_their_sources() -> None:
    """VaDE's code is VAENet's, MFCC clips last 5 s, K is one that was tried; nothing follows PCA where nothing did there."""
    built = {
        name: {k: build(k, p).get_params() for k, p in parts_of(system).items()} for name, system in SYSTEMS.items()
    }
    lengths = {
        name: parts["encoder"]["n_latent"] for name, parts in built.items() if name.startswith(("vade", "vaenet"))
    }
    assert set(lengths.values()) == {64}
    assert built["mfcc-ae-kmeans"]["features"]["seconds"] == 5.0
    asked = {name: n_clusters_given(SYSTEMS[name]) for name in ("chroma-kmeans", "chroma-ae-kmeans", "mfcc-ae-kmeans")}
    assert set(asked.values()) == {20}
    grid = [name for name in built if name.startswith(("byol-a-pca", "wav2vec2", "ast", "chroma-kmeans"))]
    assert len(grid) == 7
    assert not any(built[name]["reducer"]["unit"] for name in grid)
