"""The catalogue and people's decisions about it to responses of `songserve.v1`."""

from collections.abc import Collection, Sequence

from songcore.decisions import Decision, Mark, Merge, Name, Split, Undo
from songserve.catalogue import TypeEntry
from songserve.responses import KINDS, decision_name, timestamp, type_name
from songserve.v1 import catalogue_pb2, songs_pb2, types_pb2

__all__ = ["decision_message", "decision_page", "song_type", "type_page"]


def song_type(entry: TypeEntry) -> types_pb2.SongType:
    """Return one type."""
    return types_pb2.SongType(
        name=type_name(entry.type_id),
        display_name=entry.name,
        kind=KINDS[entry.kind],
        n_songs=entry.n_songs,
        etag=entry.etag,
        merged=[type_name(type_id) for type_id in entry.merged],
        merged_into=type_name(entry.merged_into) if entry.merged_into else "",
        split_from=type_name(entry.split_from) if entry.split_from else "",
        exemplars=entry.exemplars,
        n_training_songs=entry.n_training_songs,
        retired=entry.retired,
        heirs=[type_name(type_id) for type_id in entry.heirs],
    )


def type_page(page: Sequence[TypeEntry], following: str) -> songs_pb2.ListSongTypesResponse:
    """Return one page of the catalogue."""
    return songs_pb2.ListSongTypesResponse(song_types=[song_type(one) for one in page], next_page_token=following)


def decision_message(decision: Decision, *, undone: bool) -> catalogue_pb2.Decision:
    """Return one decision."""
    message = catalogue_pb2.Decision(
        name=decision_name(decision.seq),
        time=timestamp(decision.time_ms),
        decided_by=decision.who,
        undone=undone,
    )
    match decision.action:
        case Undo(seq=seq):
            message.undid = decision_name(seq)
            return message
        case Name(name=name):
            message.display_name = name
        case Merge(into=into):
            message.merged_into = type_name(into)
        case Split(new_id=new_id, songs=songs):
            message.split.song_type, message.split.n_songs = type_name(new_id), len(songs)
        case Mark(kind=kind):
            message.kind = KINDS[kind]
    message.song_type = type_name(decision.action.type_id)
    return message


def decision_page(
    page: Sequence[Decision], undone: Collection[int], following: int | None
) -> catalogue_pb2.ListDecisionsResponse:
    """Return one page of decisions."""
    return catalogue_pb2.ListDecisionsResponse(
        decisions=[decision_message(one, undone=one.seq in undone) for one in page],
        next_page_token="" if following is None else str(following),
    )
