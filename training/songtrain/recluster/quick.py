"""A proposal without training: the encoder stays, dense groups of the pool become types, known types keep all they have."""

from dataclasses import dataclass

import numpy as np

from songcore.arrays import FloatArray, IntArray
from songcore.bundle import BundleParts
from songcore.lineage import TypeChange
from songcore.manifest import SongType
from songtrain.clusterers.prototypes import make_prototypes
from songtrain.recluster.groups import Groups
from songtrain.recluster.proposal import Members, Proposal, divided, exemplar_names, song_prototypes, song_scores
from songtrain.recluster.songs import NamedSongs, RunInput

__all__ = ["Reference", "decided_changes", "propose_quick", "reference_songs"]

MIN_EXTENSION = 5
"""Songs of the pool that a known type is extended by at least: fewer say too little of where it went."""


@dataclass(frozen=True)
class Reference:
    """Songs of known types that the pool is seen beside."""

    embeddings: FloatArray
    type_index: IntArray
    """(m,) into the living types."""


def reference_songs(run: RunInput) -> Reference:
    """Return the bank of the bundle and the stored songs of known types, up to ``max_known`` each."""
    parts, songs, named, settings = run.parts, run.songs, run.named, run.settings
    nearest = (parts.bank @ parts.prototypes.T).argmax(axis=1)
    of_bank = _living_index(run)[parts.type_index[nearest]]
    rng = np.random.default_rng([settings.seed, 1])
    stored = [
        np.sort(rng.permutation(np.flatnonzero(named.type_index == number))[: settings.max_known])
        for number in range(len(named.type_ids))
    ]
    chosen = np.concatenate([np.empty(0, np.int64), *stored])
    embeddings = np.concatenate([parts.bank[of_bank >= 0], songs.embeddings[chosen]])
    return Reference(embeddings, np.concatenate([of_bank[of_bank >= 0], named.type_index[chosen]]))


def propose_quick(run: RunInput, groups: Groups) -> Proposal | None:
    """Return the bundle's types with those of the groups added and people's decisions in force; None when nothing changes.

    ``groups`` are of the songs ``named.in_pool``.
    """
    parts, songs, named = run.parts, run.songs, run.named
    labels = named.type_index.copy()
    n_living, n_fresh = len(named.type_ids), int(groups.fresh.max(initial=-1)) + 1
    labels[named.in_pool] = np.where(groups.fresh >= 0, n_living + groups.fresh, groups.extended)
    extended = [k for k in range(n_living) if (groups.extended == k).sum() >= MIN_EXTENSION]
    decided = decided_changes(run)
    kinds = {one.id: one.kind for one in parts.types}
    as_before = all(kinds.get(name, kind) == kind for name, kind in zip(named.type_ids, named.kinds, strict=True))
    if not (n_fresh or extended or decided) and as_before:
        return None
    fresh_ids = [f"T{run.first_number + k:04d}" for k in range(n_fresh)]
    members = {k: np.flatnonzero(labels == k) for k in range(n_living + n_fresh)}
    fresh = [_halves(members[n_living + k], run) for k in range(n_fresh)]
    grown = [_halves(named.in_pool[groups.extended == k], run, held_out_share=0.0) for k in extended]
    in_bank = np.concatenate([np.empty(0, np.int64), *(one.bank for one in (*fresh, *grown))])
    bank = np.concatenate([parts.bank, songs.embeddings[in_bank]])
    calibration, calibration_type = _calibration(run, fresh, bank)
    prototypes, type_index = _prototypes(run, groups, extended)
    exemplars = {
        name: exemplar_names(songs.uids, songs.embeddings, members[k]) for k, name in _numbered(named, fresh_ids)
    }
    changes = [
        TypeChange(id=name, change="new", since=run.digest, n_songs=len(members[n_living + k]))
        for k, name in enumerate(fresh_ids)
    ]
    return Proposal(
        types=_types(parts, named, fresh_ids, members, exemplars),
        changes=(*decided, *changes),
        labels=labels,
        in_bank=in_bank,
        prototypes=prototypes,
        type_index=type_index,
        bank=bank,
        calibration=calibration,
        calibration_type=calibration_type,
        exemplars={name: typical for name, (typical, _) in exemplars.items()},
    )


def decided_changes(run: RunInput) -> tuple[TypeChange, ...]:
    """Return the merges and splits by people that the bundle does not know of yet."""
    view, since, in_bundle = run.view, run.digest, {one.id for one in run.parts.types}
    changes: list[TypeChange] = []
    for one in run.parts.types:
        into = view.resolve(one.id)
        if into != one.id:
            changes.append(TypeChange(id=into, change="merged", others=(one.id,), since=since, n_songs=one.n_songs))
            changes.append(TypeChange(id=one.id, change="retired", others=(into,), since=since, n_songs=one.n_songs))
    for made, origin in view.made.items():
        if made not in in_bundle and made in run.named.type_ids:
            n = sum(placed == made for placed in view.placed.values())
            changes.append(TypeChange(id=made, change="split", others=(origin,), since=since, n_songs=n))
    return tuple(changes)


