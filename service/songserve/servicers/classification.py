"""ClassificationService: songs of an uploaded recording, by the same stream and encoder as live sound."""

# ruff: noqa: N802 - the methods have the API's names

import tempfile
from collections.abc import AsyncIterator, Iterator
from typing import BinaryIO, cast

from songcore.assign import Assignment
from songcore.audio import Recording, open_recording
from songcore.bundle import Bundle
from songcore.errors import InputError
from songcore.stream import Song
from songserve.refusal import Refusal
from songserve.responses import recording_song, recording_summary
from songserve.runtime import Runtime
from songserve.servicers.calls import Context, admitted, answering, read_first, read_next, write_next
from songserve.v1 import classification_pb2, classification_pb2_grpc

__all__ = ["ClassificationServicer"]

MEMORY_BYTES = 256 * 1024
"""Uploads up to this size never touch the disk. Small, as the memory that they share with live sound is for that."""


class _Upload(tempfile.SpooledTemporaryFile[bytes]):
    """A temporary file that goes by the client's name in messages; what is in memory counts as such until it is closed."""

    def __init__(self, name: str, runtime: Runtime) -> None:
        super().__init__(max_size=MEMORY_BYTES, dir=str(runtime.upload_dir))
        self._client_name, self._runtime = name or "the recording", runtime
        self._n_held = 0
        self.n_bytes = 0

    @property
    def name(self) -> str:
        """What the client calls it."""
        return self._client_name

    async def take(self, data: bytes) -> None:
        """Add what came in; raises Refusal OVERLOADED or DISK_LOW."""
        self._runtime.take_bytes(len(data))
        self._n_held += len(data)
        self.n_bytes += len(data)
        if self.n_bytes > MEMORY_BYTES:
            self._runtime.store.check_disk()  # an upload must not take the room that commits need
        try:
            await self._runtime.read(self.write, data)
        except OSError as error:
            raise Refusal(f"there is no room for {self.name} ({error.strerror})", reason="DISK_LOW") from error
        if self.n_bytes > MEMORY_BYTES:
            self._release()

    def close(self) -> None:
        """Delete it."""
        self._release()
        super().close()

    def __exit__(self, *_: object) -> None:
        self.close()  # which that of a SpooledTemporaryFile does not call

    def _release(self) -> None:
        n_held, self._n_held = self._n_held, 0
        if n_held:
            self._runtime.hold_bytes(-n_held)


class ClassificationServicer(classification_pb2_grpc.ClassificationServiceServicer):
    """The gRPC side of recordings."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @answering
    async def ClassifyRecording(  # type: ignore[override] # gRPC also takes a coroutine that writes by itself
        self, requests: AsyncIterator[classification_pb2.ClassifyRecordingRequest], context: Context
    ) -> None:
        """Receive a file, then send its songs and a summary."""
        del requests  # read from the context one by one, with a time limit
        async with admitted(self._runtime):
            setup = (await read_first(context, self._runtime)).setup
            with _Upload(setup.file_name, self._runtime) as upload:
                await self._receive(upload, context)
                await self._classify(upload, setup.channel or None, context)

    async def _receive(self, upload: _Upload, context: Context) -> None:
        limit = self._runtime.settings.max_recording_mb * 2**20
        while (request := await read_next(context, self._runtime)) is not None:
            match request.WhichOneof("message"):
                case "data":
                    n_bytes = upload.n_bytes + len(request.data)
                case "setup":
                    raise Refusal("a recording has one setup, as its first message", reason="SETUP_REPEATED")
                case _:
                    raise Refusal("a message without content", reason="MESSAGE_INVALID")
            if n_bytes > limit:
                raise Refusal(
                    f"{upload.name} is larger than {limit // 2**20} MiB; classify it in parts",
                    reason="MESSAGE_TOO_LARGE",
                )
            await upload.take(request.data)
            del request  # holds its bytes until the next one comes
        upload.seek(0)

    def _check_length(self, recording: Recording) -> None:
        longest = self._runtime.settings.max_recording_hours
        hours = recording.n_samples / recording.sample_rate_hz / 3600
        if hours > longest:
            raise Refusal(
                f"{recording.name} lasts {hours:.1f} hours, more than {longest:g}; classify it in parts",
                reason="MESSAGE_TOO_LARGE",
            )

    async def _classify(self, upload: _Upload, channel: int | None, context: Context) -> None:
        # One bundle for the whole recording, whatever becomes active meanwhile.
        runtime, bundle = self._runtime, self._runtime.bundle
        # A SpooledTemporaryFile is a binary file in all but its declared type.
        recording = await runtime.listen(lambda: open_recording(cast("BinaryIO", upload), channel=channel))
        with recording:
            self._check_length(recording)
            pieces = _Songs(recording, bundle)
            names: list[Assignment] = []
            while (songs := await runtime.listen(next, pieces, None)) is not None:
                for song, name in zip(songs, await runtime.batcher.run(bundle.classify, songs), strict=True):
                    names.append(name)
                    await write_next(context, runtime, recording_song(song, name, bundle))
            if pieces.error:
                raise pieces.error
            summary = recording_summary(
                names,
                bundle,
                sample_rate_hz=recording.sample_rate_hz,
                n_channels=recording.n_channels,
                n_samples=pieces.n_samples,
            )
            await write_next(context, runtime, summary)


class _Songs(Iterator[list[Song]]):
    """The songs of a recording, some at a time; after the last, ``error`` says whether the recording was cut short."""

    def __init__(self, recording: Recording, bundle: Bundle) -> None:
        self._blocks = recording.blocks()
        self._stream = bundle.new_stream(recording.sample_rate_hz)
        self._finished = False
        self.n_samples = 0
        self.error: InputError | None = None

    def __next__(self) -> list[Song]:
        if self._finished:
            raise StopIteration
        try:
            block = next(self._blocks, None)
        except InputError as error:
            # What could be read is worth as much as ever.
            if error.reason != "TRUNCATED":
                raise
            self.error, block = error, None
        if block is None:
            self._finished = True
            return self._stream.finish()
        self.n_samples += len(block)
        return self._stream.push(block)
