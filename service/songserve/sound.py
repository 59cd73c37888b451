"""What lies in the bytes of a chunk: samples, and what can be told from them at a glance. Pure: bytes in, arrays out."""

from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
import soundfile

from songcore.arrays import FloatArray
from songcore.audio import to_mono
from songcore.quality import FULL_SCALE
from songserve.records import AudioFormat
from songserve.refusal import Refusal

__all__ = ["FLAC_HEADER_BYTES", "Level", "check_flac", "decoded", "decoded_format", "level_of", "samples_of"]

FLAC_HEADER_BYTES = 42
"""``fLaC``, a block's header and STREAMINFO, which every FLAC stream begins with (RFC 9639, section 8.2)."""
MAX_EXPANSION = 4
"""Times `max_chunk_bytes` that a FLAC chunk may grow to: half an hour of silence would fit in a few bytes."""


@dataclass(frozen=True)
class Level:
    """How loud the samples of a chunk are."""

    start_sample: int
    n_samples: int
    is_constant: bool
    n_clipped: int


def check_flac(number: int, data: bytes, sample_count: int, audio_format: AudioFormat, *, max_chunk_bytes: int) -> None:
    """Raise Refusal CHUNK_CORRUPT or CHUNK_SHAPE when a FLAC chunk's header is not what it should be."""
    if len(data) < FLAC_HEADER_BYTES or data[:4] != b"fLaC" or data[4] & 0x7F:
        raise Refusal(
            f"chunk {number} is no FLAC stream; declare a gap in its place",
            reason="CHUNK_CORRUPT",
            sequence_number=number,
        )
    # STREAMINFO: after the block and frame sizes 20 bits of rate, 3 of channels - 1, 5 of bits - 1, 36 of samples.
    info = int.from_bytes(data[18:26], "big")
    rate, n_channels = info >> 44, (info >> 41 & 0x7) + 1
    n_bits, n_samples = (info >> 36 & 0x1F) + 1, info & (2**36 - 1)
    expected = audio_format.sample_rate_hz, audio_format.n_channels, sample_count
    if (rate, n_channels, n_samples) != expected or n_bits > 16 or sample_count < 1:
        raise Refusal(
            f"chunk {number} is FLAC of {rate} Hz, {n_channels} channels, {n_samples} samples and {n_bits} bits; expected "
            f"{expected[0]} Hz, {expected[1]} channels, {expected[2]} samples and at most 16 bits",
            reason="CHUNK_SHAPE",
            sequence_number=number,
        )
    if sample_count * audio_format.frame_bytes > MAX_EXPANSION * max_chunk_bytes:
        raise Refusal(
            f"chunk {number} takes {sample_count * audio_format.frame_bytes} bytes decoded; at most "
            f"{MAX_EXPANSION * max_chunk_bytes} are taken",
            reason="MESSAGE_TOO_LARGE",
            max_chunk_bytes=max_chunk_bytes,
        )


def decoded(number: int, data: bytes, sample_count: int, n_channels: int) -> bytes:
    """Return a FLAC chunk as interleaved 16-bit integers; raises Refusal CHUNK_CORRUPT.

    The buffer has the declared size, whatever the stream holds; what lies behind that is not looked at.
    """
    samples = np.empty((sample_count, n_channels), np.int16)
    try:
        with soundfile.SoundFile(BytesIO(data)) as file:
            n_read = len(file.read(dtype="int16", always_2d=True, out=samples))
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise _undecodable(number, str(error)) from error
    if n_read != sample_count:
        raise _undecodable(number, f"{n_read} samples where {sample_count} were declared")
    return samples.astype("<i2", copy=False).tobytes()


def decoded_format(audio_format: AudioFormat) -> AudioFormat:
    """Return the format of a session's chunks once they are decoded."""
    return replace(audio_format, encoding="linear16") if audio_format.encoding == "flac" else audio_format


def samples_of(data: bytes, audio_format: AudioFormat) -> FloatArray:
    """Return mono samples (n,) float32 in [-1, 1] of interleaved little-endian bytes."""
    if audio_format.encoding == "linear16":
        samples = np.frombuffer(data, "<i2").astype(np.float32)
        samples *= np.float32(1 / 32768)
    else:
        samples = np.frombuffer(data, "<f4").astype(np.float32, copy=False)
    return to_mono(samples.reshape(-1, audio_format.n_channels), audio_format.channel)


def level_of(samples: FloatArray, start_sample: int) -> Level:
    """Return how loud samples (n,) float32 are; of most chunks only the highest and the lowest are looked for."""
    high, low = samples.max(), samples.min()
    n_clipped = int(np.count_nonzero(np.abs(samples) >= FULL_SCALE)) if max(high, -low) >= FULL_SCALE else 0
    return Level(start_sample, len(samples), bool(high == low), n_clipped)


def _undecodable(number: int, problem: str) -> Refusal:
    return Refusal(
        f"chunk {number} cannot be decoded ({problem}); declare a gap in its place",
        reason="CHUNK_CORRUPT",
        sequence_number=number,
    )
