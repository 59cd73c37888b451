"""Reclustering a real store: what is proposed, what is kept, and how a run ends that has nothing to propose."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundles import make_test_bundle
from postgres import PostgresServer
from reclusterings import NEW, candidate, job, sung
from seasons import Season, decide, fill_store
from songcore.bundle import load_bundle, read_parts, write_bundle
from songcore.decisions import Mark, Merge, Name, Split
from songcore.errors import ConfigError, SongError
from songcore.lineage import TypeChange
from songcore.manifest import SongType
from songtrain.recluster.job import recluster
from songtrain.recluster.run_folder import RunState
from songtrain.recluster.settings import ReclusterSettings


def test_a_new_type_is_proposed_and_known_ones_stay(season: Season, known_bundle: Path) -> None:
    """The songs nobody knew are one new type with a new id; all others are called as before, and the gate says so."""
    state = recluster(job(season.folder, known_bundle))
    assert (state.state, state.outcome) == ("SUCCEEDED", "proposed")
    before, after = load_bundle(known_bundle), load_bundle(candidate(season.folder, state))
    assert [one.id for one in after.types] == [*(one.id for one in before.types), "T0006"]
    assert [(entry.id, entry.change) for entry in after.manifest.lineage] == [("T0006", "new")]
    assert after.manifest.parent_digest == before.digest
    assert all(check.passed for check in after.manifest.gate)
    fresh = after.catalogue.assign(after.embedder.embed(sung([NEW] * 10, 99)))
    assert {one.type_id for one in fresh} == {"T0006"}
    known = after.embedder.embed(sung([*range(NEW)] * 4, 98))
    assert [one.type_id for one in after.catalogue.assign(known)] == [
        one.type_id for one in before.catalogue.assign(known)
    ]
    report = (candidate(season.folder, state) / "report.html").read_text()
    assert "T0006" in report
    assert report.count("data:image/png") > 10
    assert (state.facts["ari"], state.facts["changed_share"]) == (1.0, 0.0)
    for shown in ("ARI of old and new types", "songs whose type changed"):
        assert shown in report


def test_the_same_run_gives_the_same_proposal(season: Season, known_bundle: Path, tmp_path: Path) -> None:
    """A finished run that is started again does nothing; done anew elsewhere it gives the same bundle to the digest."""
    first = recluster(job(season.folder, known_bundle))
    (season.folder / "models" / str(first.candidate) / "manifest.json").unlink()
    assert recluster(job(season.folder, known_bundle)) == first
    elsewhere = recluster(job(season.folder, known_bundle, work=tmp_path / "w", models=tmp_path / "m"))
    assert elsewhere.candidate == first.candidate


def test_a_store_in_postgresql_gives_the_same_proposal(
    season: Season, known_bundle: Path, season_songs: Any, tmp_path: Path, postgres: PostgresServer
) -> None:
    """The same songs in PostgreSQL are read from a snapshot of it, and become the same bundle."""
    url = postgres.new_database()
    fill_store(tmp_path / "other", load_bundle(known_bundle), *season_songs, database_url=url)
    state = recluster(job(tmp_path / "other", known_bundle, store=url, clips=tmp_path / "other" / "clips"))
    beside = recluster(job(season.folder, known_bundle))
    assert state.facts["n_songs"] == len(season.truth)
    assert (state.facts, state.candidate) == (beside.facts, beside.candidate)


def test_an_id_is_never_given_twice(season: Season, known_bundle: Path) -> None:
    """A proposal that nobody activated has used up its ids: the next run's new type has another."""
    first = recluster(job(season.folder, known_bundle))
    second = recluster(job(season.folder, known_bundle, run="night-2"))
    ids = [{one.id for one in load_bundle(candidate(season.folder, state)).types} for state in (first, second)]
    assert ids[1] - ids[0] == {"T0007"}


