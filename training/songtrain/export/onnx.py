"""The served encoder as one ONNX file, checked against torch."""

import logging
import warnings

import numpy as np
import torch
from torch import nn

from songcore.arrays import FloatArray
from songcore.embed import INPUT_NAME, OUTPUT_NAME, Embedder
from songcore.errors import SongError

__all__ = ["ExportError", "check_parity", "export_onnx"]

OPSET = 18
MIN_COSINE = 0.99999


class ExportError(SongError):
    """The exported encoder does not give what the trained one gives."""

    default_reason = "EXPORT_DIFFERS"


def export_onnx(encoder: nn.Module, n_mels: int, bucket_frames: int) -> bytes:
    """Return the model: features (n, 1, n_mels, n_frames) float32 → embedding (n, d) float32, n and n_frames open."""
    # A layout that is quick in training is only noise in the graph.
    encoder = encoder.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stub
    example = torch.rand(2, 1, n_mels, 2 * bucket_frames)
    shapes = {"features": {0: torch.export.Dim("n"), 3: torch.export.Dim.DYNAMIC}}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # torch's exporter uses parts of torch that torch itself deprecates.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            encoder,
            (example,),
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch gave no ONNX program; this is a fault of songstream", reason="EXPORT_FAILED")
    return program.model_proto.SerializeToString()


def check_parity(encoder: nn.Module, embedder: Embedder, songs: list[FloatArray]) -> float:
    """Return the least cosine between torch's and onnxruntime's embeddings of songs (n_frames, n_mels).

    Each song is given to torch alone and to onnxruntime among the others, so that a result that depends on its batch is
    found too. Raises ExportError below 0.99999.
    """
    served = embedder.embed(songs)
    with torch.inference_mode():
        trained = np.stack(
            [encoder(torch.from_numpy(np.ascontiguousarray(song.T))[None, None])[0].numpy() for song in songs]
        )
    cosine = float((served * trained).sum(axis=1).min())
    if not cosine >= MIN_COSINE:  # NaN is not less, either
        raise ExportError(
            f"onnxruntime and torch differ on the same songs: cosine {cosine:.6f}, at least {MIN_COSINE} expected"
        )
    return cosine
