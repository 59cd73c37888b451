"""Rows of results: what the table and the page make of those that are there, older, stale or collapsed ones among them."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from scipy.spatial.distance import pdist
from sklearn.metrics import silhouette_score

from ray_marks import ray_marks
from songcore.arrays import FloatArray, IntArray
from songcore.errors import ConfigError, InputError
from songcore.stream import StreamConfig
from songtrain.commands.lab_run import warn_of_codes
from songtrain.datasets.songs import SongSet
from songtrain.evaluation.collapse import CollapseError
from songtrain.evaluation.scores import diagnostics
from songtrain.lab.keepsakes import KeptPoints, keep_points, keep_songs
from songtrain.lab.leaderboard import is_collapsed, leaderboard
from songtrain.lab.ledger import Ledger, Trial, code_digest, plan_trial
from songtrain.lab.options import n_clusters_given, with_clusters, with_parameters
from songtrain.lab.parts import chain_of, describe
from songtrain.lab.report import write_lab_report
from songtrain.lab.results import OF_DISTANCES, Row, newest, read_rows, write_rows
from songtrain.lab.scoring import agreement_with_labels, stability
from songtrain.lab.sections import networks, reconstructions, system_section
from songtrain.lab.systems import SYSTEMS, System, part
from songtrain.lab.tasks import failed
from songtrain.lab.trial import Points, cluster_points, place_songs
from songtrain.report.cluster_pictures import maps

pytestmark = ray_marks(600)

ToySongs = Callable[..., SongSet]


def made_row(system: str, seed: int, labels: tuple[int, ...] = (), **scores: float) -> Row:
    """Return a row with these scores."""
    return Row(system, seed, "", "songs", len(labels), n_clusters=2, scores=scores, labels=labels)


def test_stability_and_rank_correlation_of_known_rows() -> None:
    """Seeds that agree have stability 1, a silhouette in the reverse order of ARI has -1, a constant score is left out."""
    rows = [
        made_row("a", 0, (0, 0, 1, 1), ari=0.9, nmi=0.9, silhouette=0.1, calinski_harabasz=5.0),
        made_row("a", 1, (1, 1, 0, 0), ari=0.8, nmi=0.7, silhouette=0.2, calinski_harabasz=5.0),
        made_row("b", 0, (0, 1, 0, 1), ari=0.3, nmi=0.8, silhouette=0.5, calinski_harabasz=5.0),
        replace(made_row("b", 1), error="broken [X]"),
    ]
    assert stability(rows) == {("a", ""): 1.0}
    (only,) = agreement_with_labels(rows)
    told = [replace(row, history=({"nmi": 0.3}, {"nmi": row.scores.get("nmi", 0.0)}, {"loss": 1.0})) for row in rows]
    (last,) = [agreement for agreement in agreement_with_labels(told) if agreement.score == "epoch_nmi"]
    assert last.rho_nmi == pytest.approx(1)
    assert last.n_runs == 3
    assert (only.score, only.n_runs) == ("silhouette", 3)
    assert only.rho == pytest.approx(-1)
    assert only.rho_nmi == pytest.approx(-0.5)
    lines = leaderboard(rows)
    assert [line.name for line in lines] == ["a", "b"]
    assert str(lines[0].scores["ari"]) == "0.850 ± 0.071"
    assert (lines[1].n_worked, lines[1].n_runs, lines[1].stability) == (1, 2, "–")


def test_an_accuracy_that_counted_songs_in_no_cluster_is_dropped(tmp_path: Path) -> None:
    """Of rows that name no code: with songs left out their accuracy meant something else; other rows keep theirs."""
    rows = [
        made_row("old", 0, (0, 0, -1, -1), accuracy=1.0, ari=0.5),
        made_row("old", 1, (0, 0, 1, 1), accuracy=1.0, ari=1.0),
        replace(made_row("new", 0, (0, 0, -1, -1), accuracy=0.5, ari=0.5), code="abc"),
    ]
    write_rows(tmp_path, rows)
    found = {(row.system, row.seed): row.scores.get("accuracy") for row in read_rows(tmp_path)}
    assert found == {("old", 0): None, ("old", 1): 1.0, ("new", 0): 0.5}


def test_seeds_left_by_another_command_are_not_averaged_in(stream: StreamConfig, tmp_path: Path) -> None:
    """After five seeds and then three with another K the page has three runs, of the parts that these three were made with."""
    kmeans = SYSTEMS["modulation-kmeans"]
    old, new = (describe(with_clusters(kmeans, k), stream) for k in (9, 6))
    rows = [
        replace(
            made_row(kmeans.name, seed, (0, 0, 1, 1), ari=0.1 if seed > 2 else 0.9, nmi=0.5), description=description
        )
        for seed, description in enumerate((new, new, new, old, old))
    ]
    assert newest(rows) == rows[:3]
    swept = [replace(row, parameters={"features.n_rates": 64}) for row in rows[3:]]
    assert {row.key for row in newest(swept + rows[:3])} == {row.key for row in swept + rows[:3]}
    write_rows(tmp_path, rows)
    page = write_lab_report(tmp_path, datetime(2026, 5, 1, tzinfo=UTC)).read_text()
    assert "<td>3/3</td>" in page
    assert "0.900" in page
    assert "modulation → pca(n_components=64) → kmeans(n_clusters=6)" in page
    assert chain_of("") == "–"


def test_an_encoder_that_gives_all_songs_the_same_is_blamed_itself(
    toy_songs: ToySongs, stream: StreamConfig, tmp_path: Path
) -> None:
    """Songs that differ before the encoder and not behind it are one cluster, scored as one and marked as a collapse."""
    songs = toy_songs(8)
    for reducer, clusterer in (
        ("pca", part("kmeans", n_clusters=2)),
        ("tsne", part("hdbscan")),
        ("none", part("argmax")),
    ):
        same = part("sklearn.preprocessing:FunctionTransformer", func=np.zeros_like)
        system = System("same", "", part("log-mel"), same, part(reducer), clusterer)
        trial = plan_trial(system, 0, songs, "songs", stream)
        points = place_songs(songs, system, 0, stream)
        found = cluster_points(points, system, 0)
        assert not found.labels.any()
        assert (found.scores["ari"], found.scores["largest_share"]) == (0, 1)
        row = replace(trial.blank, scores=found.scores, labels=tuple(found.labels.tolist()), n_clusters=1)
        assert is_collapsed(row)
    write_rows(tmp_path, [row])
    keep_points(tmp_path, "same", points)
    assert '<b class="bad">collapsed</b>' in write_lab_report(tmp_path, datetime(2026, 5, 1, tzinfo=UTC)).read_text()
    broken = part("sklearn.preprocessing:FunctionTransformer", func=partial(np.full_like, fill_value=np.nan))
    with pytest.raises(CollapseError, match="NaN") as raised:
        place_songs(songs, replace(system, encoder=broken), 0, stream)
    assert is_collapsed(failed(row, raised.value))


@pytest.mark.parametrize(
    ("name", "changes", "limit"),
    [
        ("byol-a-tsne-dbscan", {}, 1.5),
        ("modulation-kmeans", {"reducer.n_components": 2}, 1.5),
        ("vade", {"clusters": 3}, 1.5),
        ("vade", {"clusters": 2}, 1.0),
        ("vade", {"clusters": 4}, 2.0),
        ("modulation-kmeans", {}, 2.0),
        ("mel-ae-kmeans", {}, 2.0),
    ],
)
def test_points_of_two_dimensions_are_no_collapse(
    name: str, changes: dict[str, int], limit: float, stream: StreamConfig
) -> None:
    """An effective rank of 2 is more than a map or shares of three clusters can have; points on a line are one anywhere."""
    system = with_parameters(SYSTEMS[name], changes)
    row = Row(name, 0, describe(system, stream), "songs", 30, n_clusters_given=n_clusters_given(system))
    assert not is_collapsed(replace(row, scores={"effective_rank": max(1.0, limit)}))
    assert is_collapsed(replace(row, scores={"effective_rank": limit - 0.01}))


def test_shares_of_clusters_have_no_scores_of_distances(tmp_path: Path) -> None:
    """Saturated shares would have a perfect silhouette and few distinct points; older tables lose such scores when read."""
    argmax = System("shares", "", part("log-mel"), None, part("none"), part("argmax"))
    values = np.eye(3, dtype=np.float32)[np.arange(30) % 3]
    found = cluster_points(Points(values, ("a", "b") * 15, 1.0, 1.0), argmax, 0)
    assert not found.scores.keys() & set(OF_DISTANCES)
    assert {"ari", "effective_rank", "largest_share"} <= found.scores.keys()
    told = json.dumps({"clusterer": ["argmax", {}]})
    older = replace(made_row("shares", 0, (0, 1), ari=0.5, silhouette=1.0, n_distinct=2.0), description=told)
    assert not is_collapsed(replace(older, n_songs=30, scores=found.scores))
    write_rows(tmp_path, [older])
    assert read_rows(tmp_path)[0].scores == {"ari": 0.5}


def test_table_of_results_comes_back_whole(tmp_path: Path) -> None:
    """Rows come back as they were written; what is no table of ours is named, as is a folder that takes nothing."""
    rows = [made_row("a", 0, (0, -1, 1), ari=0.5), replace(made_row("a", 1), error="broken [X]", n_clusters=None)]
    assert read_rows(tmp_path) == []
    write_rows(tmp_path, rows[::-1])
    assert read_rows(tmp_path) == rows
    (tmp_path / "results.parquet").write_text("no table")
    with pytest.raises(InputError, match="no table of results"):
        read_rows(tmp_path)
    with pytest.raises(ConfigError) as raised:
        write_rows(tmp_path / "results.parquet", rows)
    assert raised.value.reason == "OUTPUT_NOT_WRITABLE"
    with pytest.raises(InputError, match="lab run"):
        write_lab_report(tmp_path / "nothing", datetime(2026, 5, 1, tzinfo=UTC))


def test_tables_of_older_code_are_read_and_told_apart(
    stream: StreamConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of a table without the newer columns come back; beside rows of this code, page and command say so."""
    system = SYSTEMS["modulation-kmeans"]
    rows = [
        replace(made_row(system.name, seed, (0, 0, 1), ari=0.5), description=describe(system, stream))
        for seed in (0, 1)
    ]
    write_rows(tmp_path, rows)
    table = parquet.read_table(tmp_path / "results.parquet")
    assert {"types", "code"} <= set(table.column_names)
    parquet.write_table(table.drop_columns(["types", "code"]), tmp_path / "results.parquet")
    assert read_rows(tmp_path) == rows
    ledger = Ledger(tmp_path, "songs")
    now = datetime(2026, 5, 1, tzinfo=UTC)
    assert "states of songstream" not in write_lab_report(tmp_path, now).read_text()
    assert warn_of_codes(rows) == 1
    ledger.add(replace(rows[1], code=code_digest()))
    assert "made by 2 states of songstream" in write_lab_report(tmp_path, now).read_text()
    assert warn_of_codes(read_rows(tmp_path)) == 2
    assert "2 states of songstream" in capsys.readouterr().err
    assert ledger.missing([Trial(system, row) for row in rows]) == [], "other code is no other row"