def test_an_id_of_the_first_bundle_is_not_given_again(season: Season, known_bundle: Path, tmp_path: Path) -> None:
    """Nor one that only the bundle has which the service was started with, outside its folder of models."""
    parts = read_parts(known_bundle)
    more = [*parts.types, SongType(id="T0041")]
    write_bundle(
        tmp_path / "first",
        replace(
            parts,
            types=more,
            type_index=np.append(parts.type_index, len(more) - 1),
            prototypes=np.concatenate([parts.prototypes, parts.prototypes[:1]]),
        ),
    )
    state = recluster(job(season.folder, known_bundle, started_with=tmp_path / "first"))
    known = {one.id for one in load_bundle(known_bundle).types}
    assert {one.id for one in load_bundle(candidate(season.folder, state)).types} - known == {"T0042"}


@pytest.mark.parametrize("stage", ["proposal", "report"])
def test_a_run_that_was_overtaken_gives_other_ids(season: Season, known_bundle: Path, stage: str) -> None:
    """A run taken up again after another one proposed types has numbers of its own for those it finds."""

    class EndedError(Exception):
        pass

    def end(state: RunState) -> None:
        if state.stage == stage:
            raise EndedError

    with pytest.raises(EndedError):
        recluster(job(season.folder, known_bundle), end)
    other = recluster(job(season.folder, known_bundle, run="night-2"))
    late = recluster(job(season.folder, known_bundle))
    known = {one.id for one in load_bundle(known_bundle).types}
    given = [{one.id for one in load_bundle(candidate(season.folder, one)).types} - known for one in (other, late)]
    assert given == [{"T0006"}, {"T0007"}]


def test_a_run_that_is_overtaken_at_the_end_gives_other_ids(season: Season, known_bundle: Path, tmp_path: Path) -> None:
    """A run in another folder, which no lock keeps apart, publishes first: its numbers are not given to other types."""
    others: list[RunState] = []

    def overtake(state: RunState) -> None:
        if state.stage == "publishing" and not others:
            beside: dict[str, Any] = {"work": tmp_path / "beside", "created_by": "somebody else"}
            others.append(recluster(job(season.folder, known_bundle, **beside)))

    late = recluster(job(season.folder, known_bundle), overtake)
    known = {one.id for one in load_bundle(known_bundle).types}
    given = [{one.id for one in load_bundle(candidate(season.folder, one)).types} - known for one in (*others, late)]
    assert given == [{"T0006"}, {"T0007"}]


def test_what_was_learned_leaves_the_pool(season: Season, known_bundle: Path) -> None:
    """Retraining the candidate finds nothing new in the same songs: most of the pool it knows by now."""
    first = recluster(job(season.folder, known_bundle))
    again = recluster(job(season.folder, candidate(season.folder, first), run="night-2"))
    assert again.outcome in {"nothing_new", "pool_too_small", "pool_empty"}
    assert again.candidate is None
    assert int(again.facts["n_pool"] or 0) < int(first.facts["n_pool"] or 0)


