"""What Prometheus sees of calls: each method of the service, with its messages."""

import re
from typing import Any

import grpc
import pytest

from bundles import soundscape
from serving import ServerThread, scrape, stream_all
from songserve.v1 import songs_pb2, songs_pb2_grpc

RATE = 24_000


def counts(server: ServerThread, metric: str, method: str) -> dict[str, float]:
    """Return a counter of a method by type of call, and code where it has one."""
    found = re.findall(rf"^grpc_server_{metric}_total{{(.*)}} (\S+)", scrape(server), re.MULTILINE)
    labelled = [(dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(n)) for labels, n in found]
    return {
        " ".join(filter(None, (labels["grpc_type"], labels.get("grpc_code")))): n
        for labels, n in labelled
        if labels["grpc_method"] == method
    }


def test_calls_of_every_kind_are_counted_with_their_messages(server: ServerThread) -> None:
    """Streams of both sides, of one side, and single requests; as the client counts them."""
    samples, _ = soundscape([0, 1], 5)
    responses = stream_all(server.channel, samples, [RATE])
    stub: Any = songs_pb2_grpc.SongServiceStub(server.channel)
    songs = stub.ListSongs(songs_pb2.ListSongsRequest()).songs
    pieces = list(stub.GetSongClip(songs_pb2.GetSongClipRequest(name=songs[0].name)))
    with pytest.raises(grpc.RpcError):
        list(stub.WatchSongs(songs_pb2.WatchSongsRequest(resume_token="none")))  # noqa: S106 - no secret
    n_chunks = -(-len(samples) // RATE)
    for method, kind, code, n_received, n_sent in (
        ("StreamAudio", "bidi_stream", "OK", n_chunks + 2, len(responses)),
        ("ListSongs", "unary", "OK", 1, 1),
        ("GetSongClip", "server_stream", "OK", 1, len(pieces)),
        ("WatchSongs", "server_stream", "INVALID_ARGUMENT", 1, 0),
    ):
        assert counts(server, "started", method) == {kind: 1}
        assert counts(server, "handled", method) == {f"{kind} {code}": 1}
        assert counts(server, "msg_received", method) == {kind: n_received}
        assert counts(server, "msg_sent", method) == {kind: n_sent}