def test_songs_without_labels_give_a_page_without_a_winner(tmp_path: Path) -> None:
    """Without labels the page ranks nothing, whatever the silhouette."""
    write_rows(tmp_path, [made_row(name, 0, (0, 0, 1), silhouette=0.9) for name in ("b", "a")])
    page = write_lab_report(tmp_path, datetime(2026, 5, 1, tzinfo=UTC)).read_text()
    assert "nothing here says which system is best" in page
    assert page.index("<td>a</td>") < page.index("<td>b</td>")


@pytest.mark.usefixtures("no_umap")
def test_maps_of_whole_spectrograms_are_made_of_their_components(monkeypatch: pytest.MonkeyPatch) -> None:
    """Discriminants of thousands of dimensions would take hours: what is mapped has few, and the same distances."""
    mapped: list[FloatArray] = []

    def note(points: FloatArray, found: IntArray, seed: int) -> dict[str, FloatArray]:
        mapped.append(points)
        return maps(points, found, seed)

    monkeypatch.setattr("songtrain.lab.sections.maps", note)
    numbers = np.arange(24) % 3
    songs = np.random.default_rng(0).normal(size=(24, 600)).astype(np.float32) + numbers[:, None]
    row = made_row("images", 0, tuple(numbers.tolist()), ari=1.0)
    assert system_section(row, ["a", "b", "c"] * 8, KeptPoints(np.arange(24), songs, None)).maps
    (points,) = mapped
    assert points.shape[1] <= 24
    np.testing.assert_allclose(pdist(points), pdist(songs), rtol=1e-4)