def test_people_have_the_last_word(season: Season, known_bundle: Path) -> None:
    """Merged types are one, a split one is two, noise is noise, under people's names; retrained again, they still are."""
    of_four = [uid for uid, number in season.truth.items() if number == 3 and uid not in season.novel]
    decide(
        season.folder,
        Merge(type_id="T0002", into="T0001", sound="song"),
        Split(type_id="T0004", new_id="P0001", songs=tuple(of_four[:3]), sound="song"),
        Mark(kind="noise", type_id="T0005"),
        Name(type_id="T0003", name="whistle"),
    )
    first = recluster(job(season.folder, known_bundle))
    told = json.loads((season.folder / "reclusterings" / "night-1" / "proposal.json").read_text())["described_anew"]
    assert told == {
        "T0003": {"name": ["", "whistle"], "kind": ["song", "song"]},
        "T0005": {"name": ["", ""], "kind": ["song", "noise"]},
    }
    report = (candidate(season.folder, first) / "report.html").read_text()
    for shown in ('<td>T0003</td><td class="words">no name</td><td class="words">whistle</td>', "no name, noise"):
        assert shown in report
    second = recluster(job(season.folder, candidate(season.folder, first), run="night-2"))
    paths = [candidate(season.folder, first)] + ([candidate(season.folder, second)] if second.candidate else [])
    for path in paths:
        bundle = load_bundle(path)
        types = bundle.type_by_id
        assert set(types) == {"T0001", "T0003", "T0004", "T0005", "T0006", "P0001"}
        assert (types["T0005"].kind, types["T0003"].name) == ("noise", "whistle")
        assert bundle.manifest.retired == {"T0002"}
        told = {(entry.id, entry.change, entry.others) for entry in bundle.manifest.lineage}
        assert ("T0001", "merged", ("T0002",)) in told
        assert ("P0001", "split", ("T0004",)) in told
        named = bundle.catalogue.assign(bundle.embedder.embed(sung([1] * 4, 97)))
        assert {one.type_id for one in named} == {"T0001"}


def test_a_split_that_only_people_hear_holds(season: Season, known_bundle: Path) -> None:
    """Every other song of a type is parted from it: the proposal passes its gate and calls the songs as people do."""
    alike = sorted(uid for uid, number in season.truth.items() if number == 3 and uid not in season.novel)
    decide(season.folder, Split(type_id="T0004", new_id="P0001", songs=tuple(alike[::2]), sound="song"))
    state = recluster(job(season.folder, known_bundle))
    assert state.facts["gate"] == "passed"
    types = json.loads((season.folder / "reclusterings" / "night-1" / "proposal.json").read_text())["types"]
    assert set(alike[::2]) <= set(types["P0001"])
    assert set(alike[1::2]) <= set(types["T0004"])
    review = next(
        check for check in load_bundle(candidate(season.folder, state)).manifest.gate if check.name == "review"
    )
    assert review.value == 1


def test_what_people_made_and_a_retraining_retired_is_no_type(
    season: Season, known_bundle: Path, tmp_path: Path
) -> None:
    """Songs that were placed in a type that is no more are called by the bundle again, and no run stumbles over its id."""
    parts = read_parts(known_bundle)
    ended = TypeChange(id="P0001", change="retired", others=("T0004",), since="a" * 64)
    write_bundle(tmp_path / "later", replace(parts, lineage=(ended,), parent_digest="a" * 64))
    alike = [uid for uid, number in season.truth.items() if number == 3 and uid not in season.novel]
    decide(season.folder, Split(type_id="T0004", new_id="P0001", songs=tuple(alike[:3]), sound="song"))
    state = recluster(job(season.folder, tmp_path / "later", started_with=known_bundle))
    types = json.loads((season.folder / "reclusterings" / "night-1" / "proposal.json").read_text())["types"]
    assert state.facts["gate"] == "passed"
    assert "P0001" not in types
    assert set(alike) <= set(types["T0004"])


@pytest.mark.parametrize(
    ("numbers", "outcome"),
    [
        ([], "pool_empty"),
        ([0, 1, NEW, NEW], "pool_too_small"),
        ([0, 1] + [NEW] * 12, "nothing_new"),
    ],
    ids=["empty", "two songs", "once"],
)
def test_runs_without_a_proposal(tmp_path: Path, known_bundle: Path, numbers: list[int], outcome: str) -> None:
    """A pool that is empty, of two songs, or all of one hour ends a run well, and leaves no bundle."""
    season = fill_store(tmp_path / "data", load_bundle(known_bundle), sung(numbers, 3), numbers, every_s=60)
    state = recluster(job(season.folder, known_bundle))
    assert (state.state, state.outcome, state.candidate) == ("SUCCEEDED", outcome, None)
    assert not list(season.folder.glob("models/*"))


