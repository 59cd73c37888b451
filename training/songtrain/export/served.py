"""The encoder as it goes into the bundle: what is learned, and what is put behind it in closed form, as one ONNX model."""

from dataclasses import dataclass

import numpy as np

from songcore.embed import Embedder
from songcore.stream import StreamConfig
from songtrain.augment.store import FrameStore
from songtrain.encoders.network import ServedEncoder, SteadyEncoder
from songtrain.export.onnx import export_onnx
from songtrain.loop.embedding import embed_store
from songtrain.reducers.components import UnitComponents
from songtrain.settings import TrainSettings

__all__ = ["Served", "serve_encoder"]


@dataclass(frozen=True)
class Served:
    """The encoder in torch and in onnxruntime."""

    encoder: ServedEncoder
    model: bytes
    embedder: Embedder


def serve_encoder(steady: SteadyEncoder, store: FrameStore, settings: TrainSettings, stream: StreamConfig) -> Served:
    """Put the principal components of the songs in the store behind the encoder, and export it."""
    pooled = embed_store(steady, store, np.arange(len(store), dtype=np.int64))
    components = UnitComponents(settings.encoder.dimension, settings.seed).fit(pooled)
    encoder = ServedEncoder(steady, components.mean_, components.components_).eval()
    model = export_onnx(encoder, stream.frontend.n_mels, stream.features.bucket_frames)
    return Served(encoder, model, Embedder(model, device="cpu"))
