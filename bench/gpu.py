"""Embeddings per second by batch of the default encoder, in onnxruntime and torch, float32 and float16; one JSON line last.

The encoder has random weights: what it says does not matter here, how long it takes does. Every call takes features from the
host's memory and brings embeddings back there, as serving does. ``onnx_fp16_cosine`` is the least cosine between embeddings of
float16 and of float32. The provider is what really runs, as onnxruntime falls back to the processor silently.

Run as ``python bench/gpu.py`` where there is a GPU; ``--device cpu`` tries the program where there is none, float32 only.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Annotated, Literal

import numpy as np
import onnx
import torch
import typer
from onnxruntime.transformers.float16 import convert_float_to_float16
from random_songs import random_songs

from songcore.arrays import FloatArray
from songcore.embed import INPUT_NAME, OUTPUT_NAME, Embedder, OnnxModel
from songcore.features import FeatureConfig
from songcore.presets import PRESETS
from songcore.stream import StreamConfig
from songtrain.augment.store import FrameStore
from songtrain.export.served import Served, serve_encoder
from songtrain.loop.learner import Learner
from songtrain.loop.world import World
from songtrain.settings import TrainSettings

N_FRAMES = 176
"""2.8 s of song."""
LEAST_S = 1.0
"""For each measurement."""


def served_encoder() -> Served:
    """Return the default encoder with random weights, in both forms."""
    stream = StreamConfig(*PRESETS["song"], FeatureConfig())
    settings = TrainSettings()
    songs = random_songs(600, N_FRAMES, 0)
    learner = Learner(songs, settings, stream, device=torch.device("cpu"), world=World())
    store = FrameStore(songs, torch.device("cpu"))
    return serve_encoder(learner.steady_encoder().eval(), store, settings, stream)


def in_float16(model: bytes) -> bytes:
    """Return the model computing in float16, with inputs and outputs in float32."""
    return bytes(convert_float_to_float16(onnx.load_from_string(model), keep_io_types=True).SerializeToString())


def songs_per_s(embed: Callable[[FloatArray], object], batch: FloatArray) -> float:
    """Return how many songs a second are embedded in batches like this one."""
    for _ in range(3):
        embed(batch)
    n, begin = 0, perf_counter()
    while perf_counter() - begin < LEAST_S:
        embed(batch)
        n += len(batch)
    return round(n / (perf_counter() - begin), 1)


def torch_embedder(encoder: torch.nn.Module, device: str, *, half: bool) -> Callable[[FloatArray], FloatArray]:
    """Return what embeds a batch by torch."""
    moved = encoder.to(device).eval()

    def embed(batch: FloatArray) -> FloatArray:
        with torch.inference_mode(), torch.autocast(device, torch.float16, enabled=half):
            found: FloatArray = moved(torch.from_numpy(batch).to(device)).float().cpu().numpy()
        return found

    return embed


def main(
    batches: Annotated[str, typer.Option(help="Sizes, with commas between.")] = "1,4,16,32,128",
    device: Annotated[Literal["cuda", "cpu"], typer.Option(help="cuda or cpu.")] = "cuda",
) -> None:
    """Measure embeddings per second."""
    served = served_encoder()
    provider = Embedder(served.model, device=device).provider  # DEVICE_MISSING where it is not what was asked for
    rng = np.random.default_rng(0)
    songs = (rng.random((128, 1, served.embedder.n_mels, N_FRAMES), np.float32) > 0.8) * np.float32(2)
    ways: dict[str, Callable[[FloatArray], FloatArray]] = {}
    cosine = None
    with tempfile.TemporaryDirectory() as folder:
        for name, model in {"fp32": served.model, "fp16": in_float16(served.model)}.items():
            if device == "cpu" and name == "fp16":
                continue
            path = Path(folder) / f"{name}.onnx"
            path.write_bytes(model)
            ways[f"onnx_{name}"] = OnnxModel(path, INPUT_NAME, OUTPUT_NAME, device=device).run
            ways[f"torch_{name}"] = torch_embedder(served.encoder, device, half=name == "fp16")
        if "onnx_fp16" in ways:
            pair = ways["onnx_fp32"](songs[:32]), ways["onnx_fp16"](songs[:32])
            cosine = round(float((pair[0] * pair[1]).sum(axis=1).min()), 6)
        rows = []
        for size in (int(text) for text in batches.split(",")):
            batch = np.resize(songs, (size, *songs.shape[1:]))
            rows.append({"batch": size} | {name: songs_per_s(embed, batch) for name, embed in ways.items()})
            typer.echo(json.dumps(rows[-1]))
    result = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "provider": provider,
        "frames": N_FRAMES,
        "onnx_fp16_cosine": cosine,
        "songs_per_s": rows,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
