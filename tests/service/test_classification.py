"""ClassifyRecording over a real port: what it says of good and of bad files."""

import io
import queue
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import soundfile
from grpc_status import rpc_status

from bad_recordings import REASONS, write_bad_recordings
from bundles import soundscape
from serving import ServerThread, failure, scrape
from songserve.servicers.classification import MEMORY_BYTES
from songserve.v1 import classification_pb2, classification_pb2_grpc

Request = classification_pb2.ClassifyRecordingRequest
Response = classification_pb2.ClassifyRecordingResponse


def upload(server: ServerThread, data: bytes, channel: int = 0, name: str = "a.wav") -> list[Response]:
    """Send one file; return every response."""
    requests = [Request(setup=classification_pb2.RecordingSetup(channel=channel, file_name=name))]
    requests += [Request(data=data[begin : begin + 200_000]) for begin in range(0, len(data), 200_000)]
    return call(server, requests)


def call(server: ServerThread, requests: Iterable[Request]) -> list[Response]:
    """Make the call; return every response."""
    stub: Any = classification_pb2_grpc.ClassificationServiceStub(server.channel)
    return list(stub.ClassifyRecording(iter(requests), timeout=60))


def refusal(server: ServerThread, requests: Iterable[Request]) -> tuple[str, str]:
    """Return code and reason of a call that fails."""
    with pytest.raises(grpc.RpcError) as failed:
        call(server, requests)
    return failure(failed.value)[:2]


def wav(samples: Any, rate: int = 24_000) -> bytes:
    """Return samples as a 16-bit WAV file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def test_songs_come_before_the_summary(shared_server: ServerThread) -> None:
    """A recording of three songs gives three songs in order and a summary that counts them."""
    samples, truth = soundscape([0, 1, 2], 21)
    *songs, last = upload(shared_server, wav(samples))
    assert [song.song.onset_s for song in songs] == pytest.approx([onset / 24_000 for onset, _, _ in truth], abs=0.2)
    assert last.summary.n_songs == 3
    assert last.summary.duration_s == pytest.approx(len(samples) / 24_000)
    assert last.summary.channel_count == 1
    assert songs[0].song.name == ""


def test_the_chosen_channel_is_heard(shared_server: ServerThread) -> None:
    """A song on the second channel only is found there, and a channel that is not there is an error."""
    samples, _ = soundscape([1], 22)
    noise = (0.002 * np.random.default_rng(1).standard_normal(len(samples))).astype(np.float32)
    data = wav(np.stack([noise, samples], axis=1))
    assert upload(shared_server, data, channel=1)[-1].summary.n_songs == 0
    assert upload(shared_server, data, channel=2)[-1].summary.n_songs == 1
    with pytest.raises(grpc.RpcError) as failed:
        upload(shared_server, data, channel=3)
    assert failure(failed.value)[:2] == ("INVALID_ARGUMENT", "CHANNEL_MISSING")


@pytest.mark.parametrize(("name", "reason"), sorted(REASONS.items()))
def test_bad_files_are_refused(shared_server: ServerThread, tmp_path: Path, name: str, reason: str) -> None:
    """Every kind of broken recording gets its reason, and the message names the file."""
    write_bad_recordings(tmp_path)
    with pytest.raises(grpc.RpcError) as failed:
        upload(shared_server, (tmp_path / name).read_bytes(), name=name)
    assert failure(failed.value)[:2] == ("INVALID_ARGUMENT", reason)


def test_a_flac_that_does_not_tell_its_length_is_refused(shared_server: ServerThread) -> None:
    """As encoders leave it that write to a pipe: 36 bits of the header are open (RFC 9639, section 8.2)."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(24_000, np.int16), 24_000, format="FLAC")
    whole = buffer.getvalue()
    data = whole[:21] + bytes([whole[21] & 0xF0, 0, 0, 0, 0]) + whole[26:]
    requests = [Request(setup=classification_pb2.RecordingSetup()), Request(data=data)]
    assert refusal(shared_server, requests) == ("INVALID_ARGUMENT", "LENGTH_MISSING")


