"""What a server keeps of a song for those who look for new types: state, grade, embedding, features, and the pool."""

import sqlite3
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from bundles import soundscape
from serving import ServerThread, stream_all
from songcore.bundle import Bundle
from songcore.features import unpack_features
from songserve.database import DATABASE_NAME
from songserve.v1 import songs_pb2, songs_pb2_grpc, types_pb2

RATE = 24_000


def test_songs_are_kept_as_the_encoder_saw_them_and_what_it_made_of_them(bundle: Bundle, tmp_path: Path) -> None:
    """Streamed songs are stored with the states, embeddings and, beside their clips, features that they have offline."""
    samples, _ = soundscape([0, 5, 1, 5], 51)
    samples[RATE * 2 // 3 :] *= np.linspace(1, 0.5, len(samples) - RATE * 2 // 3, dtype=np.float32)
    stream = bundle.new_stream(RATE)
    expected = stream.push(np.round(samples * 32768).clip(-32768, 32767).astype(np.float32) / np.float32(32768))
    expected += stream.finish()
    named = bundle.classify(expected)
    with ServerThread(bundle, tmp_path) as server:
        stream_all(server.channel, samples, [RATE])
        stub: Any = songs_pb2_grpc.SongServiceStub(server.channel)
        listed = stub.ListSongs(songs_pb2.ListSongsRequest(include_noise=True)).songs
        pool = stub.ListSongs(songs_pb2.ListSongsRequest(only_pool=True)).songs
    states = {
        "known": types_pb2.NOVELTY_KNOWN,
        "uncertain": types_pb2.NOVELTY_UNCERTAIN,
        "novel": types_pb2.NOVELTY_NOVEL,
    }
    assert [song.novelty for song in listed] == [states[name.novelty] for name in named]
    assert {song.quality for song in listed} == {types_pb2.SONG_QUALITY_GOOD}
    assert (
        [song.name for song in pool] == [song.name for song in listed if song.novelty != types_pb2.NOVELTY_KNOWN] != []
    )
    with sqlite3.connect(tmp_path / DATABASE_NAME) as store:
        vectors = dict(store.execute("SELECT song, vector FROM embeddings").fetchall())
    store.close()
    for song, heard, name in zip(listed, expected, named, strict=True):
        uid = str(UUID(song.name.removeprefix("songs/")))
        np.testing.assert_array_equal(np.frombuffer(vectors[uid], "<f4"), name.embedding)
        (file,) = tmp_path.glob(f"clips/*/*/{uid}.npz")
        np.testing.assert_allclose(unpack_features(file.read_bytes()), heard.features, atol=0.003)
