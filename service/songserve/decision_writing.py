"""Writes a decision into the store, with what follows from it there: songs that are placed elsewhere are counted there."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from sqlalchemy import ColumnElement, Connection, bindparam, func, insert, select, update

from songcore.deciding import changes_nothing, check_action, completed
from songcore.decisions import Action, Decision, Split, Undo, View, fold, write_action
from songcore.manifest import SongType
from songserve.records import StoredSong
from songserve.refusal import Refusal
from songserve.schema import SONG_COLUMNS, decisions, songs
from songserve.verdicts import is_of_type

__all__ = ["MAX_SPLIT", "Intent", "SongCounter", "decide"]

MAX_SPLIT = 10_000
"""Songs in one split."""
SONGS_AT_ONCE = 500
"""Far below the number of parameters that SQLite takes."""
MAX_NAMED = 3

_LAST_SONG = select(func.coalesce(func.max(songs.c.seq), 0))
_PLACE = update(songs).where(songs.c.uid == bindparam("key")).values(placed_in=bindparam("place"))

SongCounter = Callable[[StoredSong, int], None]
"""Counts a song in its buckets, or with -1 out of them."""


@dataclass(frozen=True)
class Intent:
    """What somebody wants to be decided; ids and kinds that only the store knows are filled in there."""

    action: Action
    who: str
    time_ms: int
    etags: Mapping[str, str]
    """By type id, as they were when the person looked."""
    catalogue: Mapping[str, SongType]
    """The types of the bundle being served, by id."""
    retired: Collection[str] = frozenset()
    """Ids that name no type of it any more."""


def decide(connection: Connection, known: Sequence[Decision], intent: Intent, count: SongCounter) -> Decision | None:
    """Write the decision after the ``known`` ones and return it; None, and nothing written, when it is so already.

    Raises Refusal ETAG_MISMATCH, SPLIT_EMPTY, SPLIT_TOO_LARGE, SPLIT_FOREIGN, SPLIT_ALL or SONG_UNKNOWN, or InputError of
    `songcore.deciding`; then nothing is written either.
    """
    view = fold(known)
    for type_id, etag in intent.etags.items():
        if etag != view.etag(type_id):
            raise Refusal(
                f"somebody decided about {type_id} since its etag {etag} was given; look again and decide anew",
                reason="ETAG_MISMATCH",
            )
    action = completed(intent.action, view, intent.catalogue, intent.retired)
    check_action(known, action, intent.catalogue, intent.retired)
    if changes_nothing(action, view, intent.catalogue):
        return None
    if isinstance(action, Split):
        action = action.model_copy(update={"last_song": connection.execute(_LAST_SONG).scalar_one()})
    decision = Decision(view.last_seq + 1, intent.time_ms, intent.who, action)
    if isinstance(action, Split):
        places = _split(connection, action, view)
    elif isinstance(action, Undo):
        places = _undo(connection, known, decision)
    else:
        places = []
    row = {"seq": decision.seq, "time_ms": decision.time_ms, "who": decision.who, "action": write_action(action)}
    connection.execute(insert(decisions), row)
    _place(connection, places, count)
    return decision


def _split(connection: Connection, split: Split, view: View) -> list[tuple[StoredSong, str | None]]:
    """Return the songs of a split with their new place."""
    wanted = dict.fromkeys(split.songs)
    if not wanted:
        raise Refusal("no songs to split off; name some", reason="SPLIT_EMPTY")
    if len(wanted) > MAX_SPLIT:
        raise Refusal(
            f"{len(wanted)} songs are to be split off, at most {MAX_SPLIT} are in one split; leave more to a "
            "model that is trained anew",
            reason="SPLIT_TOO_LARGE",
        )
    found = {song.uid: song for part in _parts(wanted) for song in _songs(connection, songs.c.uid.in_(part))}
    if missing := [uid for uid in wanted if uid not in found]:
        raise Refusal(f"{_some(missing)} not stored here; list the songs of the type", reason="SONG_UNKNOWN")
    foreign = [uid for uid in wanted if view.resolve(found[uid].placed_in or found[uid].type_id) != split.type_id]
    if foreign:
        raise Refusal(
            f"{_some(foreign)} not of {split.type_id}; name only songs of the type to be split", reason="SPLIT_FOREIGN"
        )
    of_type = select(songs.c.uid).where(is_of_type(split.type_id, view)).limit(len(wanted) + 1)
    known = set(connection.execute(of_type).scalars())
    if known and known <= found.keys():
        raise Refusal(
            f"all {len(known)} songs of {split.type_id} are to be split off, which leaves none; name the type anew instead",
            reason="SPLIT_ALL",
        )
    return [(found[uid], split.new_id) for uid in wanted]


def _undo(connection: Connection, known: Sequence[Decision], undo: Decision) -> list[tuple[StoredSong, str | None]]:
    """Return the songs that an undone split had placed, with the place that they had before."""
    after = fold((*known, undo))
    (undone,) = (one.action for one in known if isinstance(undo.action, Undo) and one.seq == undo.action.seq)
    if not isinstance(undone, Split):
        return []
    # Songs that came later, and that the split's songs had drawn to it, go back to the type itself.
    before = undone.type_id if undone.type_id in after.made else None
    return [
        (song, after.placed.get(song.uid, before)) for song in _songs(connection, songs.c.placed_in == undone.new_id)
    ]


def _place(connection: Connection, places: Iterable[tuple[StoredSong, str | None]], count: SongCounter) -> None:
    rows = []
    for song, place in places:
        count(song, -1)
        count(replace(song, placed_in=place), 1)
        rows.append({"key": song.uid, "place": place})
    if rows:
        connection.execute(_PLACE, rows)


def _songs(connection: Connection, condition: ColumnElement[bool]) -> list[StoredSong]:
    rows = connection.execute(select(*SONG_COLUMNS).where(condition)).mappings()
    return [StoredSong(**row) for row in rows]


def _parts(uids: Iterable[str]) -> Iterator[list[str]]:
    left = iter(uids)
    while part := list(islice(left, SONGS_AT_ONCE)):
        yield part


def _some(uids: Sequence[str]) -> str:
    more = f" and {len(uids) - MAX_NAMED} more are" if len(uids) > MAX_NAMED else " is" if len(uids) == 1 else " are"
    return ", ".join(uids[:MAX_NAMED]) + more