def test_a_pool_of_noise_is_no_type(tmp_path: Path, known_bundle: Path) -> None:
    """Sounds of which no two are alike are scattered, and found no type."""
    rng = np.random.default_rng(5)
    loud = rng.permuted(np.tile([4.0] * 3 + [0.0] * 61, (40, 1)), axis=1)
    noise = [rng.gamma(4.0, (bands + 0.01) / 4, (96, 64)).astype(np.float32) for bands in loud]
    season = fill_store(tmp_path / "data", load_bundle(known_bundle), noise, [-1] * 40, sessions=list(range(40)))
    state = recluster(job(season.folder, known_bundle))
    assert (state.outcome, state.candidate) == ("nothing_new", None)


def test_one_song_again_and_again(tmp_path: Path, known_bundle: Path) -> None:
    """The very same song in many sessions, a recording played back, is one type, and no error."""
    features = sung([NEW], 3) * 30
    season = fill_store(tmp_path / "data", load_bundle(known_bundle), features, [NEW] * 30, sessions=list(range(30)))
    state = recluster(job(season.folder, known_bundle))
    assert (state.outcome, state.facts["n_new"]) == ("proposed", 1)


def test_features_deleted_meanwhile(season: Season, known_bundle: Path) -> None:
    """Retention that deletes every clip between the stages costs the report its pictures, and nothing else."""
    whole = recluster(job(season.folder, known_bundle, run="before"))

    def delete(state: RunState) -> None:
        if state.stage == "embedding":
            for path in season.folder.glob("clips/*/*/*"):
                path.unlink()

    state = recluster(job(season.folder, known_bundle, models=season.folder / "others"), delete)
    assert state.outcome == "proposed"
    there = season.folder / "others" / str(state.candidate)
    assert [one.id for one in load_bundle(there).types][-1] == "T0007"
    assert "data:image/png" not in (there / "report.html").read_text()
    assert whole.facts["n_new"] == state.facts["n_new"]


def test_songs_of_another_encoder_are_placed_anew(tmp_path: Path, known_bundle: Path, season_songs: Any) -> None:
    """What another encoder placed is placed by this one from its features; without features it is left out."""
    other = tmp_path / "data" / "models" / "other"
    made = make_test_bundle(other, seed=3)
    season = fill_store(tmp_path / "data", made, *season_songs)
    state = recluster(job(season.folder, known_bundle))
    assert state.outcome == "proposed"
    assert state.facts["n_left_out"] == 0
    bare = fill_store(tmp_path / "bare", made, *season_songs, with_features=False)
    left = recluster(job(bare.folder, known_bundle, models=season.folder / "models"))
    assert (left.outcome, left.facts["n_songs"]) == ("pool_empty", 0)


def test_songs_of_the_first_bundle_count_wherever_it_is(tmp_path: Path, known_bundle: Path, season_songs: Any) -> None:
    """A server is started with a bundle outside its models; a later night still knows what that one heard."""
    heard_by = load_bundle(known_bundle, device="cpu")
    season = fill_store(tmp_path / "data", heard_by, *season_songs, with_features=False)
    promoted = candidate(season.folder, recluster(job(season.folder, known_bundle)))
    alone = recluster(job(season.folder, promoted, "night-2"))
    assert alone.facts["n_songs"] == 0
    known = recluster(job(season.folder, promoted, "night-3", started_with=known_bundle))
    assert (known.facts["n_left_out"], known.facts["n_songs"]) == (0, len(season_songs[1]))


def test_stages_that_fail_are_told(season: Season, known_bundle: Path) -> None:
    """A full retraining of a bundle that has nothing to go on with fails with its reason, and so does the run's state."""
    with pytest.raises(SongError) as caught:
        recluster(job(season.folder, known_bundle, mode="full"))
    assert caught.value.reason == "TRAINING_MISSING"
    state = RunState.model_validate_json((season.folder / "reclusterings/night-1/state.json").read_bytes())
    assert (state.state, state.stage, state.reason) == ("FAILED", "training", "TRAINING_MISSING")


