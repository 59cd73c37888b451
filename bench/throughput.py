"""How fast ``songstream classify`` goes through an archive, beside a plain notebook-style pipeline; one JSON line last.

The archive: 10-minute recordings, 48 kHz, 16-bit WAV, songs of 2-5 s over noise, 40 % of the time. The bundle: the
encoder that `songstream train` builds by default, with seeded random weights, so that both pipelines run the same one
(speed does not depend on the values). ``--bundle`` measures another bundle.

x_real_time               seconds of audio / wall seconds of the command: start-up, loading and verifying the bundle in
                          every worker, decoding, all tables; with the default 6 h of audio, start-up is about a tenth
cpu_ms_per_audio_second   processor time of all its processes, which other users of the machine disturb less
ratio_to_plain_pipeline   x_real_time / that of the plain loop in this process, without its imports: librosa.load
                          (resampling to the bundle's rate), librosa.effects.split, librosa mel and dB per song, the
                          torch encoder one song at a time (torch's own threads), scikit-learn's nearest neighbour
stages_ms_per_audio_s     where one worker's time goes, measured in this process
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from songcore.arrays import FloatArray
from songcore.audio import open_recording
from songcore.bundle import Bundle, load_bundle, write_bundle

ROOT = Path(__file__).resolve().parent.parent
RATE_HZ = 48_000
RECORDING_S = 600
DUTY = 0.4
SONG_S = (2.0, 5.0)


def recording(seed: int) -> FloatArray:
    """Return (n,) float32: ten minutes of frequency-modulated trills over noise, `DUTY` of the time."""
    rng = np.random.default_rng(seed)
    samples = (0.001 * rng.standard_normal(RECORDING_S * RATE_HZ)).astype(np.float32)
    slot_s = np.mean(SONG_S) / DUTY
    for index in range(int(RECORDING_S / slot_s)):
        length_s = rng.uniform(*SONG_S)
        t = np.arange(round(length_s * RATE_HZ)) / RATE_HZ
        pitch = rng.uniform(1500, 7000) * (1 + 0.15 * np.sin(2 * np.pi * rng.uniform(3, 20) * t))
        envelope = np.minimum(1, np.minimum(t, t[::-1]) / 0.02) * (0.6 + 0.4 * np.sin(2 * np.pi * 12 * t) ** 2)
        begin = round((index * slot_s + rng.uniform(0.5, slot_s - length_s - 0.5)) * RATE_HZ)
        samples[begin : begin + len(t)] += 0.2 * envelope * np.sin(2 * np.pi * np.cumsum(pitch) / RATE_HZ)
    return samples


def write_archive(folder: Path, n_recordings: int) -> None:
    """Write the recordings; a few are made, the others are these shifted in time."""
    folder.mkdir()
    made = [recording(seed) for seed in range(min(3, n_recordings))]
    for number in range(n_recordings):
        samples = np.roll(made[number % len(made)], number * RATE_HZ)
        soundfile.write(folder / f"{number:04d}.wav", samples, RATE_HZ, subtype="PCM_16")


def default_encoder(n_mels: int, seed: int = 0) -> Any:
    """Return training's default network as it is served, with seeded random weights."""
    import torch

    from songtrain.encoders.build import build_encoder
    from songtrain.encoders.network import ServedEncoder
    from songtrain.settings import EncoderSettings

    settings = EncoderSettings.model_validate({})
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    components = rng.standard_normal((settings.dimension, settings.n_features)).astype(np.float32)
    mean = np.zeros(settings.n_features, np.float32)
    return ServedEncoder(build_encoder(settings, n_mels), mean, components).eval()


def write_default_bundle(path: Path, encoder: Any) -> None:
    """Write a bundle around the encoder; its types are songs of the tests' made-up species."""
    sys.path.append(str(ROOT / "tests"))
    from bundles import bundle_parts, soundscape
    from songcore.embed import Embedder
    from songcore.manifest import EncoderInfo
    from songcore.stream import SongStream
    from songtrain.encoders.build import n_parameters
    from songtrain.export.onnx import export_onnx

    parts = bundle_parts()
    frontend, features = parts.stream.frontend, parts.stream.features
    onnx = export_onnx(encoder, frontend.n_mels, features.bucket_frames)
    stream = SongStream(parts.stream, frontend.sample_rate_hz)
    songs = stream.push(soundscape([0, 1, 2, 3, 4] * 6, 1)[0]) + stream.finish()
    embeddings = Embedder(onnx, device="cpu").embed([song.features for song in songs])
    info = EncoderInfo(
        architecture="light",
        n_parameters=n_parameters(encoder),
        dimension=embeddings.shape[1],
        trained_on="nothing: random weights",
    )
    calibration = np.linspace(0.1, 1, 40, dtype=np.float32)
    n_types = len(parts.types)
    write_bundle(
        path,
        replace(
            parts,
            encoder=onnx,
            encoder_info=info,
            prototypes=embeddings[:n_types],
            type_index=np.arange(n_types),
            bank=embeddings,
            calibration=calibration,
        ),
    )


