"""Encoders that users bring hear the songs themselves; what is missing or does not fit is said before anything is computed."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
from onnx import TensorProto, helper, numpy_helper
from sklearn.base import clone

from songcore.arrays import FloatArray
from songcore.errors import ConfigError
from songcore.features import FeatureConfig
from songcore.presets import PRESETS
from songcore.stream import StreamConfig
from songtrain.datasets.songs import SongPlace, SongSet
from songtrain.datasets.sound import SoundSource
from songtrain.datasets.windows import windows_of
from songtrain.lab.parts import chain_of, describe
from songtrain.lab.systems import read_systems
from songtrain.lab.trial import place_songs
from songtrain.methods.frozen import OnnxEncoder
from songtrain.methods.transformers_local import LocalTransformer, RandomTransformer

RATE_HZ = 16_000
LENGTHS = (4_000, 9_000, 20_000, 800)


@pytest.fixture
def songs(tmp_path: Path) -> SongSet:
    """Return four songs of one recording, a second apart; their frames are of no interest."""
    noise = np.random.default_rng(0).normal(0, 0.1, 6 * RATE_HZ)
    soundfile.write(tmp_path / "r.wav", noise, RATE_HZ, subtype="FLOAT")
    places = tuple(SongPlace("r.wav", i * RATE_HZ, i * RATE_HZ + n) for i, n in enumerate(LENGTHS))
    return SongSet(
        places, np.ones(4, np.int64), np.zeros((4, 64), np.float16), np.zeros((0, 64), np.float16), duration_s=6.0
    )


@pytest.fixture
def sound(tmp_path: Path, songs: SongSet) -> SoundSource:
    """Return where their recording is."""
    del songs
    return SoundSource({"r.wav": tmp_path / "r.wav"}, RATE_HZ)


@pytest.fixture
def heard(tmp_path: Path, songs: SongSet) -> list[FloatArray]:
    """Return the songs' samples."""
    samples, _ = soundfile.read(tmp_path / "r.wav", dtype="float32")
    return [samples[place.onset : place.offset] for place in songs.places]


