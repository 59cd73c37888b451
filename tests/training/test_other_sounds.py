"""Sets of other sounds: the benchmark reads them as it is asked to, and few or no types have a documented result."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer

from songcore.arrays import FloatArray
from songcore.stream import StreamConfig
from songtrain.clusterers.density import DensityClusterer, smallest_cluster
from songtrain.datasets.folder import scan_folder
from songtrain.datasets.songs import SongSet
from songtrain.evaluation.collapse import CollapseError, check_clusters
from songtrain.lab.parts import build, describe
from songtrain.lab.results import Row
from songtrain.lab.systems import SYSTEMS, read_systems
from songtrain.settings import TrainSettings, change_settings

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))

import clusters as bench


def test_a_set_is_described_on_the_command_line() -> None:
    """Options after commas become the set's own, and what is none is refused."""
    found = bench.parse_set("finch=some/folder,segmenter=syllable,segmentation=annotated,songs=40")
    assert (found.name, found.folder, found.songs) == ("finch", Path("some/folder"), 40)
    assert (found.segmenter, found.segmentation, found.channel) == ("syllable", "annotated", None)
    for wrong in ("folder", "=folder", "a=b,colour=red", "a=b,songs="):
        with pytest.raises(typer.BadParameter):
            bench.parse_set(wrong)


def test_stretches_of_long_files_become_annotated_recordings(tmp_path: Path) -> None:
    """segments.csv becomes songs.csv with ends instead of durations, beside links to the files, wherever they lay."""
    data, into = tmp_path / "data", tmp_path / "made"
    data.mkdir()
    into.mkdir()
    soundfile.write(data / "long.wav", np.zeros(24_000, np.float32), 24_000)
    (data / "segments.csv").write_text(
        "idx,sprite,start_s,dur_s,species\n0,audio/long.wav,0.0,0.06,Wren\n1,audio/long.wav,0.06,0.5,Tern\n"
    )
    (file,) = scan_folder(bench.folder_of_segments(data, into), "annotated").recordings
    assert file.annotations is not None
    assert file.name == "long.wav"
    assert [(a.onset_s, a.offset_s, a.label) for a in file.annotations] == [(0, 0.06, "Wren"), (0.06, 0.56, "Tern")]


def test_the_same_songs_are_drawn_every_time(toy_songs: Callable[..., SongSet]) -> None:
    """A smaller set is a fixed part of the whole, in its order; a set that is small enough is itself."""
    songs = toy_songs(24)
    part = bench.some(songs, 10)
    onsets = [place.onset for place in part.places]
    assert len(part) == 10
    assert onsets == sorted(onsets)
    assert part.places == bench.some(songs, 10).places
    assert bench.some(songs, 24) is songs


def test_scores_are_means_and_failures_are_told(toy_songs: Callable[..., SongSet]) -> None:
    """Means over seeds, the found number of types against the true one, and a failed run instead of its system's scores."""
    songs = toy_songs(24, n_types=4)
    rows = [
        Row(
            *("finds", seed, "", "", 24),
            n_clusters=n,
            seconds=1.0,
            peak_memory_mib=9.0,
            scores={"nmi": nmi, "ari": 0.5, "silhouette": nmi / 2},
            labels=(0, 0, 1, 1),
        )
        for seed, n, nmi in ((0, 4, 0.8), (1, 6, 0.9))
    ]
    rows += [
        Row("fails", 0, "", "", 24, error="no [REASON]"),
        Row("given", 0, "", "", 24, n_clusters_given=4, n_clusters=4),
    ]
    found = bench.summary(rows, songs)
    assert (found["n_songs"], found["n_types"]) == (24, 4)
    assert found["systems"]["finds"]["nmi"] == pytest.approx(0.85)
    assert found["systems"]["finds"]["type_ratio"] == pytest.approx(5 / 4)
    assert found["systems"]["finds"]["without_labels"] == {"silhouette": pytest.approx(0.425), "stability_seeds": 1.0}
    assert found["systems"]["given"]["without_labels"] == {}, "one seed is as stable as can be, and says nothing"
    assert found["systems"]["fails"] == {"error": "no [REASON]"}
    assert "type_ratio" not in found["systems"]["given"]


def _points(sizes: list[int], seed: int = 0) -> FloatArray:
    """Return unit vectors (n, 32): tight clumps of these sizes in random directions."""
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=32) + rng.normal(0, 0.05, (size, 32)) for size in sizes]
    points = np.concatenate(rows)
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), np.float32)


def test_two_types_are_two() -> None:
    """Two clumps, one of them ten times the other, are found as they are."""
    labels = DensityClusterer().fit(_points([200, 20])).labels_
    assert labels.tolist() == [0] * 200 + [1] * 20


def test_one_type_is_refused_by_name() -> None:
    """Where all songs are one type nothing dense stands apart, and training ends with NO_TYPES."""
    core = DensityClusterer().fit(_points([200])).core_labels_
    with pytest.raises(CollapseError) as raised:
        check_clusters(core)
    assert raised.value.reason == "NO_TYPES"


def test_songs_that_are_all_different_have_no_cores_to_speak_of() -> None:
    """Of songs in random directions chance makes a few clumps; the core share, which the report shows, gives them away."""
    random = DensityClusterer().fit(_points([1] * 200)).core_labels_
    typed = DensityClusterer().fit(_points([20] * 10)).core_labels_
    assert (random >= 0).mean() < 0.5
    assert (typed >= 0).mean() > 0.95


def test_many_small_types_are_found() -> None:
    """Of 300 types with eight songs each nearly all are found, and a song alone joins one of them."""
    labels = DensityClusterer(min_cluster_size=5).fit(_points([8] * 300 + [1] * 20)).labels_
    assert 285 <= labels.max() + 1 <= 305


def test_declared_changes_are_ones_that_training_knows(stream: StreamConfig) -> None:
    """Every row of bench/syllables.toml is another recipe than the shipped one, in terms that its encoder takes."""
    file = Path(bench.__file__).with_name("syllables.toml")
    rows = read_systems(file.read_text(encoding="utf-8"), file.name)
    described = {describe(system, stream) for system in rows.values()}
    assert len(described) == len(rows)
    assert describe(SYSTEMS["recipe"], stream) not in described
    for system in rows.values():
        assert system.encoder is not None
        change_settings(TrainSettings(), build("encoder", system.encoder).get_params()["changes"] or {}, system.name)


@pytest.mark.parametrize(("n_songs", "smallest"), [(20, 5), (2_500, 5), (4_000, 8), (5_000, 10), (15_000, 10)])
def test_types_need_not_be_larger_where_there_are_more_songs(n_songs: int, smallest: int) -> None:
    """0.2 % of the songs make a type, but five always suffice for few and ten for many."""
    assert smallest_cluster(n_songs) == smallest
