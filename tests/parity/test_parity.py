"""The same samples give the same songs offline, through ClassifyRecording, and through StreamAudio in random chunks."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from google_crc32c import value as crc32c

from bundles import make_test_bundle, soundscape
from serving import ServerThread, Stream, session_name, setup
from songcore.audio import open_recording
from songcore.bundle import Bundle
from songserve.v1 import classification_pb2, classification_pb2_grpc, ingest_pb2, types_pb2

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
Row = tuple[int, int, str, bool]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerThread, Bundle]]:
    """Return a server and its bundle."""
    folder = tmp_path_factory.mktemp("parity")
    bundle = make_test_bundle(folder / "bundle")
    with ServerThread(bundle, folder / "data") as server:
        yield server, bundle


def rows(songs: list[types_pb2.Song]) -> list[Row]:
    """Return what must be equal of songs that came over the wire."""
    return [
        (song.onset_sample, song.offset_sample, song.song_type.removeprefix("songTypes/"), song.is_novel)
        for song in songs
    ]


def offline(bundle: Bundle, path: Path) -> list[Row]:
    """Return the songs of a file, found without a server, all samples at once."""
    with open_recording(path) as recording:
        samples = np.concatenate(list(recording.blocks()))
        stream = bundle.new_stream(recording.sample_rate_hz)
    songs = stream.push(samples) + stream.finish()
    names = bundle.classify(songs)
    return [(song.onset, song.offset, name.type_id, name.is_novel) for song, name in zip(songs, names, strict=True)]


def classified(server: ServerThread, path: Path) -> list[Row]:
    """Return the songs of an uploaded file."""
    requests = [
        classification_pb2.ClassifyRecordingRequest(setup=classification_pb2.RecordingSetup(file_name=path.name))
    ]
    data = path.read_bytes()
    requests += [
        classification_pb2.ClassifyRecordingRequest(data=data[begin : begin + 300_000])
        for begin in range(0, len(data), 300_000)
    ]
    stub: Any = classification_pb2_grpc.ClassificationServiceStub(server.channel)
    responses = list(stub.ClassifyRecording(iter(requests), timeout=120))
    assert responses[-1].summary.n_songs == len(responses) - 1
    return rows([response.song for response in responses[:-1]])


def streamed(server: ServerThread, path: Path, *, seed: int) -> list[Row]:
    """Return the songs of a file's samples, sent in chunks of random length from one to 60,000 samples."""
    samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
    n_channels = samples.shape[1]
    rng = np.random.default_rng(seed)
    stream = Stream(server.channel, setup(session_name("parity", seed), rate=rate, n_channels=n_channels))
    number, position = 0, 0
    while position < len(samples):
        piece = samples[position : position + int(rng.integers(1, 60_000))]
        data = piece.astype("<i2").tobytes()
        number += 1
        stream.send(
            ingest_pb2.Chunk(
                sequence_number=number, start_sample=position, sample_count=len(piece), data=data, crc32c=crc32c(data)
            )
        )
        position += len(piece)
    finish = ingest_pb2.Finish(last_sequence_number=number, total_samples=position)
    stream.send(ingest_pb2.StreamAudioRequest(finish=finish))
    responses = list(stream)
    stream.half_close()
    return rows([response.song.song for response in responses if response.HasField("song")])


@pytest.mark.parametrize(("rate", "n_channels"), [(24_000, 1), (44_100, 2), (48_000, 1)])
def test_a_soundscape_gives_the_same_songs_everywhere(
    served: tuple[ServerThread, Bundle], tmp_path: Path, rate: int, n_channels: int
) -> None:
    """Onsets, offsets, types and novelty are equal by all three ways, for a file of 16-bit samples."""
    server, bundle = served
    samples, truth = soundscape([0, 1, 2, 5, 3, 4], 11, rate_hz=rate)
    path = tmp_path / "soundscape.wav"
    soundfile.write(path, np.repeat(samples[:, None], n_channels, axis=1), rate, subtype="PCM_16")
    expected = offline(bundle, path)
    assert len(expected) == len(truth)
    assert classified(server, path) == expected
    for seed in (rate, rate + 1):
        assert streamed(server, path, seed=seed) == expected


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason="the real recordings are not beside this checkout")
@pytest.mark.parametrize("name", ["soundscape/soundscape.flac", "nightingale/qtux__nightingale.ogg"])
def test_real_recordings_give_the_same_songs_everywhere(
    served: tuple[ServerThread, Bundle], tmp_path: Path, name: str
) -> None:
    """Onsets, offsets, types and novelty are equal by all three ways, for real soundscapes."""
    server, bundle = served
    samples, rate = soundfile.read(REAL / name, dtype="int16", always_2d=True)
    path = tmp_path / "real.wav"
    soundfile.write(path, samples, rate, subtype="PCM_16")
    expected = offline(bundle, path)
    assert expected or name.startswith("soundscape")
    assert classified(server, path) == expected
    assert streamed(server, path, seed=len(name)) == expected


def test_every_encoding_of_the_same_samples_gives_the_same_songs(
    served: tuple[ServerThread, Bundle], tmp_path: Path
) -> None:
    """A FLAC gives the songs of the WAV it was made from."""
    server, bundle = served
    samples, _ = soundscape([2, 0], 12)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 24_000, format="WAV", subtype="PCM_16")
    pcm, rate = soundfile.read(io.BytesIO(buffer.getvalue()), dtype="int16")
    paths = [tmp_path / name for name in ("a.wav", "a.flac")]
    for path in paths:
        soundfile.write(path, pcm, rate)
    assert classified(server, paths[1]) == classified(server, paths[0]) == offline(bundle, paths[0])
