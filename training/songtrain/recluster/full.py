"""A proposal with training: the encoder learns on from where it is, on songs of all types, and everything is clustered anew.

It learns from the stored songs whose features were kept, and from the songs of every type that travel with the bundle, so that
a type that nobody sings this month is neither forgotten nor called otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from songcore.arrays import FloatArray, IntArray
from songcore.bundle import BundleParts
from songcore.decisions import View
from songcore.embed import Embedder
from songcore.errors import BundleError, ConfigError
from songcore.lineage import TypeChange
from songcore.manifest import EncoderInfo, SongType
from songtrain.augment.singers import sung_by_others
from songtrain.cluster import ray_session
from songtrain.clusterers.density import DensityClusterer
from songtrain.clusterers.prototypes import draw_bank, make_prototypes
from songtrain.datasets.screening import screen_songs
from songtrain.datasets.songs import SongPlace, SongSet
from songtrain.datasets.split import hold_out
from songtrain.encoders.build import n_parameters
from songtrain.evaluation.collapse import check_clusters
from songtrain.export.training_state import TrainingState, chosen_songs, pack_training, stored_name, unpack_training
from songtrain.loop.distributed import train_encoder
from songtrain.pipeline import serve_trained
from songtrain.recluster.decided import Decided, agree
from songtrain.recluster.groups import Occasion
from songtrain.recluster.intake import KeptFeatures
from songtrain.recluster.matching import match_types
from songtrain.recluster.proposal import Proposal, exemplar_names, song_prototypes, song_scores
from songtrain.recluster.quick import decided_changes
from songtrain.recluster.settings import FullSettings
from songtrain.recluster.songs import NamedSongs, RunInput
from songtrain.settings import TrainSettings

__all__ = ["FullResult", "learning_settings", "recluster_all", "retrain"]

CAME = "first/"
"""Before the recordings of songs that came with the bundle."""


@dataclass(frozen=True)
class FullResult:
    """A proposal and the encoder that it needs."""

    proposal: Proposal
    encoder: bytes
    info: EncoderInfo
    training: bytes
    embeddings: FloatArray
    """(n, d) of the run's songs by the new encoder."""


@dataclass(frozen=True)
class _Lesson:
    """All songs that are learned from: those of the run, then those that came with the bundle."""

    songs: SongSet
    old: IntArray
    """(n,) what each was called, as in `NamedSongs.type_index`."""
    n_stored: int


def retrain(
    run: RunInput, features: KeptFeatures, training: bytes | None, work: Path, address: str | None
) -> FullResult:
    """Return the retrained encoder and what it makes of all songs; ``features`` are of every song of the run.

    Raises BundleError TRAINING_MISSING, InputError for too few songs, CollapseError when training or clustering fails.
    """
    if training is None:
        raise BundleError(
            "the bundle has no training.npz: the encoder cannot be taken up again; train a bundle anew by `songstream "
            "train`, or use --mode quick",
            reason="TRAINING_MISSING",
        )
    state = unpack_training(training)
    lesson = _lesson(run, features, state)
    settings = learning_settings(state.settings, run.settings.full, run.settings.seed)
    stream = run.parts.stream
    screen_songs(lesson.songs, min_songs=settings.data.min_songs)
    held = hold_out(lesson.songs.recordings, settings.novelty.held_out_share, np.random.default_rng([settings.seed, 1]))
    taught = np.setdiff1d(np.arange(len(lesson.songs)), held)
    learned, held_out = lesson.songs.parted(held)
    with ray_session(address):
        trained = train_encoder(learned, settings, stream, work, start=state.weights)
    served = serve_trained(trained, learned, settings, stream)
    embeddings = served.embedder.embed(lesson.songs.all_features())
    proposal, labels = recluster_all(run, lesson.old, embeddings, settings, taught=taught)
    # A type all of whose songs were held out is known by them, so they calibrate nothing.
    calibrating = np.where(np.isin(labels[held], labels[taught]), labels[held], -1)
    calibrated = _calibrated(proposal, held_out, calibrating, served.embedder, run.parts, settings)
    chosen = chosen_songs(labels, settings.seed)
    ids = tuple(proposal.types[number].id for number in labels[chosen].tolist())
    songs = lesson.songs.subset(chosen)
    named = (stored_name(run.songs.uids[i]) if i < lesson.n_stored else None for i in chosen.tolist())
    places = tuple(
        replace(at, recording=name or at.recording.removeprefix(CAME))
        for at, name in zip(songs.places, named, strict=True)
    )
    kept = TrainingState(state.settings, trained.encoder.state_dict(), replace(songs, places=places), ids)
    info = EncoderInfo(
        architecture=run.parts.encoder_info.architecture,
        n_parameters=n_parameters(served.encoder),
        dimension=served.embedder.dimension,
        trained_on=f"{len(taught)} songs, {lesson.n_stored} of them stored by a service; retrained from {run.digest[:12]}",
    )
    return FullResult(calibrated, served.model, info, pack_training(kept), embeddings[: lesson.n_stored])


