"""What a proposal has to show before it may be served: measured here, written into the bundle, acted upon by the service."""

from collections.abc import Sequence

import numpy as np

from songcore.arrays import FloatArray
from songcore.assign import Assignment, Catalogue
from songcore.bundle import BundleParts
from songcore.embed import Embedder
from songcore.lineage import TypeChange
from songcore.manifest import GateCheck
from songcore.stream import SongStream
from songtrain.recluster.proposal import Proposal
from songtrain.recluster.settings import GateSettings
from songtrain.recluster.songs import NamedSongs, RunInput

__all__ = ["check_gate"]


def check_gate(
    run: RunInput, proposal: Proposal, catalogue: Catalogue, embedder: Embedder, embeddings: FloatArray
) -> tuple[GateCheck, ...]:
    """Return what the proposal shows with its catalogue; ``embeddings`` (n, d) are where ``embedder`` puts the run's songs."""
    settings, named = run.settings.gate, run.named
    assigned = catalogue.assign(embeddings)
    return (
        _golden(run, proposal, embedder, catalogue),
        _stability(named, proposal, assigned, settings),
        _survival(named, proposal, settings),
        _named_types(named, proposal),
        _review(named, assigned, settings),
        _calibration(proposal, assigned, run.parts.novelty.alpha, settings),
        _decisions(run, proposal),
    )


def _golden(run: RunInput, proposal: Proposal, embedder: Embedder, catalogue: Catalogue) -> GateCheck:
    """Check that the parent's golden songs are called as before, or as a part of what they were."""
    before, after = (
        _golden_types(run.parts, Embedder(run.parts.encoder, device="cpu"), run.parts.catalogue()),
        [one.type_id for one in catalogue.assign(embedder.embed(_golden_features(run.parts)))],
    )
    right = [new in _allowed(run.view.resolve(old), proposal.changes) for old, new in zip(before, after, strict=True)]
    share = float(np.mean(right))
    detail = ", ".join(f"{old} is {new}" for old, new, ok in zip(before, after, right, strict=True) if not ok)
    return GateCheck(name="golden", passed=all(right), value=share, bound="all", detail=detail)


def _golden_features(parts: BundleParts) -> list[FloatArray]:
    features = []
    for samples in parts.golden_recordings:
        stream = SongStream(parts.stream, parts.stream.frontend.sample_rate_hz)
        features += [song.features for song in (*stream.push(samples), *stream.finish())]
    return features


def _golden_types(parts: BundleParts, embedder: Embedder, catalogue: Catalogue) -> list[str]:
    return [one.type_id for one in catalogue.assign(embedder.embed(_golden_features(parts)))]


def _allowed(old: str, changes: Sequence[TypeChange]) -> set[str]:
    """Return the ids that a song of an old type may have: its own, those of its parts, that of what took it in."""
    parts = {entry.id for entry in changes if old in entry.others and entry.change in {"split", "merged"}}
    heirs = {heir for entry in changes if entry.id == old and entry.change == "retired" for heir in entry.others}
    return {old} | parts | heirs


def _stability(
    named: NamedSongs, proposal: Proposal, assigned: Sequence[Assignment], settings: GateSettings
) -> GateCheck:
    """Check that songs of types that survive are called as before."""
    living = {one.id for one in proposal.types}
    pairs = [
        (named.type_ids[old], one.type_id)
        for old, one in zip(named.type_index.tolist(), assigned, strict=True)
        if old >= 0 and named.type_ids[old] in living
    ]
    share = float(np.mean([old == new for old, new in pairs])) if pairs else None
    return GateCheck(
        name="id_stability",
        passed=share is None or share >= settings.min_stability,
        value=share,
        bound=f"at least {settings.min_stability}",
        detail=f"{len(pairs)} songs of types that survive",
    )


def _survival(named: NamedSongs, proposal: Proposal, settings: GateSettings) -> GateCheck:
    """Check that most songs that had a type are of a type that still is: ids do not vanish by the dozen."""
    living = {one.id for one in proposal.types}
    typed = named.type_index[named.type_index >= 0]
    survives = np.asarray([name in living for name in named.type_ids], bool)
    share = float(survives[typed].mean()) if len(typed) else None
    lost = sorted({named.type_ids[k] for k in np.unique(typed).tolist() if not survives[k]})
    return GateCheck(
        name="survival",
        passed=share is None or share >= settings.min_survival,
        value=share,
        bound=f"at least {settings.min_survival}",
        detail=", ".join(lost),
    )


def _named_types(named: NamedSongs, proposal: Proposal) -> GateCheck:
    living = {one.id for one in proposal.types}
    lost = [
        f"{name} ({called})"
        for name, called in zip(named.type_ids, named.names, strict=True)
        if called and name not in living
    ]
    n_named = sum(bool(called) for called in named.names)
    return GateCheck(
        name="named_types",
        passed=not lost,
        value=float(n_named - len(lost)),
        bound=f"all {n_named}",
        detail=", ".join(lost),
    )


def _review(named: NamedSongs, assigned: Sequence[Assignment], settings: GateSettings) -> GateCheck:
    """Check that songs that people gave a type are called so by the proposal alone."""
    right = [assigned[song].type_id == named.type_ids[number] for song, number in named.placed.items()]
    share = float(np.mean(right)) if right else None
    return GateCheck(
        name="review",
        passed=share is None or share >= settings.min_review,
        value=share,
        bound=f"at least {settings.min_review}",
        detail=f"{len(right)} songs that people gave a type",
    )


def _calibration(proposal: Proposal, assigned: Sequence[Assignment], alpha: float, settings: GateSettings) -> GateCheck:
    """Check that songs that have a type and are not in the bank are called novel as rarely as was promised."""
    typed = np.setdiff1d(np.flatnonzero(proposal.labels >= 0), proposal.in_bank)
    share = float(np.mean([assigned[i].is_novel for i in typed])) if len(typed) else None
    chance = 2 * float(np.sqrt(alpha * (1 - alpha) / max(1, len(typed))))
    most = alpha + settings.calibration_tolerance + chance
    return GateCheck(
        name="calibration",
        passed=share is None or share <= most,
        value=share,
        bound=f"at most {most:.3f}",
        detail=f"{len(typed)} songs that have a type and are not in the bank; {alpha} was promised",
    )


def _decisions(run: RunInput, proposal: Proposal) -> GateCheck:
    """Check that every type that people decided about is there, of the kind they gave it."""
    named, view = run.named, run.view
    kinds = {one.id: one.kind for one in proposal.types}
    decided = {view.resolve(name) for name in (*view.kinds, *view.names, *view.made)}
    placed = {named.type_ids[number] for number in named.placed.values()}
    made = set(view.made) - placed - {one.id for one in run.parts.types}  # none of their songs is left to tell them by
    wrong = [
        name
        for name, kind in zip(named.type_ids, named.kinds, strict=True)
        if kinds.get(name) != kind and (name in kinds or name in (decided | placed) - made)
    ]
    return GateCheck(
        name="decisions", passed=not wrong, value=float(len(wrong)), bound="0 broken", detail=", ".join(sorted(wrong))
    )