def test_a_truncated_file_gives_what_it_holds(shared_server: ServerThread) -> None:
    """The songs of the part that is there are sent, then the call ends with TRUNCATED."""
    data = wav(soundscape([0, 1, 2], 23)[0])
    requests = [Request(setup=classification_pb2.RecordingSetup()), Request(data=data[: len(data) // 2])]
    stub: Any = classification_pb2_grpc.ClassificationServiceStub(shared_server.channel)
    responses = stub.ClassifyRecording(iter(requests), timeout=60)
    songs: list[Response] = []
    with pytest.raises(grpc.RpcError) as failed:
        songs.extend(iter(lambda: next(responses), None))
    assert failure(failed.value)[:2] == ("INVALID_ARGUMENT", "TRUNCATED")
    assert songs


@pytest.mark.parametrize("samples", [np.zeros(1), np.zeros(240_000), np.ones(1)])
def test_silence_and_a_single_sample_hold_no_songs(shared_server: ServerThread, samples: Any) -> None:
    """Such recordings are fine and empty."""
    (last,) = upload(shared_server, wav(samples))
    assert last.summary.n_songs == 0


def test_the_highest_rate_is_taken(shared_server: ServerThread) -> None:
    """A recording at 384 kHz is heard."""
    samples, _ = soundscape([0], 24, rate_hz=384_000)
    assert upload(shared_server, wav(samples, 384_000))[-1].summary.n_songs == 1


@pytest.mark.parametrize(
    ("requests", "reason"),
    [
        ([], "SETUP_INVALID"),
        ([Request(data=b"RIFF")], "SETUP_INVALID"),
        ([Request(setup=classification_pb2.RecordingSetup())] * 2, "SETUP_REPEATED"),
        ([Request(setup=classification_pb2.RecordingSetup()), Request()], "MESSAGE_INVALID"),
        ([Request(setup=classification_pb2.RecordingSetup())], "EMPTY_RECORDING"),
    ],
)
def test_the_order_of_messages_is_checked(shared_server: ServerThread, requests: list[Request], reason: str) -> None:
    """A setup, once, then data with content."""
    assert refusal(shared_server, requests) == ("INVALID_ARGUMENT", reason)


def test_an_upload_leaves_the_reserve_of_disk(start_server: Any) -> None:
    """An upload too large for memory is refused where it would take the room that commits need; a small one is not."""
    server = start_server(min_free_disk_mb=2**40)
    data = wav(np.zeros((MEMORY_BYTES - 44) // 2))
    assert len(data) == MEMORY_BYTES
    assert upload(server, data)[-1].summary.n_songs == 0
    setup = Request(setup=classification_pb2.RecordingSetup())
    requests = [setup, Request(data=data), Request(data=bytes(1))]
    assert refusal(server, requests) == ("RESOURCE_EXHAUSTED", "DISK_LOW")


class HalfSent:
    """An upload that goes on when it is told to."""

    def __init__(self, server: ServerThread, *data: bytes) -> None:
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        stub: Any = classification_pb2_grpc.ClassificationServiceStub(server.channel)
        self.call = stub.ClassifyRecording(iter(self._requests.get, None), timeout=60)
        self._requests.put(Request(setup=classification_pb2.RecordingSetup()))
        self.send(*data)

    def send(self, *data: bytes) -> None:
        """Send more of the file."""
        for part in data:
            self._requests.put(Request(data=part))

    def ends_with(self) -> grpc.RpcError:
        """Return the error that the call ends with."""
        with pytest.raises(grpc.RpcError) as ended:
            list(self.call)
        self._requests.put(None)
        return ended.value

    def leave(self) -> None:
        """Cancel the call."""
        self.call.cancel()
        self._requests.put(None)


def until_in_memory(server: ServerThread, n_bytes: int) -> None:
    """Wait until so many bytes wait in the server's memory, by its metrics."""
    deadline = time.monotonic() + 30
    while (found := in_memory(server)) != n_bytes:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def in_memory(server: ServerThread) -> int:
    """Return the bytes that wait in the server's memory."""
    (found,) = re.findall(r"^songstream_ingest_in_flight_bytes (\S+)$", scrape(server), re.MULTILINE)
    return int(float(found))


def test_uploads_share_the_memory_of_sound_that_waits(start_server: Any) -> None:
    """At the limit all go on; one byte more is refused, to come back; what ends, however it does, leaves its memory free."""
    server = start_server(max_in_flight_mb=1)
    first, second, third = (HalfSent(server, bytes(MEMORY_BYTES)) for _ in range(3))
    fourth, more = HalfSent(server, bytes(1)), HalfSent(server, bytes(1))
    until_in_memory(server, 3 * MEMORY_BYTES + 2)
    fourth.send(bytes(MEMORY_BYTES - 2))
    until_in_memory(server, 2**20)
    more.send(bytes(1))
    refused = more.ends_with()
    assert failure(refused)[:2] == ("UNAVAILABLE", "OVERLOADED")
    status = rpc_status.from_call(refused)
    assert status is not None
    assert [detail.type_url.rpartition(".")[2] for detail in status.details] == ["ErrorInfo", "RetryInfo"]
    until_in_memory(server, 2**20 - 1)
    first.leave()
    until_in_memory(server, 3 * MEMORY_BYTES - 1)
    second.send(bytes(1))  # too large for memory: from here on it lies on the disk
    until_in_memory(server, 2 * MEMORY_BYTES - 1)
    assert upload(server, wav(soundscape([0], 25)[0]))[-1].summary.n_songs == 1
    until_in_memory(server, 2 * MEMORY_BYTES - 1)
    for one in (second, third, fourth):
        one.leave()
    until_in_memory(server, 0)


def test_what_is_no_recording_leaves_its_memory_free(start_server: Any) -> None:
    """A file that cannot be read ends its call with that, and nothing of it is held."""
    server = start_server()
    with pytest.raises(grpc.RpcError):
        upload(server, bytes(1000))
    until_in_memory(server, 0)


def test_a_recording_has_a_longest_time(start_server: Any) -> None:
    """FLAC of a minute of silence, a few hundred bytes, is classified; a sample more is refused before it is unpacked."""
    server = start_server(max_recording_hours=1 / 60)
    setup = Request(setup=classification_pb2.RecordingSetup())
    for n_samples, fits in ((60 * 24_000, True), (60 * 24_000 + 1, False)):
        file = io.BytesIO()
        soundfile.write(file, np.zeros(n_samples, np.int16), 24_000, format="FLAC")
        assert len(file.getvalue()) < 2**16
        if fits:
            assert upload(server, file.getvalue())[-1].summary.n_songs == 0
        else:
            assert refusal(server, [setup, Request(data=file.getvalue())]) == (
                "RESOURCE_EXHAUSTED",
                "MESSAGE_TOO_LARGE",
            )


def test_a_file_has_a_largest_size(start_server: Any) -> None:
    """One byte more than the limit is refused, the limit itself is not."""
    server = start_server(max_recording_mb=1)
    data = wav(np.zeros((2**20 - 44) // 2))
    assert len(data) == 2**20
    assert upload(server, data)[-1].summary.n_songs == 0
    setup = Request(setup=classification_pb2.RecordingSetup())
    pieces = [Request(data=bytes(2**19)), Request(data=bytes(2**19 + 1))]
    assert refusal(server, [setup, *pieces]) == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")
