"""The laboratory from end to end on a real Ray: rows kept, failures as rows, one page, scores that mean what they say."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score
from typer.testing import CliRunner

from ray_marks import ray_marks
from songcore.errors import ConfigError, InputError
from songcore.stream import StreamConfig
from songtrain.cluster import ray_session
from songtrain.commands.lab import lab
from songtrain.datasets.songs import SongSet
from songtrain.lab.options import with_parameters
from songtrain.lab.report import write_lab_report
from songtrain.lab.results import Row, read_rows
from songtrain.lab.run import LabJob, run_systems
from songtrain.lab.scoring import score_labels
from songtrain.lab.systems import SYSTEMS, System, choose_systems, part, read_systems
from songtrain.lab.trial import cluster_points, place_songs
from songtrain.report.song_pictures import STATISTIC_WORDS
from songtrain.synth.config import season_config
from songtrain.synth.write import simulate

pytestmark = [*ray_marks(600), pytest.mark.usefixtures("no_umap")]

ToySongs = Callable[..., SongSet]


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """Hold one Ray of this machine for the tests of this file."""
    with ray_session(store_bytes=128 * 2**20):
        yield


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a simulated season of 36 songs of four types."""
    folder = tmp_path_factory.mktemp("season") / "songs"
    config = season_config("demo", n_songs=36, n_types=4, zipf_exponent=0.0, n_singers=1, snr_db=(20.0, 30.0))
    simulate(config, folder)
    return folder


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the season's features are kept from one test to the next."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def out(features: Path, tmp_path: Path) -> Path:
    """Return the folder of a run."""
    folder = tmp_path / "lab"
    folder.mkdir()
    (folder / "features").symlink_to(features)
    return folder


def result(arguments: list[str]) -> dict[str, Any]:
    """Return the last line of ``songstream lab`` with these arguments."""
    done = CliRunner().invoke(lab, arguments)
    assert done.exit_code == 0, done.exception
    return dict(json.loads(done.stdout.splitlines()[-1]))


def job(out: Path, *names: str, n_seeds: int = 2, n_clusters: int | None = 6) -> LabJob:
    """Return a job for these systems."""
    return LabJob(Path("unused"), out, choose_systems(names), n_seeds, n_clusters)


@pytest.mark.usefixtures("ray_here")
def test_rows_are_kept_failures_tried_again_and_changes_seen(
    toy_songs: ToySongs, stream: StreamConfig, tmp_path: Path
) -> None:
    """A finished row stays, a failed one is a row with its reason and runs again, another K is another row."""
    songs, seen = toy_songs(48), []
    names = ("modulation-kmeans", "classical-floor")

    def note(row: Row, n_done: int, n_all: int) -> None:
        assert n_done <= n_all
        seen.append(row.key)

    first = run_systems(songs, stream, job(tmp_path, *names, n_clusters=49), note)
    assert first.n_kept == 0
    assert len(seen) == 4
    failed = [row for row in first.rows if row.error]
    assert {row.system for row in failed} == {"modulation-kmeans"}
    assert all("49 clusters are asked of 48 songs" in row.error for row in failed)
    assert all(row.error.endswith("[TOO_FEW_SONGS]") for row in failed)
    assert read_rows(tmp_path) == sorted(first.rows, key=lambda row: row.key)
    seen.clear()
    second = run_systems(songs, stream, job(tmp_path, *names), note)
    assert second.n_kept == 2
    assert sorted(seen) == [("modulation-kmeans", "", 0), ("modulation-kmeans", "", 1)]
    assert all(row.scores["ari"] > 0.5 and row.n_clusters == 6 for row in second.rows if "kmeans" in row.system)
    assert all(row.seconds and row.peak_memory_mib for row in second.rows)
    assert {score["name"] for score in second.rows[0].types} == {f"type{k}" for k in range(6)}
    assert run_systems(songs, stream, job(tmp_path, *names)).n_kept == 4
    with pytest.raises(ConfigError, match="other songs"):
        run_systems(toy_songs(48, seed=1), stream, job(tmp_path, *names))