def test_a_folder_of_bundles_that_takes_none_is_said_at_once(season: Season, known_bundle: Path) -> None:
    """Not after hours: the first stage tries to write there."""
    with pytest.raises(ConfigError) as caught:
        recluster(job(season.folder, known_bundle, models=Path(__file__) / "models"))
    assert caught.value.reason == "OUTPUT_NOT_WRITABLE"
    state = RunState.model_validate_json((season.folder / "reclusterings/night-1/state.json").read_bytes())
    assert (state.state, state.stage) == ("FAILED", "snapshot")


def test_a_report_that_cannot_be_written_is_told_and_not_a_fault(season: Season, known_bundle: Path) -> None:
    """As on a full disk: the run fails with a reason, and goes on when there is room."""
    in_the_way = season.folder / "reclusterings" / "night-1" / "report.html"

    def block(state: RunState) -> None:
        if state.stage == "report":
            in_the_way.mkdir(exist_ok=True)

    with pytest.raises(ConfigError) as caught:
        recluster(job(season.folder, known_bundle), block)
    assert caught.value.reason == "OUTPUT_NOT_WRITABLE"
    in_the_way.rmdir()
    assert recluster(job(season.folder, known_bundle)).outcome == "proposed"
    assert "<html" in in_the_way.read_text()


def test_what_is_published_is_on_the_disk_before_it_has_its_name(
    season: Season, known_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file, and then the folder that has it: a power cut leaves a whole bundle or none."""
    models, synced = season.folder / "models", list[tuple[str, bool]]()

    def note(path: Path) -> None:
        synced.append((path.name, any(models.glob("[0-9a-f]*"))))

    monkeypatch.setattr("songtrain.recluster.job.sync", note)
    published = candidate(season.folder, recluster(job(season.folder, known_bundle)))
    names = {path.name for path in published.iterdir()}
    assert {name for name, is_there in synced if not is_there} == {*names, f".{published.name}-partial"}
    assert synced[-1] == ("models", True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"store": "sqlite:////nowhere/songs.sqlite"}, "STORE_UNREACHABLE"),
        ({"store": "elsewhere"}, "STORE_UNREACHABLE"),
        ({"run": "../night"}, "RUN_ID_INVALID"),
        ({"mode": "full", "first": True}, "RUN_DIFFERS"),
        ({"settings": ReclusterSettings(seed=1), "first": True}, "RUN_DIFFERS"),
    ],
    ids=["no store", "no URL", "name", "mode", "settings"],
)
def test_what_cannot_begin(season: Season, known_bundle: Path, change: dict[str, Any], reason: str) -> None:
    """A store that is not there, a bad name, or a run asked for otherwise than before is refused with its reason."""
    if change.pop("first", False):
        recluster(job(season.folder, known_bundle))
    with pytest.raises(ConfigError) as caught:
        recluster(job(season.folder, known_bundle, **change))
    assert caught.value.reason == reason


def test_one_run_at_a_time(season: Season, known_bundle: Path) -> None:
    """A second run in the same folder is refused while the first works, and leaves it undisturbed."""
    reasons: list[str] = []

    def start_another(state: RunState) -> None:
        if state.stage == "clustering" and not reasons:
            with pytest.raises(ConfigError) as caught:
                recluster(job(season.folder, known_bundle, run="night-2"))
            reasons.append(caught.value.reason)

    assert recluster(job(season.folder, known_bundle), start_another).outcome == "proposed"
    assert reasons == ["RECLUSTER_BUSY"]


def test_foreign_files_among_the_models(season: Season, known_bundle: Path) -> None:
    """A folder of models with things in it that are no bundles is no obstacle."""
    (season.folder / "models" / "notes").mkdir(parents=True)
    (season.folder / "models" / "notes" / "manifest.json").write_text("{}")
    assert recluster(job(season.folder, known_bundle)).outcome == "proposed"
