"""Run ONNX models: the bundle's encoder, and ones that users bring. The only module that knows onnxruntime."""

import ctypes
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime as ort

from songcore.arrays import FloatArray
from songcore.errors import BundleError, ConfigError
from songcore.onnx_graph import check_operators

__all__ = ["Device", "Embedder", "OnnxModel"]

Device = Literal["auto", "cpu", "cuda"]

INPUT_NAME = "features"
OUTPUT_NAME = "embedding"
MAX_BATCH = 32

# A StringStringEntryProto with the key "location": how a tensor names a file outside the model (onnx.proto,
# TensorProto.external_data). onnxruntime would read such a file relative to the working directory, so the bytes are
# searched before it sees them; the pattern cannot be left out of a model that has external data. Protobuf also takes
# field number and length in more bytes than they need.
_EXTERNAL_DATA = re.compile(rb"(\x0a|\x8a[\x80-\xff]*[\x00-\x7f])(\x08|\x88[\x80-\xff]*[\x00-\x7f])location")

_CUDA_OPTIONS = {
    # The default searches anew for every shape; song lengths vary.
    "cudnn_conv_algo_search": "HEURISTIC",
    "arena_extend_strategy": "kSameAsRequested",
}


class Embedder:
    """Embed songs with an ONNX model given as bytes.

    ``device="auto"`` takes the GPU where there is one. Raises ConfigError when an asked-for GPU is not there, BundleError
    when the model is not one of ours.
    """

    def __init__(self, model: bytes, *, device: Device = "auto", n_threads: int = 1) -> None:
        if b"location" in model and _EXTERNAL_DATA.search(model):
            raise BundleError(
                "the encoder keeps tensors in other files; export it as one file", reason="ENCODER_EXTERNAL_DATA"
            )
        check_operators(model)
        self._session = _open_session(model, device, n_threads)
        # The list of providers asked for says nothing: without a GPU onnxruntime falls back silently.
        self.provider: str = self._session.get_providers()[0]
        """The execution provider that really runs, as onnxruntime names it."""
        self.fell_back = device != "cpu" and self.provider != "CUDAExecutionProvider" and _driver_present()
        """There is a GPU, and the encoder came up on the processor all the same."""
        if device == "cuda" and self.provider != "CUDAExecutionProvider":
            raise ConfigError(
                f"device cuda was asked for but the encoder came up on {self.provider}; install the CUDA libraries that "
                "onnxruntime-gpu needs, or use device auto or cpu",
                reason="DEVICE_MISSING",
            )
        self.n_mels, self.dimension = self._check_interface()

    def embed(self, features: Sequence[FloatArray]) -> FloatArray:
        """Return unit embeddings (n, dimension) float32 of songs' features, each (n_frames, n_mels) float32.

        Songs of equal length share a batch; a song's result does not depend on the others. Raises BundleError when the model
        fails, or gives another shape than it declares.
        """
        out = np.empty((len(features), self.dimension), np.float32)
        by_length: dict[int, list[int]] = defaultdict(list)
        for index, song in enumerate(features):
            by_length[len(song)].append(index)
        for indices in by_length.values():
            for begin in range(0, len(indices), MAX_BATCH):
                part = indices[begin : begin + MAX_BATCH]
                batch = np.stack([features[i].T for i in part])[:, None]
                out[part] = self._run(np.ascontiguousarray(batch))
        return out

    def _run(self, batch: FloatArray) -> FloatArray:
        try:
            (found,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: batch})
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise BundleError(
                f"the encoder fails on a batch of {batch.shape} ({error})", reason="ENCODER_FAILED"
            ) from error
        if np.shape(found) != (len(batch), self.dimension):
            raise BundleError(
                f"the encoder gives {np.shape(found)} for {len(batch)} songs and declares {self.dimension} dimensions",
                reason="ENCODER_INTERFACE",
            )
        return np.asarray(found, np.float32)

    def _check_interface(self) -> tuple[int, int]:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        names = [i.name for i in inputs], [o.name for o in outputs]
        if names != ([INPUT_NAME], [OUTPUT_NAME]) or len(inputs[0].shape) != 4 or len(outputs[0].shape) != 2:
            raise BundleError(
                f"the encoder takes {names[0]} and gives {names[1]}; expected {INPUT_NAME} (n, 1, n_mels, n_frames) and "
                f"{OUTPUT_NAME} (n, d)",
                reason="ENCODER_INTERFACE",
            )
        n_mels, dimension = inputs[0].shape[2], outputs[0].shape[1]
        if not isinstance(n_mels, int) or not isinstance(dimension, int):
            raise BundleError(
                f"the encoder leaves n_mels ({n_mels}) or d ({dimension}) open; fix both", reason="ENCODER_INTERFACE"
            )
        return n_mels, dimension


class OnnxModel:
    """A model of a user's own: one of its inputs to one of its outputs, float32 both.

    Tensors may lie in files beside the model. Raises ConfigError MODEL_MISSING, MODEL_UNREADABLE or MODEL_INTERFACE.
    """

    def __init__(
        self, path: Path, input_name: str, output_name: str, *, device: Device = "auto", n_threads: int = 1
    ) -> None:
        if not path.is_file():
            raise ConfigError(f"there is no model {path}; give the path of an ONNX file", reason="MODEL_MISSING")
        try:
            self._session = _open_session(str(path), device, n_threads)
        except BundleError as error:
            raise ConfigError(f"{path}: {error}", reason="MODEL_UNREADABLE") from error
        inputs = {i.name: i for i in self._session.get_inputs()}
        outputs = [o.name for o in self._session.get_outputs()]
        if list(inputs) != [input_name] or output_name not in outputs or inputs[input_name].type != "tensor(float)":
            found = ", ".join(f"{i.name} {i.type}" for i in inputs.values())
            raise ConfigError(
                f"{path} takes {found} and gives {', '.join(outputs)}; expected one input {input_name}, tensor(float), and an "
                f"output {output_name}: correct the names, or export the model so",
                reason="MODEL_INTERFACE",
            )
        self._input_name, self._output_name = input_name, output_name
        shape = inputs[input_name].shape
        self.input_shape: tuple[int | None, ...] = tuple(n if isinstance(n, int) else None for n in shape)
        """Of a batch, None where the model takes any size."""

    def run(self, batch: FloatArray) -> FloatArray:
        """Return the output for a batch; ConfigError when the model does not take its shape."""
        try:
            (out,) = self._session.run([self._output_name], {self._input_name: np.ascontiguousarray(batch, np.float32)})
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ConfigError(
                f"the model does not take a batch of shape {batch.shape} ({error}); check the manifest",
                reason="MODEL_INTERFACE",
            ) from error
        return np.asarray(out, np.float32)


def _open_session(model: bytes | str, device: Device, n_threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    # Spinning threads burn a core while they wait for the next song.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A missing GPU is reported by us, once; onnxruntime's own warnings about it repeat.
    options.log_severity_level = 3
    providers: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
    wanted = device == "cuda" or (device == "auto" and _driver_present())
    if wanted and "CUDAExecutionProvider" in ort.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", _CUDA_OPTIONS))
    try:
        return ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise BundleError(
            f"the encoder is not an ONNX model that onnxruntime can run ({error})", reason="ENCODER_UNREADABLE"
        ) from error


def _driver_present() -> bool:
    """Return whether NVIDIA's driver is installed; without it onnxruntime would complain at length before it falls back."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
