"""Whether a decision about song types makes sense after those before it. Pure.

What only a store can know, whether the songs of a split are of the type, is not looked at here.
"""

from collections.abc import Collection, Mapping, Sequence

from songcore.decisions import Action, Decision, Mark, Merge, Name, SoundKind, Split, Undo, View, apply, fold, type_ids
from songcore.errors import InputError
from songcore.manifest import SongType

__all__ = ["changes_nothing", "check_action", "completed", "display_name", "kind_of", "require_type"]

MAX_NAME = 80


def check_action(
    decisions: Sequence[Decision],
    action: Action,
    catalogue: Mapping[str, SongType],
    retired: Collection[str] = frozenset(),
) -> None:
    """Raise InputError unless the action makes sense; ``catalogue`` holds the bundle's types by id, ``retired`` former ids.

    Reasons: those of `require_type`; MERGE_WITH_ITSELF, KIND_MISMATCH; TYPE_NAME_INVALID, TYPE_NAME_TAKEN; and for an undo
    DECISION_UNKNOWN, DECISION_UNDONE, UNDO_INVALID, DECISION_NEEDED, DECISION_LEARNED.
    """
    view = fold(decisions)
    if isinstance(action, Undo):
        _check_undo(decisions, action, view, catalogue, retired)
        return
    # What a split makes is no type yet.
    for type_id in (action.type_id,) if isinstance(action, Split) else type_ids(action):
        require_type(type_id, view, catalogue, retired)
    _check_kinds(view, action, catalogue)
    if isinstance(action, Name):
        _check_name(action, view, catalogue)


def completed(
    action: Action, view: View, catalogue: Mapping[str, SongType], retired: Collection[str] = frozenset()
) -> Action:
    """Return the action with what follows from how things stand: the id that a split makes, and the kinds of types."""
    match action:
        case Merge(into=into):
            return action.model_copy(update={"sound": kind_of(into, view, catalogue)})
        case Split(type_id=type_id):
            new_id = view.next_id((*catalogue, *retired))
            return action.model_copy(update={"new_id": new_id, "sound": kind_of(type_id, view, catalogue)})
        case _:
            return action


def changes_nothing(action: Action, view: View, catalogue: Mapping[str, SongType]) -> bool:
    """Return whether what the action says is so already."""
    match action:
        case Name(type_id=type_id, name=""):
            return type_id not in view.names
        case Name(type_id=type_id, name=name):
            return display_name(type_id, view, catalogue) == name
        case Mark(type_id=type_id, kind=kind):
            return kind_of(type_id, view, catalogue) == kind
        case _:
            return False


def require_type(type_id: str, view: View, catalogue: Mapping[str, SongType], retired: Collection[str]) -> None:
    """Raise InputError unless the id stands for a type now: TYPE_MERGED, TYPE_RETIRED or TYPE_UNKNOWN."""
    into = view.resolve(type_id)
    if type_id in view.merged:
        raise InputError(
            f"{type_id} was merged into {into}; decide about {into}, or undo the merge", reason="TYPE_MERGED"
        )
    if type_id in view.withdrawn:
        raise InputError(
            f"{type_id} was made by a split that was undone, its songs are of {into}; decide about {into}",
            reason="TYPE_RETIRED",
        )
    if type_id in catalogue or (type_id in view.made and type_id not in retired):
        return
    if type_id in retired or type_id in view.touched:
        raise InputError(
            f"{type_id} is no longer in the catalogue of the bundle being served; show it for what became of it",
            reason="TYPE_RETIRED",
        )
    raise InputError(f"there is no song type {type_id}; list the types for those there are", reason="TYPE_UNKNOWN")


def kind_of(type_id: str, view: View, catalogue: Mapping[str, SongType]) -> SoundKind:
    """Return what people, or else the bundle, say a type is."""
    return _kind(type_id, view, catalogue) or "song"


def display_name(type_id: str, view: View, catalogue: Mapping[str, SongType]) -> str:
    """Return what people, or else the bundle, call a type; empty when neither gave it a name."""
    known = catalogue.get(type_id)
    return view.names.get(type_id) or (known.name if known else "")