def _living_index(run: RunInput) -> IntArray:
    """Return which living type each type of the bundle is."""
    number = {name: index for index, name in enumerate(run.named.type_ids)}
    return np.asarray([number.get(run.view.resolve(one.id), -1) for one in run.parts.types], np.int64)


def _numbered(named: NamedSongs, fresh_ids: list[str]) -> list[tuple[int, str]]:
    return list(enumerate([*named.type_ids, *fresh_ids]))


def _halves(members: IntArray, run: RunInput, held_out_share: float | None = None) -> Members:
    return divided(
        members,
        held_out_share=run.settings.held_out_share if held_out_share is None else held_out_share,
        max_bank=run.settings.max_bank,
        n_neighbours=run.parts.novelty.n_neighbours,
        seed=run.settings.seed,
    )


def _calibration(run: RunInput, fresh: list[Members], bank: FloatArray) -> tuple[FloatArray, IntArray | None]:
    """Return the bundle's scores, which a larger bank only makes smaller for known songs, and those of new types' songs."""
    parts = run.parts
    scores = [song_scores(bank, run.songs.embeddings[one.held_out], parts.novelty.n_neighbours) for one in fresh]
    calibration = np.concatenate([parts.calibration, *scores]).astype(np.float32)
    if parts.calibration_type is None:
        return calibration, None
    first, n_living = _living_index(run)[parts.calibration_type], len(run.named.type_ids)
    rest = [np.full(len(one), n_living + k, np.int64) for k, one in enumerate(scores)]
    return calibration, np.concatenate([first, *rest])


def _prototypes(run: RunInput, groups: Groups, extended: list[int]) -> tuple[FloatArray, IntArray]:
    """Return the bundle's prototypes and those of what was added to its types."""
    parts, named = run.parts, run.named
    parted = _parted(run)
    rows, of_rows = song_prototypes(run.songs.embeddings, named.type_index, parted, named.placed, run.settings.seed)
    of_bundle = _living_index(run)[parts.type_index]
    kept = ~np.isin(of_bundle, parted)
    blocks, index = [parts.prototypes[kept], rows], [of_bundle[kept], of_rows]
    additions = [(k, named.in_pool[groups.extended == k]) for k in extended]
    n_fresh = int(groups.fresh.max(initial=-1)) + 1
    additions += [(len(named.type_ids) + k, named.in_pool[groups.fresh == k]) for k in range(n_fresh)]
    for number, members in additions:
        if len(members):
            rows, _ = make_prototypes(
                run.songs.embeddings[members],
                np.zeros(len(members), np.int64),
                max_per_type=run.settings.max_prototypes,
                seed=run.settings.seed,
            )
            blocks.append(rows)
            index.append(np.full(len(rows), number, np.int64))
    return np.concatenate(blocks), np.concatenate(index)


def _parted(run: RunInput) -> list[int]:
    """Return the types that people parted since the bundle was made: made ones, and origins that have songs."""
    named, in_bundle = run.named, {one.id for one in run.parts.types}
    number = {name: k for k, name in enumerate(named.type_ids)}
    made = [name for name in named.type_ids if name not in in_bundle]
    origins = {number[name] for one in made if (name := run.view.resolve(run.view.made[one])) in number}
    sizes = np.bincount(named.type_index[named.type_index >= 0], minlength=len(number))
    return sorted({*(number[name] for name in made), *(k for k in origins if sizes[k] >= MIN_EXTENSION)})


def _types(
    parts: BundleParts,
    named: NamedSongs,
    fresh_ids: list[str],
    members: dict[int, IntArray],
    exemplars: dict[str, tuple[tuple[int, ...], tuple[str, ...]]],
) -> tuple[SongType, ...]:
    known = {one.id: one for one in parts.types}
    types = []
    for number, name in _numbered(named, fresh_ids):
        if name in known:
            one = known[name].model_copy(update={"kind": named.kinds[number], "name": named.names[number]})
        elif number < len(named.type_ids):
            one = SongType(
                id=name, name=named.names[number], kind="noise" if named.kinds[number] == "noise" else "song"
            )
        else:
            one = SongType(id=name)
        if name not in known:
            one = one.model_copy(update={"n_songs": len(members[number]), "exemplars": exemplars[name][1]})
        types.append(one)
    return tuple(types)
