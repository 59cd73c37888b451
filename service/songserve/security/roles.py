"""Which roles may call which RPC. What does not stand here nobody may call, and a test compares with the API.

``ingest`` is a station: it sends sound, and asks about its own sessions only. ``read`` is a person or program that looks at
results. ``admin`` may do all that ``read`` may, and change things: what is kept, what types are, which bundle decides; it
starts and ends processes on the server. Sound is sent by stations alone.
"""

from collections.abc import Mapping
from typing import Literal

__all__ = ["PUBLIC", "ROLES", "Role", "roles_of"]

Role = Literal["ingest", "read", "admin"]

_ANYONE: frozenset[Role] = frozenset({"ingest", "read", "admin"})
_STATION: frozenset[Role] = frozenset({"ingest"})
_OWN: frozenset[Role] = frozenset({"ingest", "read", "admin"})
"""A caller with the role ingest must name a session of its own station."""
_READ: frozenset[Role] = frozenset({"read", "admin"})
_ADMIN: frozenset[Role] = frozenset({"admin"})

_INGEST, _SONGS = "/songserve.v1.IngestService", "/songserve.v1.SongService"
_CATALOGUE = "/songserve.v1.CatalogueService"
_RECLUSTER = "/songserve.v1.ReclusterService"
_MODELS, _CLASSIFICATION = "/songserve.v1.ModelBundleService", "/songserve.v1.ClassificationService"

ROLES: Mapping[str, frozenset[Role]] = {
    f"{_INGEST}/StreamAudio": _STATION,
    f"{_INGEST}/GetSessionStatus": _OWN,
    f"{_INGEST}/FinishSession": frozenset({"ingest", "admin"}),
    f"{_CLASSIFICATION}/ClassifyRecording": _READ,
    f"{_SONGS}/GetSong": _READ,
    # A station fetches the songs that it missed while it was disconnected.
    f"{_SONGS}/ListSongs": _OWN,
    f"{_SONGS}/WatchSongs": _READ,
    f"{_SONGS}/GetSongClip": _READ,
    f"{_SONGS}/KeepSongClip": _ADMIN,
    f"{_SONGS}/ListSongTypes": _READ,
    f"{_SONGS}/QueryFrequencies": _READ,
    f"{_CATALOGUE}/GetSongType": _READ,
    f"{_CATALOGUE}/NameSongType": _ADMIN,
    f"{_CATALOGUE}/MergeSongTypes": _ADMIN,
    f"{_CATALOGUE}/SplitSongType": _ADMIN,
    f"{_CATALOGUE}/MarkSongType": _ADMIN,
    f"{_CATALOGUE}/UndoDecision": _ADMIN,
    f"{_CATALOGUE}/ListDecisions": _READ,
    f"{_MODELS}/GetModelBundle": _READ,
    f"{_MODELS}/ListModelBundles": _READ,
    f"{_MODELS}/ListModelBundleEvents": _READ,
    f"{_MODELS}/GetShadow": _READ,
    f"{_MODELS}/ValidateModelBundle": _ADMIN,
    f"{_MODELS}/ActivateModelBundle": _ADMIN,
    f"{_MODELS}/RollbackModelBundle": _ADMIN,
    f"{_MODELS}/ListRetypings": _READ,
    f"{_MODELS}/AddRetypings": _ADMIN,
    f"{_MODELS}/StartShadow": _ADMIN,
    f"{_MODELS}/StopShadow": _ADMIN,
    f"{_RECLUSTER}/StartReclustering": _ADMIN,
    f"{_RECLUSTER}/GetReclustering": _READ,
    f"{_RECLUSTER}/ListReclusterings": _READ,
    f"{_RECLUSTER}/CancelReclustering": _ADMIN,
}

PUBLIC = frozenset(
    {
        # Probes of an orchestrator have no token, and learn whether the server is up.
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Watch",
    }
)
"""Called without any credentials."""

_REFLECTION = frozenset(
    {
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }
)


def roles_of(method: str) -> frozenset[Role]:
    """Return who may call a method, ``/package.Service/Method``; nobody when it is not known."""
    return _ANYONE if method in _REFLECTION else ROLES.get(method, frozenset())