def learning_settings(first: TrainSettings, full: FullSettings, seed: int) -> TrainSettings:
    """Return how the encoder learns on: as it learned first, but for less long and at lower rates.

    What learned without rounds goes on without, as their labels would be wrong for it. ConfigError when nothing is left.
    """
    n_epochs, n_rounds = min(first.warmup.n_epochs, full.warmup_epochs), min(first.rounds.n_rounds, full.n_rounds)
    if n_epochs + n_rounds == 0:
        raise ConfigError(
            f"full.warmup_epochs is {full.warmup_epochs} and full.n_rounds {full.n_rounds}; the bundle's network learned in "
            f"{first.warmup.n_epochs} epochs of warm-up and {first.rounds.n_rounds} rounds, and has no more of either, so "
            "nothing would be trained; raise one that it had, or use --mode quick",
        )
    warmup = first.warmup.model_copy(
        update={
            "n_epochs": n_epochs,
            "learning_rate": first.warmup.learning_rate * full.rate_share,
            "neighbours_from_epoch": 0,
        }
    )
    rounds = first.rounds.model_copy(
        update={
            "n_rounds": n_rounds,
            "n_epochs": full.round_epochs,
            "learning_rate": first.rounds.learning_rate * full.rate_share,
        }
    )
    # The machine that trained it first may have had more cores.
    run = first.run.model_copy(update={"n_workers": full.n_workers, "threads_per_worker": None})
    return first.model_copy(update={"seed": seed, "warmup": warmup, "rounds": rounds, "run": run})