def test_a_page_without_a_leaderboard_does_not_say_that_there_are_no_labels(
    toy_songs: ToySongs, tmp_path: Path
) -> None:
    """Of labelled songs that only a sweep was run on, or of which all runs failed, the page says that no system worked."""
    swept = replace(made_row("a", 0, (0, 0, 1), ari=0.5, nmi=0.5), parameters={"clusters": 2})
    failed_row = replace(made_row("a", 0), error="no [REASON]")
    keep_songs(tmp_path / "failed", toy_songs(3), 24_000, [], "songs")
    for name, row in (("swept", swept), ("failed", failed_row)):
        write_rows(tmp_path / name, [row])
        page = write_lab_report(tmp_path / name, datetime(2026, 5, 1, tzinfo=UTC)).read_text()
        assert "No system has a run that worked, sweeps apart: nothing here says which system is best" in page
        assert "The songs have no labels: nothing" not in page


def test_a_cluster_that_the_sample_of_the_silhouette_misses_costs_no_row() -> None:
    """Of 6,000 songs one is alone; whether or not it is drawn, the other scores are there, and the silhouette as it was."""
    points = np.random.default_rng(0).normal(size=(6000, 2)).astype(np.float32)
    for alone in range(40):
        labels = (np.arange(6000) == alone).astype(np.int64)
        scores = diagnostics(points, labels)
        assert scores.keys() >= {"calinski_harabasz", "davies_bouldin"}
        if "silhouette" not in scores:
            break
    else:
        pytest.fail("no song was left out of the sample")
    halves = (points[:, 0] > 0).astype(np.int64)
    expected = silhouette_score(points, halves, sample_size=5000, random_state=0)
    assert diagnostics(points, halves)["silhouette"] == pytest.approx(expected)


def test_systems_that_share_a_network_share_its_pictures(tmp_path: Path) -> None:
    """Those that differ in the clusterer alone have one line and one picture between them; others have their own."""
    course = ({"loss": 2.0}, {"loss": 1.0})
    rows = [replace(made_row(name, 0), history=course) for name in ("ae-kmeans", "ae-louvain")]
    page = networks([*rows, replace(made_row("vae", 0), history=({"loss": 3.0},))])
    assert "ae-kmeans, ae-louvain" in page
    assert "vae" in page
    for name, seed in (("ae-kmeans", 0), ("ae-louvain", 0), ("vae", 1)):
        images = np.random.default_rng(seed).random((2, 3, 10, 4)).astype(np.float32)
        points = Points(np.zeros((3, 2), np.float32), ("a", "b", "c"), 1.0, 1.0, reconstructions=images)
        keep_points(tmp_path, name, points)
    assert list(reconstructions(tmp_path, ["ae-kmeans", "ae-louvain", "vae"])) == ["ae-kmeans, ae-louvain", "vae"]
