"""What each stage of listening costs for a second of sound, many streams in turns in one thread, chunk by chunk.

The last line is JSON, in milliseconds of processor time for each second of audio. What `bench/serve.py` measures beyond their
sum is gRPC, TLS, the event loop, the store and the waking of threads.

check, decode        checksum of a chunk; its bytes to samples
resample, log_mel, segment    the stages of a stream
checkpoint           a stream's state, every second chunk
features, name       of the songs alone: cutting them out; encoder and catalogue, as many at a time as ``--batch``
clip                 a song with half a second before and after it as FLAC
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from google_crc32c import value as crc32c
from serve import DEMO_BUNDLE, sounds

from songcore.bundle import Bundle, load_bundle
from songcore.features import song_features
from songcore.frontend import LogMel
from songcore.resample import Resampler
from songcore.segment import Segmenter
from songcore.stream import Song, SongStream
from songserve.records import AudioFormat
from songserve.sound import samples_of

RATE_HZ = 48_000
FORMAT = AudioFormat("linear16", RATE_HZ, 1, None)
N_RECORDINGS = 5
ROLL_S = 1.0
"""Before and after a song, together."""


class Stopwatch:
    """Adds up processor time by stage."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        began = time.thread_time()
        yield
        self.seconds[name] += time.thread_time() - began


class Stages:
    """The stages of one stream, each by itself, beside the stream that they make."""

    def __init__(self, bundle: Bundle) -> None:
        config = bundle.stream_config
        self._resampler = Resampler(RATE_HZ, config.frontend.sample_rate_hz)
        self._log_mel = LogMel(config.frontend)
        self._segmenter = Segmenter(config.segmenter, config.frontend)
        self._stream: SongStream = bundle.new_stream(RATE_HZ)

    def push(self, data: bytes, watch: Stopwatch, *, due: bool) -> list[Song]:
        """Take a chunk through the stages; return the stream's songs."""
        with watch.stage("check"):
            crc32c(data)
        with watch.stage("decode"):
            samples = samples_of(data, FORMAT)
        with watch.stage("resample"):
            resampled = self._resampler.push(samples)
        with watch.stage("log_mel"):
            frames = self._log_mel.push(resampled)
        with watch.stage("segment"):
            self._segmenter.push(frames)
        songs = self._stream.push(samples)
        with watch.stage("checkpoint"):
            if due:
                self._stream.checkpoint()
        return songs


def finish(songs: list[Song], bundle: Bundle, sound: Any, batch: int, watch: Stopwatch) -> None:
    """Do what is done with songs: features, names, clips."""
    config = bundle.stream_config
    for song in songs:
        n_frames = (song.offset - song.onset) // config.frontend.hop
        frames = np.zeros((n_frames, config.frontend.n_mels), np.float32)
        with watch.stage("features"):
            song_features(frames, frames[0], config.frontend, config.features)
        n = round(((song.offset - song.onset) / config.frontend.sample_rate_hz + ROLL_S) * RATE_HZ)
        with watch.stage("clip"), soundfile.SoundFile(BytesIO(), "w", RATE_HZ, 1, "PCM_16", format="FLAC") as file:
            file.write(sound[:n])
    for first in range(0, len(songs), batch):
        with watch.stage("name"):
            bundle.classify(songs[first : first + batch])


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the streams; return the fields of the JSON line."""
    bundle = load_bundle(arguments.bundle, device="cpu")
    pcm = sounds(N_RECORDINGS, arguments.seconds, RATE_HZ, RATE_HZ)
    streams, watch = [Stages(bundle) for _ in range(arguments.streams)], Stopwatch()
    songs: list[Song] = []
    for second in range(arguments.seconds):
        for number, stream in enumerate(streams):
            chunk = pcm[number % N_RECORDINGS][second * RATE_HZ : (second + 1) * RATE_HZ].tobytes()
            songs += stream.push(chunk, watch, due=second % 2 == 1)
    finish(songs, bundle, pcm[0], arguments.batch, watch)
    audio_s = arguments.streams * arguments.seconds
    stages = {name: round(1000 * seconds / audio_s, 3) for name, seconds in watch.seconds.items()}
    return {
        "streams": arguments.streams,
        "seconds": arguments.seconds,
        "batch": arguments.batch,
        "bundle": bundle.manifest.name,
        "songs_per_audio_second": round(len(songs) / audio_s, 3),
        "ms_per_audio_second": stages,
        "sum_ms_per_audio_second": round(sum(stages.values()), 3),
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=40)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4, help="songs that are named at a time")
    parser.add_argument("--bundle", type=Path, default=DEMO_BUNDLE)
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
