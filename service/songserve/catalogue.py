"""The catalogue as people see it: the types of a bundle and those that people made, by people's decisions. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from songcore.bundle import Bundle
from songcore.deciding import display_name, kind_of, require_type
from songcore.decisions import Action, Decision, SoundKind, Undo, View, type_ids
from songcore.errors import InputError
from songcore.lineage import current_ids
from songserve.tally import Tally

__all__ = ["TypeEntry", "entries", "entry", "history", "page_of"]


@dataclass(frozen=True)
class TypeEntry:
    """One type as it is now."""

    type_id: str
    name: str
    kind: SoundKind
    n_songs: int
    """Songs stored of it, by people's decisions, novel ones excluded."""
    etag: str
    merged: tuple[str, ...] = ()
    """Ids whose songs count here."""
    merged_into: str | None = None
    split_from: str | None = None
    exemplars: tuple[str, ...] = ()
    n_training_songs: int = 0
    retired: bool = False
    """A retraining ended it: the bundle names no song so any more."""
    heirs: tuple[str, ...] = ()
    """Under which ids the songs of a retired type are found now."""


def entries(bundle: Bundle, view: View, tally: Tally) -> list[TypeEntry]:
    """Return every type, by id: the bundle's, those that people made, and retired ones that songs are still counted under.

    Types that people merged are not among them; ``tally`` is by people's decisions.
    """
    retired = bundle.manifest.retired
    counted = {type_id for type_id in retired if tally.songs.get(type_id) or tally.noise.get(type_id)}
    ids = {*bundle.type_by_id, *(set(view.made) - retired), *counted}
    return [_entry(type_id, view, bundle, tally) for type_id in sorted(ids) if view.resolve(type_id) == type_id]


def entry(type_id: str, bundle: Bundle, view: View, tally: Tally) -> TypeEntry:
    """Return one type, also one that was merged or retired; raises InputError TYPE_UNKNOWN."""
    try:
        require_type(type_id, view, bundle.type_by_id, bundle.manifest.retired)
    except InputError as error:
        if error.reason == "TYPE_UNKNOWN":
            raise
    return _entry(type_id, view, bundle, tally)


def _entry(type_id: str, view: View, bundle: Bundle, tally: Tally) -> TypeEntry:
    catalogue = bundle.type_by_id
    known = catalogue.get(type_id)
    retired = known is None and type_id in bundle.manifest.retired
    end = view.resolve(type_id)
    kind = kind_of(type_id, view, catalogue)
    return TypeEntry(
        type_id=type_id,
        name=display_name(type_id, view, catalogue),
        kind=kind,
        n_songs=(tally.noise if kind == "noise" else tally.songs).get(type_id, 0),
        etag=view.etag(type_id),
        merged=tuple(view.members(type_id)[1:]),
        merged_into=None if end == type_id else end,
        split_from=view.made.get(type_id) or view.withdrawn.get(type_id),
        exemplars=known.exemplars if known else (),
        n_training_songs=known.n_songs if known else 0,
        retired=retired,
        heirs=current_ids(type_id, bundle.manifest.lineage) if retired else (),
    )


def history(
    decisions: Sequence[Decision], type_id: str | None, before: int | None, size: int
) -> tuple[list[Decision], int | None]:
    """Return up to ``size`` decisions, the newest first, and the number before which more follow.

    Only those about a type, and below a number, where these are given; an undo is about what it undoes.
    """
    actions = {one.seq: one.action for one in decisions}

    def about(action: Action) -> tuple[str, ...]:
        return about(actions[action.seq]) if isinstance(action, Undo) else type_ids(action)

    found = [
        one
        for one in reversed(decisions)
        if (before is None or one.seq < before) and (type_id is None or type_id in about(one.action))
    ]
    return found[:size], found[size - 1].seq if len(found) > size else None


def page_of(found: Sequence[TypeEntry], after: str, size: int) -> tuple[list[TypeEntry], str]:
    """Return up to ``size`` entries whose ids come after one, and the last id when more follow."""
    rest = [one for one in found if one.type_id > after]
    page = rest[:size]
    return page, page[-1].type_id if len(rest) > size else ""