def write_onnx(path: Path, weights: FloatArray, shape: list[int | str]) -> None:
    """Write a model that multiplies the last axis of its input of this shape by weights (n, d) and adds nothing."""
    x = helper.make_tensor_value_info("wave", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("vector", TensorProto.FLOAT, [*shape[:-1], weights.shape[1]])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["wave", "w"], ["vector"])], "g", [x], [y], [numpy_helper.from_array(weights, "w")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def manifest(tmp_path: Path, **changes: Any) -> str:
    """Write a manifest of half-second windows and return its path."""
    fields = {"model": "m.onnx", "sample_rate_hz": RATE_HZ, "window_s": 0.5, "hop_s": 0.25}
    fields |= {"input": "wave", "output": "vector"} | changes
    path = tmp_path / "m.json"
    path.write_text(json.dumps(fields))
    return str(path)


def test_windows_cover_the_sound() -> None:
    """Windows begin every hop and the last ends with the sound; a short sound is one window, its own length or padded."""
    sound = np.arange(11, dtype=np.float32)
    assert windows_of(sound, 4, 3, at_least=4)[:, 0].tolist() == [0, 3, 6, 7]
    assert windows_of(sound[:4], 4, 3, at_least=4).tolist() == [[0, 1, 2, 3]]
    assert windows_of(sound[:2], 4, 3, at_least=0).tolist() == [[0, 1]]
    assert windows_of(sound[:2], 4, 3, at_least=4).tolist() == [[0, 1, 0, 0]]


@pytest.mark.parametrize("shape", [["n", 8000], ["n", 1, 8000], [1, 8000], ["n", "samples"]])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_onnx_vectors_are_pooled_over_windows(
    shape: list[int | str], pooling: str, tmp_path: Path, songs: SongSet, sound: SoundSource, heard: list[FloatArray]
) -> None:
    """A linear model gives every song the mean or maximum over its windows of what numpy computes, in any batch shape."""
    weights = np.random.default_rng(1).normal(size=(8000, 5)).astype(np.float32)
    write_onnx(tmp_path / "m.onnx", weights, shape)
    encoder = OnnxEncoder(manifest(tmp_path, pooling=pooling, weights="random"), sound=sound)
    found = encoder.fit_transform(songs)
    pool: Any = {"mean": np.mean, "max": np.max}[pooling]
    expected = [pool(windows_of(song, 8000, 4000, at_least=8000) @ weights, axis=0) for song in heard]
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert encoder.weights_ == "random"
    assert found.dtype == np.float32


def test_onnx_hears_log_mel_as_librosa_makes_it(
    tmp_path: Path, songs: SongSet, sound: SoundSource, heard: list[FloatArray]
) -> None:
    """A model of spectrograms gets librosa's, scaled as the manifest says; its output over time is pooled too."""
    from librosa import power_to_db
    from librosa.feature import melspectrogram

    write_onnx(tmp_path / "m.onnx", np.eye(20, dtype=np.float32), ["n", "frames", 20])
    mel = {"n_fft": 512, "hop": 160, "n_mels": 20, "mean": -40.0, "deviation": 10.0, "layout": "frames-mels"}
    path = manifest(tmp_path, kind="log-mel", log_mel=mel)
    found = OnnxEncoder(path, sound=sound).fit_transform(songs)
    power = melspectrogram(y=heard[1][:8000], sr=RATE_HZ, n_fft=512, hop_length=160, n_mels=20)
    other = melspectrogram(y=heard[1][1000:], sr=RATE_HZ, n_fft=512, hop_length=160, n_mels=20)
    level = power_to_db(np.concatenate([power, other], axis=1), top_db=None)
    np.testing.assert_allclose(found[1], (level.mean(axis=1) + 40) / 10, rtol=1e-4)


def test_manifest_may_lie_beside_the_model(tmp_path: Path, songs: SongSet, sound: SoundSource) -> None:
    """The path of the model finds a TOML manifest of the same name; a clone makes the same vectors."""
    write_onnx(tmp_path / "m.onnx", np.ones((8000, 2), np.float32), ["n", 8000])
    text = 'model = "m.onnx"\nsample_rate_hz = 16000\nwindow_s = 0.5\nhop_s = 0.5\ninput = "wave"\noutput = "vector"\n'
    (tmp_path / "m.toml").write_text(text)
    encoder = OnnxEncoder(str(tmp_path / "m.onnx"), sound=sound)
    np.testing.assert_array_equal(encoder.fit_transform(songs), clone(encoder).fit_transform(songs))
    assert encoder.weights_ == "pretrained"


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"model": "no.onnx"}, "MODEL_MISSING", "no.onnx"),
        ({"model": "m.json"}, "MODEL_UNREADABLE", "not an ONNX model"),
        ({"input": "sound"}, "MODEL_INTERFACE", "takes wave tensor"),
        ({"output": "code"}, "MODEL_INTERFACE", "gives vector"),
        ({"window_s": 0.25}, "MODEL_INTERFACE", r"\(any, 8000\), the manifest makes \(n, 4000\)"),
        ({"kind": "log-mel"}, "MANIFEST_INVALID", "needs a table log_mel"),
        ({"windows": 1}, "MANIFEST_INVALID", "windows"),
        ({"sample_rate_hz": 0}, "MANIFEST_INVALID", "sample_rate_hz"),
    ],
)
def test_what_does_not_fit_is_said(
    changes: Mapping[str, Any], reason: str, words: str, tmp_path: Path, songs: SongSet, sound: SoundSource
) -> None:
    """A missing file, another input or output, another shape and a wrong field are each named before a song is heard."""
    write_onnx(tmp_path / "m.onnx", np.ones((8000, 2), np.float32), ["n", 8000])
    with pytest.raises(ConfigError, match=words) as refused:
        OnnxEncoder(manifest(tmp_path, **changes), sound=sound).fit(songs)
    assert refused.value.reason == reason


def test_paths_that_lead_nowhere(tmp_path: Path, songs: SongSet, sound: SoundSource) -> None:
    """No path, no manifest, a manifest that is not TOML, no folder and no sound are told apart."""
    write_onnx(tmp_path / "m.onnx", np.ones((8000, 2), np.float32), ["n", 8000])
    (tmp_path / "bad.toml").write_text("model = ")
    (tmp_path / "config.json").write_text("{}")
    good = OnnxEncoder(manifest(tmp_path)).fit(songs)
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: OnnxEncoder(sound=sound).fit(songs), "MODEL_MISSING"),
        (lambda: OnnxEncoder(str(tmp_path / "other.onnx"), sound=sound).fit(songs), "MANIFEST_MISSING"),
        (lambda: OnnxEncoder(str(tmp_path / "no.toml"), sound=sound).fit(songs), "CONFIG_UNREADABLE"),
        (lambda: OnnxEncoder(str(tmp_path / "bad.toml"), sound=sound).fit(songs), "CONFIG_UNREADABLE"),
        (lambda: LocalTransformer(str(tmp_path / "none"), sound=sound).fit(songs), "MODEL_MISSING"),
        (lambda: LocalTransformer(str(tmp_path), sound=sound).fit(songs), "MODEL_UNREADABLE"),
        (lambda: good.transform(songs), "SOUND_MISSING"),
    ]
    for call, reason in cases:
        with pytest.raises(ConfigError) as refused:
            call()
        assert refused.value.reason == reason