@pytest.mark.usefixtures("ray_here")
def test_a_failure_before_the_clusterer_is_a_row(toy_songs: ToySongs, stream: StreamConfig, tmp_path: Path) -> None:
    """Songs that are all equal fail in the shared first task, and every system that waits for it says why."""
    songs = toy_songs(8)
    same = songs.subset(np.zeros(8, np.int64))
    rows = run_systems(same, stream, job(tmp_path, "modulation-kmeans", "classical-floor", n_seeds=1)).rows
    assert all(row.error.endswith("[SONGS_EQUAL]") for row in rows)
    page = write_lab_report(tmp_path, datetime(2026, 5, 1, tzinfo=UTC)).read_text()
    assert page.count("all songs have the same features") == 2


@pytest.mark.usefixtures("ray_here")
def test_command_runs_resumes_and_reports(season: Path, out: Path) -> None:
    """``songstream lab run`` on a simulated season prints scores, keeps all runs the second time, and writes one page."""
    command = ["run", "--data", str(season), "--out", str(out), "--seeds", "2", "--clusters", "4", "--json"]
    command += ["--systems", "classical-floor,basenet-kmeans,chroma-dbscan"]

    done = CliRunner().invoke(lab, command)
    assert done.exit_code == 0, done.exception
    first = json.loads(done.stdout.splitlines()[-1])
    assert (first["n_runs"], first["n_kept"], first["n_failed"], first["n_songs"]) == (6, 0, 0, 36)
    assert first["scores"]["classical-floor"]["ari"] > 0.5
    assert re.search(
        r"^6/6 [a-z-]+, seed \d: \d+ clusters, NMI \d\.\d+, ARI -?\d\.\d+, \d+ s$", done.stderr, re.MULTILINE
    )
    again = result(command)
    assert (again["n_kept"], again["scores"]) == (6, first["scores"])
    (out / "report.html").unlink()
    assert result(["report", "--out", str(out), "--json"]) == {"report": str(out / "report.html")}
    page = (out / "report.html").read_text()
    assert "classical-floor" in page
    assert page.count("<svg") >= 2
    assert not re.search(r'(src|href)="(?!data:|#)', page), "the page must need nothing beside it"


@pytest.mark.usefixtures("ray_here")
def test_command_sweeps_and_says_what_every_score_prefers(season: Path, out: Path) -> None:
    """``songstream lab sweep`` prints every setting and each score's best one, as JSON and, from kept rows, in words."""
    command = ["sweep", "--data", str(season), "--out", str(out), "--system", "modulation-kmeans"]
    command += ["--grid", "clusters=2,4"]
    facts = result([*command, "--json"])
    assert [facts[name] for name in ("n_runs", "n_kept", "n_failed", "n_types", "n_codes")] == [2, 0, 0, 4, 1]
    assert [setting["parameters"] for setting in facts["settings"]] == [{"clusters": 2}, {"clusters": 4}]
    assert [setting["scores"]["n_clusters"] for setting in facts["settings"]] == [2, 4]
    assert facts["best"]["ari"] == {"clusters": 4}
    assert facts["best"].keys() >= {"nmi", "silhouette", "calinski_harabasz"}
    assert facts["report"] == str(out / "report.html")
    assert "Sweep of modulation-kmeans over clusters" in (out / "report.html").read_text()
    again = CliRunner().invoke(lab, command)
    assert again.exit_code == 0, again.exception
    words = again.stdout.splitlines()
    assert re.fullmatch(r"clusters=2: 2 clusters, ari \d\.\d{3}, nmi \d\.\d{3}, silhouette \d\.\d{3}", words[0])
    assert words[2] == "ari (labels) prefers clusters=4"
    assert f"silhouette (no labels) prefers clusters={facts['best']['silhouette']['clusters']}" in words
    assert words[-2:] == ["annotated: 4 types", f"2 runs, 2 of them from before, 0 failed: {out / 'report.html'}"]