def run_command(archive: Path, bundle: Path, out: Path, n_workers: int) -> tuple[dict[str, Any], float, float]:
    """Return the command's summary, its wall seconds and the processor seconds of it and its workers."""
    command = [str(Path(sys.executable).with_name("songstream")), "classify", str(archive), "--bundle", str(bundle)]
    command += ["--out", str(out), "--workers", str(n_workers), "--device", "cpu", "--json"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    wall_s, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(ended.stdout), wall_s, cpu_s


def run_plain(paths: Sequence[Path], bundle: Bundle, encoder: Any) -> tuple[float, int]:
    """Return wall seconds and songs of the pipeline as one writes it in a notebook."""
    import librosa
    import torch
    from sklearn.neighbors import NearestNeighbors

    frontend = bundle.manifest.frontend
    rng = np.random.default_rng(0)
    bank = rng.standard_normal((500, bundle.manifest.encoder.dimension)).astype(np.float32)
    neighbours = NearestNeighbors(n_neighbors=1).fit(bank)
    # The first call of each loads and compiles; that is not what is measured.
    librosa.feature.melspectrogram(y=bank.ravel(), sr=frontend.sample_rate_hz)
    n_songs, began = 0, time.perf_counter()
    for path in paths:
        samples, rate_hz = librosa.load(path, sr=frontend.sample_rate_hz)
        for begin, end in librosa.effects.split(samples, top_db=30):
            if end - begin < 0.4 * rate_hz:
                continue
            power = librosa.feature.melspectrogram(
                y=samples[begin:end],
                sr=rate_hz,
                n_fft=frontend.n_fft,
                hop_length=frontend.hop,
                n_mels=frontend.n_mels,
                fmin=frontend.f_min_hz,
                fmax=frontend.f_max_hz,
            )
            level_db = librosa.power_to_db(power)
            features = torch.from_numpy(np.maximum(0, level_db - level_db.min()) / 10).float()
            with torch.inference_mode():
                embedding = encoder(features[None, None])
            neighbours.kneighbors(embedding.numpy())
            n_songs += 1
    return time.perf_counter() - began, n_songs


def stage_times(path: Path, bundle: Bundle) -> dict[str, float]:
    """Return milliseconds per audio second of every stage of one worker."""
    spent: dict[str, float] = {}

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        began = time.process_time()
        yield
        spent[stage] = spent.get(stage, 0.0) + time.process_time() - began

    stream = bundle.new_stream(RATE_HZ)
    songs = []
    with open_recording(path) as opened:
        blocks = opened.blocks(10.0)
        while True:
            with timed("decode"):
                block = next(blocks, None)
            if block is None:
                break
            # The stream's own parts in its own order, to see each by itself.
            with timed("resample"):
                resampled = stream._resampler.push(block)  # noqa: SLF001 - see above
            with timed("log_mel"):
                frames = stream._log_mel.push(resampled)  # noqa: SLF001 - see above
            with timed("segment_and_features"):
                songs += stream._segment(frames)  # noqa: SLF001 - see above
    with timed("embed_and_assign"):
        bundle.classify(songs)
    return {stage: round(1e3 * seconds / RECORDING_S, 4) for stage, seconds in spent.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=36, help="ten minutes each")
    parser.add_argument("--plain-recordings", type=int, default=3, help="how many of them the plain pipeline gets")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--bundle", type=Path, help="measure this bundle instead of random weights")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="librosa")
    with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
        archive, default_bundle, out = (Path(folder, name) for name in ("archive", "bundle", "out"))
        print(f"writing {options.recordings * RECORDING_S / 3600:.1f} h of recordings", file=sys.stderr)
        write_archive(archive, options.recordings)
        encoder = default_encoder(64)
        write_default_bundle(default_bundle, encoder)
        bundle_path = options.bundle or default_bundle
        summary, wall_s, cpu_s = run_command(archive, bundle_path, out, options.workers)
        plain_bundle = load_bundle(default_bundle, device="cpu")
        paths = sorted(archive.iterdir())[: options.plain_recordings]
        plain_s, n_plain_songs = run_plain(paths, plain_bundle, encoder)
        stages = stage_times(paths[0], load_bundle(bundle_path, device="cpu"))
    audio_s, plain_audio_s = summary["audio_s"], len(paths) * RECORDING_S
    x_real_time, plain_x = audio_s / wall_s, plain_audio_s / plain_s
    result = {
        "x_real_time": round(x_real_time, 1),
        "ratio_to_plain_pipeline": round(x_real_time / plain_x, 2),
        "plain_x_real_time": round(plain_x, 1),
        "cpu_ms_per_audio_second": round(1e3 * cpu_s / audio_s, 4),
        "audio_s": audio_s,
        "wall_s": round(wall_s, 2),
        "n_workers": options.workers,
        "n_songs": summary["n_songs"],
        "plain_songs_per_hour": round(3600 * n_plain_songs / plain_audio_s),
        "songs_per_hour": round(3600 * summary["n_songs"] / audio_s),
        "bundle": str(options.bundle) if options.bundle else "light encoder, random weights",
        "stages_ms_per_audio_s": stages,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