def recluster_all(
    run: RunInput,
    old: IntArray,
    embeddings: FloatArray,
    settings: TrainSettings,
    *,
    taught: IntArray,
) -> tuple[Proposal, IntArray]:
    """Return types for all songs, with ids by the old ones (n,), and the labels (n,); the first songs are the run's.

    Songs without an old type that are in no dense core have none. Prototypes and bank are of the songs ``taught``, and of all
    songs of a type that has none among these; the proposal is not calibrated yet.
    """
    s, named = settings.clusters, run.named
    clusterer = DensityClusterer(s.min_cluster_size, s.min_samples, s.fill_neighbours, s.min_share).fit(embeddings)
    check_clusters(clusterer.core_labels_, max_share=s.max_share)
    found = np.where((clusterer.core_labels_ >= 0) | (old >= 0), clusterer.labels_, -1)
    found = _often_heard(found, old, run.songs.occasions, run.settings.groups.min_occasions)
    found, fixed = agree(found, old, len(named.type_ids), _decided(run.view, named), embeddings)
    decided = decided_changes(run)
    matching = match_types(old, named.type_ids, found, first_number=run.first_number, since=run.digest, fixed=fixed)
    # What people parted and no bundle learned yet is not retired where no song shows it: the next run may have some.
    learned = {one.id for one in run.parts.types}
    changes = [one for one in matching.changes if one.change != "retired" or one.n_songs or one.id in learned]
    number = {name: index for index, name in enumerate(matching.ids)}
    for song, type_number in run.named.placed.items():
        if named.type_ids[type_number] in number:
            found[song] = number[named.type_ids[type_number]]
    typed = _standing_for_types(taught, found)
    prototypes, type_index = _prototypes(run, number, embeddings, found, typed, settings)
    rng = np.random.default_rng([settings.seed, 2])
    n = settings.novelty
    bank = typed[draw_bank(found[typed], most=n.max_bank, of_each=n.n_neighbours, rng=rng)]
    stored = found[: len(run.songs)]
    exemplars = {
        name: exemplar_names(run.songs.uids, embeddings[: len(run.songs)], np.flatnonzero(stored == index))
        for index, name in enumerate(matching.ids)
    }
    proposal = Proposal(
        types=_types(run, matching.ids, found, {name: names for name, (_, names) in exemplars.items()}, changes),
        changes=(*decided, *changes),
        labels=stored,
        in_bank=bank[bank < len(run.songs)],
        prototypes=prototypes,
        type_index=type_index,
        bank=embeddings[bank],
        calibration=np.zeros(1, np.float32),
        calibration_type=None,
        exemplars={name: typical for name, (typical, _) in exemplars.items()},
    )
    return proposal, found


def _lesson(run: RunInput, features: KeptFeatures, state: TrainingState) -> _Lesson:
    places = tuple(SongPlace(session, 0, 1) for session, _ in run.songs.occasions)
    number = {name: index for index, name in enumerate(run.named.type_ids)}
    # A song that travels with the bundle and is stored, too, would be learned from in one place and held out in the other.
    stored = {stored_name(uid) for uid in run.songs.uids}
    new = [i for i, name in enumerate(state.songs.recordings) if name not in stored]
    came, came_ids = state.songs.subset(new), [state.type_ids[i] for i in new]
    songs = SongSet(
        places=(*places, *(replace(place, recording=CAME + place.recording) for place in came.places)),
        lengths=np.concatenate([features.lengths, came.lengths]),
        frames=np.concatenate([features.frames, came.frames]),
        background=came.background,
        duration_s=came.duration_s,
        background_of=tuple((CAME + name, n) for name, n in came.background_of),
    )
    old = [number.get(run.view.resolve(name), -1) for name in came_ids]
    # What founded a type is of it, also where the bundle is not sure of the song.
    founded = dict(zip(state.songs.recordings, state.type_ids, strict=True))
    kept = run.named.type_index.copy()
    for i in np.flatnonzero(kept < 0).tolist():
        kept[i] = number.get(run.view.resolve(founded.get(stored_name(run.songs.uids[i]), "")), -1)
    return _Lesson(songs, np.concatenate([kept, np.asarray(old, np.int64)]), len(run.songs))


def _often_heard(found: IntArray, old: IntArray, occasions: tuple[Occasion, ...], least: int) -> IntArray:
    """Return clusters without those that no old type is in and that were heard on too few occasions."""
    kept = found.copy()
    for label in np.unique(found[found >= 0]):
        members = np.flatnonzero(found == label)
        if (old[members] >= 0).any():
            continue
        where = [occasions[i] for i in members.tolist() if i < len(occasions)]
        if max(len({session for session, _ in where}), len({day for _, day in where})) < least:
            kept[members] = -1
    names, packed = np.unique(kept[kept >= 0], return_inverse=True)
    kept[kept >= 0] = packed
    return kept if len(names) else np.full(len(found), -1, np.int64)