def test_the_page_has_every_picture_and_statistic(season: Path, out: Path, tmp_path: Path) -> None:
    """Of systems with networks, an autoencoder and random weights the page shows all that it has to show of anything."""
    few_epochs = tmp_path / "few-epochs.toml"
    # Epochs and not minutes: labels of two epochs are compared, however slow the machine.
    few_epochs.write_text(
        "[short-nscnet]\nfeatures = 'log-mel'\nclusterer = {part = 'kmeans', n_clusters = 4}\n"
        "encoder = {part = 'nscnet', encoder = 'light', head = 'arcface', n_clusters = 4, n_epochs = 2}\n"
        "[short-autoencoder]\nfeatures = 'sound-chroma'\nclusterer = {part = 'kmeans', n_clusters = 4}\n"
        "encoder = {part = 'autoencoder', architecture = 'chroma', n_latent = 50, scaling = 'none', n_epochs = 2}\n"
    )
    command = ["run", "--data", str(season), "--out", str(out), "--seeds", "2", "--clusters", "4", "--json"]
    command += [
        "--file",
        str(few_epochs),
        "--systems",
        "modulation-kmeans,short-nscnet,short-autoencoder,untrained-kmeans",
    ]
    done = CliRunner().invoke(lab, command)
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout.splitlines()[-1])["n_failed"] == 0
    shown = CliRunner().invoke(lab, ["report", "--out", str(out), "--system", "modulation-kmeans"])
    assert shown.exit_code == 0, shown.exception
    page = (out / "report.html").read_text()
    sections = {
        re.sub("<[^>]+>", " ", part.partition("</h2>")[0]): part.partition("</h2>")[2]
        for part in page.split("<h2>")[1:]
    }
    pictures = {
        "Leaderboard": 1,
        "Would a score without labels have chosen well?": 1,
        "Songs": 2,
        "modulation-kmeans, seed 0: types": 1,
        "modulation-kmeans: maps": 1,
        "modulation-kmeans: distances of pairs": 2,
        "modulation-kmeans: k-means over the number of clusters": 1,
        "modulation-kmeans: sizes of clusters": 1,
        "How networks learned": 1,
        "Originals beside reconstructions": 1,
    }
    assert {name: sections[name].count("<svg") + sections[name].count("<img") for name in pictures} == pictures
    words = {
        "Leaderboard": ["weights: random", "MiB", "geometric"],
        "Without labels": ["silhouette", "Calinski-H.", "inertia", "over halves", "neighbours kept"],
        "Songs": list(STATISTIC_WORDS.values()),
        "modulation-kmeans, seed 0: types": ["precision", "recall", "T001"],
        "modulation-kmeans: distances of pairs": ["all pairs", "overlap", "skewness of all", "excess kurtosis of all"],
        "modulation-kmeans: sizes of clusters": [
            *("exponent", "Kolmogorov-Smirnov on ranks", "chi-squared on counts", "two-sample test on probabilities"),
            *("p = 0.30", "expected"),
        ],
        "How networks learned": ["NMI with the epoch before", "short-nscnet", "short-autoencoder"],
    }
    missing = {(name, word) for name, found in words.items() for word in found if word not in sections[name]}
    assert not missing
    assert sections["Leaderboard"].count("weights: random") == 1


def test_list_and_unknown_names() -> None:
    """``lab list`` prints every system; a name that is none is answered with the choices."""
    listed = CliRunner().invoke(lab, ["list", "--json"])
    assert [line["name"] for line in json.loads(listed.stdout)] == [s.name for s in choose_systems([])]
    assert "classical-floor" in CliRunner().invoke(lab, ["list"]).stdout
    wrong = CliRunner().invoke(lab, ["run", "--data", "x", "--out", "y", "--systems", "nothing"])
    assert isinstance(wrong.exception, ConfigError)
    assert "classical-floor" in str(wrong.exception)