@pytest.mark.parametrize("architecture", ["wav2vec2", "ast"])
def test_local_folder_gives_what_the_model_gives(
    architecture: Any, tmp_path: Path, songs: SongSet, sound: SoundSource
) -> None:
    """A saved model, opened again from its folder, gives the vectors of the one that was saved, which follow from its seed."""
    made = RandomTransformer(architecture, n_hidden=16, n_layers=1, window_s=0.5, sound=sound, random_state=3)
    first = made.fit_transform(songs)
    np.testing.assert_array_equal(first, clone(made).fit_transform(songs))
    other = clone(made).set_params(random_state=4).fit_transform(songs)
    assert not np.allclose(first, other)
    saved: Any = made._model
    saved.save_pretrained(tmp_path / "model")
    made._extractor.save_pretrained(tmp_path / "model")
    opened = LocalTransformer(str(tmp_path / "model"), window_s=0.5, weights="random", sound=sound)
    np.testing.assert_allclose(opened.fit_transform(songs), first, atol=1e-5)
    assert first.shape == (4, 16)
    assert opened.weights_ == made.weights_ == "random"


def test_another_model_at_the_same_path_is_another_system(
    tmp_path: Path, songs: SongSet, sound: SoundSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row is kept only for the files it was made of: model, manifest, tensors beside it, folder, one's own class."""
    stream = StreamConfig(*PRESETS["song"], FeatureConfig())

    def described(part: str, **parameters: str) -> str:
        given = "".join(f', {name} = "{value}"' for name, value in parameters.items())
        declared = f'[own]\nencoder = {{ part = "{part}"{given} }}\nclusterer = "kmeans"\n'
        (system,) = read_systems(declared, "own.toml").values()
        return describe(system, stream)

    def with_tensors_beside(value: float) -> None:
        write_onnx(tmp_path / "m.onnx", np.full((8000, 2), value, np.float32), ["n", 8000])
        model = onnx.load(tmp_path / "m.onnx")
        (tmp_path / "m.data").unlink(missing_ok=True)
        onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)

    made = RandomTransformer("wav2vec2", n_hidden=16, n_layers=1, window_s=0.5, sound=sound).fit(songs)
    saved: Any = made._model
    config = tmp_path / "model" / "config.json"
    saved.save_pretrained(tmp_path / "model")
    own = tmp_path / "own_part.py"
    monkeypatch.syspath_prepend(tmp_path)
    code = "from sklearn.base import BaseEstimator\nclass Own(BaseEstimator):\n    pass\n"
    changes: list[tuple[dict[str, str], list[Callable[[], object]]]] = [
        (
            {"part": "onnx", "path": str(tmp_path / "m.json")},
            [
                lambda: write_onnx(tmp_path / "m.onnx", np.ones((8000, 2), np.float32), ["n", 8000]),
                lambda: write_onnx(tmp_path / "m.onnx", np.zeros((8000, 2), np.float32), ["n", 8000]),
                lambda: manifest(tmp_path, pooling="max"),
                lambda: with_tensors_beside(1.0),
                lambda: with_tensors_beside(2.0),
            ],
        ),
        (
            {"part": "transformer", "path": str(config.parent)},
            [lambda: None, lambda: config.write_text(config.read_text() + " ")],
        ),
        ({"part": "own_part:Own"}, [lambda: own.write_text(code), lambda: own.write_text(code + "# other\n")]),
    ]
    manifest(tmp_path)
    told_of_model = ""
    for system, steps in changes:
        told = []
        for step in steps:
            step()
            told.append(described(**system))
            assert described(**system) == told[-1]
        assert len(set(told)) == len(steps), system
        told_of_model = told[-1] if system["part"] == "transformer" else told_of_model
        assert all("content" not in chain_of(one) for one in told)
    # What cannot be read here is told by the row.
    (tmp_path / "model" / "gone.json").symlink_to(tmp_path / "nowhere")
    assert described(part="transformer", path=str(tmp_path / "model")) == told_of_model
    assert "content" not in described(part="onnx", path=str(tmp_path / "none.toml"))


def test_laboratory_hands_the_sound_over(tmp_path: Path, songs: SongSet, sound: SoundSource) -> None:
    """A system declared in a file, with a model's path, places songs by what the model hears of their recordings."""
    weights = np.random.default_rng(1).normal(size=(8000, 5)).astype(np.float32)
    write_onnx(tmp_path / "m.onnx", weights, ["n", 8000])
    declared = f'[own]\nencoder = {{ part = "onnx", path = "{manifest(tmp_path)}" }}\nclusterer = "kmeans"\n'
    (system,) = read_systems(declared, "own.toml").values()
    stream = StreamConfig(*PRESETS["song"], FeatureConfig())
    placed = place_songs(songs, system, 0, stream, sound).values
    np.testing.assert_array_equal(placed, OnnxEncoder(str(tmp_path / "m.json"), sound).fit_transform(songs))
    with pytest.raises(ConfigError, match="given no recordings"):
        place_songs(songs, system, 0, stream)