def _decided(view: View, named: NamedSongs) -> Decided:
    number = {name: index for index, name in enumerate(named.type_ids)}
    whole = {number[into] for one in view.merged if (into := view.resolve(one)) in number}
    about = {*view.made, *view.names, *view.kinds, *view.made.values(), *view.merged.values()}
    own = {number[view.resolve(name)] for name in about if view.resolve(name) in number}
    noise = {index for index, kind in enumerate(named.kinds) if kind == "noise"}
    return Decided(whole, own, noise)


def _standing_for_types(taught: IntArray, labels: IntArray) -> IntArray:
    """Return the numbers of the songs that types are known by: those ``taught``, and all of a type that has none of them.

    A type that was sung in one session alone may be held out whole; without prototypes no song would be called by it again.
    """
    is_left_out = (labels >= 0) & ~np.isin(labels, labels[taught])
    return np.union1d(taught[labels[taught] >= 0], np.flatnonzero(is_left_out)).astype(np.int64)


def _prototypes(
    run: RunInput,
    number: Mapping[str, int],
    embeddings: FloatArray,
    labels: IntArray,
    typed: IntArray,
    settings: TrainSettings,
) -> tuple[FloatArray, IntArray]:
    """Return prototypes of the types that have songs among ``typed``, under their numbers; songs for those people parted."""
    view, most = run.view, settings.clusters.max_prototypes
    names = {view.resolve(name) for pair in view.made.items() for name in pair}
    parted = sorted(number[name] for name in names if name in number)
    usable = np.full(len(labels), -1, np.int64)
    usable[typed] = labels[typed]
    usable[list(run.named.placed)] = labels[list(run.named.placed)]
    rows, of_rows = song_prototypes(embeddings, usable, parted, run.named.placed, settings.seed)
    others = typed[~np.isin(labels[typed], parted)]
    if not len(others):
        return rows, of_rows
    present, packed = np.unique(labels[others], return_inverse=True)
    means, index = make_prototypes(embeddings[others], packed, max_per_type=most, seed=settings.seed)
    return np.concatenate([means, rows]), np.concatenate([present[index], of_rows]).astype(np.int64)


def _types(
    run: RunInput,
    ids: tuple[str, ...],
    labels: IntArray,
    exemplars: dict[str, tuple[str, ...]],
    changes: Sequence[TypeChange],
) -> tuple[SongType, ...]:
    known = {one.id: one for one in run.parts.types}
    kind = dict(zip(run.named.type_ids, run.named.kinds, strict=True))
    called = dict(zip(run.named.type_ids, run.named.names, strict=True))
    parents = {entry.id: entry.others for entry in changes if entry.change == "split"}
    types = []
    for index, name in enumerate(ids):
        origin = parents.get(name, (name,))[0]
        before = known.get(name)
        types.append(
            SongType(
                id=name,
                name=called.get(name, ""),
                kind="noise" if kind.get(origin) == "noise" else "song",
                n_songs=int((labels == index).sum()),
                parents=parents.get(name, before.parents if before else ()),
                exemplars=exemplars[name] or (before.exemplars if before else ()),
            )
        )
    return tuple(types)


def _calibrated(
    proposal: Proposal,
    held_out: SongSet,
    labels: IntArray,
    embedder: Embedder,
    parts: BundleParts,
    settings: TrainSettings,
) -> Proposal:
    """Return the proposal with the scores of held-out songs that have a type, as others would sing them."""
    typed = np.flatnonzero(labels >= 0)
    if len(typed) == 0:
        typed = np.arange(len(held_out))
    n = settings.novelty
    others = sung_by_others(
        held_out.subset(typed),
        parts.stream,
        tempo=n.other_tempo,
        pitch_mels=n.other_pitch_mels,
        n_times=n.n_others,
        seed=settings.seed,
    )
    embeddings = embedder.embed(others)
    scores = song_scores(proposal.bank, embeddings, parts.novelty.n_neighbours)
    named = (embeddings @ proposal.prototypes.T).argmax(axis=1)
    return replace(proposal, calibration=scores, calibration_type=proposal.type_index[named])