def test_systems_of_ones_own_are_declared_in_a_file(tmp_path: Path) -> None:
    """A file's systems join those that ship; the shipped file is such a file; what is wrong in one is named."""
    text = CliRunner().invoke(lab, ["list", "--toml"]).stdout
    assert read_systems(text, "all") == SYSTEMS
    file = tmp_path / "own.toml"
    file.write_text('[mine]\nfeatures = "mfcc"\nclusterer = { part = "kmeans", n_clusters = 3 }\n')
    (mine,) = choose_systems([], file)
    assert (mine.chain, mine.reducer) == ("mfcc → none → kmeans(n_clusters=3)", part("none"))
    assert [s.name for s in choose_systems(["recipe", "mine"], file)] == ["recipe", "mine"]
    for broken, words in (
        ("[a]\nfeatures = 'mfcc'", "clusterer is missing"),
        ("[a]\nclusterer = 'kmeans'\nfeature = 'mfcc'", r"feature is no setting; did you mean features\?"),
        ("[a]\nclusterer = 'kmeans'", "neither features nor an encoder"),
        ("[a]\nfeatures = 'mfcc'\nclusterer = {n = 1}", "does not say which part"),
        ("[a", "not TOML"),
    ):
        file.write_text(broken)
        with pytest.raises(ConfigError, match=words) as raised:
            choose_systems([], file)
        assert raised.value.reason == "SYSTEM_INVALID"
    with pytest.raises(ConfigError, match="cannot read"):
        choose_systems([], tmp_path / "none.toml")


def test_one_song_and_broken_features_are_told(toy_songs: ToySongs, stream: StreamConfig) -> None:
    """One song is nothing to tell apart, and NaN is named before any estimator sees it."""
    floor = choose_systems(["classical-floor"])[0]
    with pytest.raises(InputError) as raised:
        place_songs(toy_songs(1), floor, 0, stream)
    assert raised.value.reason == "SONGS_EQUAL"
    songs = toy_songs(8)
    broken = replace(songs, frames=np.full_like(songs.frames, np.nan))
    with pytest.raises(InputError) as raised:
        place_songs(broken, floor, 0, stream)
    assert raised.value.reason == "NOT_FINITE"


def test_a_part_of_every_kind_can_be_exchanged(toy_songs: ToySongs, stream: StreamConfig) -> None:
    """Systems declared on the spot, with any features, reducer and clusterer, find the toy types better than chance."""
    songs = toy_songs(48)
    for features, reducer, clusterer in (("mfcc", "l2", "agglomerative"), ("log-mel", "none", "kmeans")):
        chain = part(features), None, part(reducer), part(clusterer, n_clusters=6)
        system = System("own", "", *chain)
        found = cluster_points(place_songs(songs, system, 0, stream), system, 0)
        assert found.scores["ari"] > 0.5
        assert found.scores["nmi"] > found.scores["random_nmi"]


def test_scores_in_both_norms_and_songs_in_no_cluster() -> None:
    """Geometric and arithmetic NMI are scikit-learn's, and leaving songs out is scored as one cluster more."""
    truth = np.repeat(np.arange(4), 10)
    found = np.where(truth < 2, truth, -1)
    points = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    scores = score_labels(points, found, truth, seed=0)
    for name, method in (("nmi", "arithmetic"), ("nmi_geometric", "geometric")):
        assert scores[name] == pytest.approx(normalized_mutual_info_score(truth, found, average_method=method))
    assert scores["nmi"] != pytest.approx(scores["nmi_geometric"])
    assert scores["accuracy"] == pytest.approx(0.5)


def test_networks_that_cluster_tell_of_their_epochs(toy_songs: ToySongs, stream: StreamConfig) -> None:
    """A row of TEMI says how many epochs were done of how many, and what became of every type; so it does when cut short."""
    temi = part("temi", n_clusters=6, n_epochs=3, n_heads=2)
    system = System("temi", "", part("modulation"), None, part("pca"), temi)
    points = place_songs(toy_songs(48), system, 0, stream)
    found = cluster_points(points, system, 0)
    assert (len(found.history), found.n_epochs_asked) == (3, 3)
    assert [score.name for score in found.types] == [f"type{k}" for k in range(6)]
    late = with_parameters(system, {"clusterer.max_minutes": 0.0})
    cut = cluster_points(replace(points, history=({"loss": 1.0},), n_epochs_asked=5), late, 0)
    assert (len(cut.history), cut.n_epochs_asked) == (1, 8)