def _kind(type_id: str, view: View, catalogue: Mapping[str, SongType]) -> SoundKind | None:
    known = catalogue.get(type_id)
    return view.kinds.get(type_id) or (known.kind if known else None)


def _check_kinds(view: View, action: Action, catalogue: Mapping[str, SongType]) -> None:
    """Refuse what does not fit to how things stand, whatever is known of the types beyond that."""
    match action:
        case Merge(type_id=type_id, into=into) if type_id == into:
            raise InputError(f"{type_id} cannot be merged with itself; name two types", reason="MERGE_WITH_ITSELF")
        case Merge(type_id=type_id, into=into, sound=sound):
            kinds = [_kind(one, view, catalogue) for one in (type_id, into)]
            if any(kind not in {None, sound} for kind in kinds):
                raise InputError(
                    f"{type_id} is {kinds[0]} and {into} is {kinds[1]}; mark one of them first, so that both are the same",
                    reason="KIND_MISMATCH",
                )
        case _:
            pass


def _check_name(action: Name, view: View, catalogue: Mapping[str, SongType]) -> None:
    name = action.name
    if len(name) > MAX_NAME or not name.isprintable() or name != name.strip():
        raise InputError(
            f"a name of {len(name)} characters, or with others than printable ones, or blanks around; give at most "
            f"{MAX_NAME} printable characters",
            reason="TYPE_NAME_INVALID",
        )
    for other in {*catalogue, *view.made} - {action.type_id}:
        if name and view.resolve(other) == other and display_name(other, view, catalogue) == name:
            raise InputError(f"{other} is called {name!r}; give each type a name of its own", reason="TYPE_NAME_TAKEN")


def _check_undo(
    decisions: Sequence[Decision],
    undo: Undo,
    view: View,
    catalogue: Mapping[str, SongType],
    retired: Collection[str],
) -> None:
    target = next((one for one in decisions if one.seq == undo.seq), None)
    if target is None:
        raise InputError(f"there is no decision {undo.seq}; the history has their numbers", reason="DECISION_UNKNOWN")
    if isinstance(target.action, Undo):
        raise InputError(f"decision {undo.seq} is an undo; decide anew instead", reason="UNDO_INVALID")
    if undo.seq in view.undone:
        raise InputError(f"decision {undo.seq} was undone before", reason="DECISION_UNDONE")
    without = View()
    for one in decisions:
        if one.seq in view.undone or one.seq == undo.seq:
            continue
        if one.seq > undo.seq and not _fits(without, one.action, target.action, catalogue):
            raise InputError(
                f"decision {one.seq} ({one.action.kind}, by {one.who}) rests on decision {undo.seq}; undo that one first",
                reason="DECISION_NEEDED",
            )
        apply(without, one.action)
    if instead := _learned(target.action, without, catalogue, retired):
        raise InputError(
            f"decision {undo.seq} cannot be undone, for the bundle being served has learned it: {instead}",
            reason="DECISION_LEARNED",
        )


def _learned(action: Action, without: View, catalogue: Mapping[str, SongType], retired: Collection[str]) -> str | None:
    """Return what to do instead where an undo would change nothing or half of it; ``without`` is how things would stand."""
    known = catalogue.get(action.type_id) if isinstance(action, Name | Mark) else None
    match action:
        case Merge(type_id=type_id, into=into) if type_id in retired:
            return f"it names no song {type_id} any more; split the songs off {into}"
        case Name(type_id=type_id, name=name) if known and name == known.name and type_id not in without.names:
            return "give the type another name"
        case Mark(type_id=type_id, kind=kind) if known and kind == known.kind and type_id not in without.kinds:
            return f"mark {type_id} as {'song' if kind == 'noise' else 'noise'}"
        case _:
            return None


def _fits(view: View, action: Action, undone: Action, catalogue: Mapping[str, SongType]) -> bool:
    """Return whether a later action still makes sense without the undone one."""
    if isinstance(undone, Split) and undone.new_id in type_ids(action):
        return False
    if not isinstance(action, Merge):
        return True
    kinds = [_kind(one, view, catalogue) for one in (action.type_id, action.into)]
    return all(kind in {None, action.sound} for kind in kinds)
