"""What a user's ONNX model expects, as a TOML or JSON file beside it says."""

import json
import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from songcore.errors import ConfigError
from songcore.setting_problems import setting_problems

__all__ = ["LogMelInput", "OnnxManifest", "read_manifest"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LogMelInput(_Section):
    """How the log-mel spectrogram is made of which the model was trained; librosa's filters."""

    n_fft: int = Field(ge=16, le=65_536)
    hop: int = Field(ge=1, le=65_536)
    n_mels: int = Field(ge=2, le=1024)
    f_min_hz: float = Field(default=0.0, ge=0)
    f_max_hz: float | None = Field(default=None, gt=0)
    mel_scale: Literal["slaney", "htk"] = "slaney"
    unit: Literal["db", "ln"] = "db"
    """10 log10 of power, or its natural logarithm."""
    smallest: float = Field(default=1e-10, gt=0)
    """Power that everything fainter counts as."""
    mean: float = 0.0
    deviation: float = Field(default=1.0, gt=0)
    """The model gets (level - mean) / deviation."""
    layout: Literal["mels-frames", "frames-mels"] = "mels-frames"


class OnnxManifest(_Section):
    """Everything that a model cannot say of itself."""

    model: str
    """The ONNX file; a path from the manifest's folder."""
    sample_rate_hz: int = Field(ge=1_000, le=384_000)
    window_s: float = Field(gt=0, le=3600)
    hop_s: float = Field(gt=0, le=3600)
    input: str
    output: str
    kind: Literal["waveform", "log-mel"] = "waveform"
    log_mel: LogMelInput | None = None
    pooling: Literal["mean", "max"] = "mean"
    """Over the windows of a song, and over time where the model gives a vector per moment."""
    weights: Literal["pretrained", "random"] = "pretrained"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.kind == "log-mel") != (self.log_mel is not None):
            raise ValueError('kind = "log-mel" needs a table log_mel, and kind = "waveform" has none')
        return self


def read_manifest(path: Path) -> OnnxManifest:
    """Return the manifest; ConfigError CONFIG_UNREADABLE or MANIFEST_INVALID says what is wrong in it."""
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        return OnnxManifest.model_validate(values)
    except ValidationError as error:
        problems = setting_problems(error, OnnxManifest, whole="manifest")
        raise ConfigError(f"{path}: {problems}", reason="MANIFEST_INVALID") from error
    except OSError as error:
        raise ConfigError(f"cannot read the manifest {path} ({error.strerror})", reason="CONFIG_UNREADABLE") from error
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError(f"{path} is not {kind} ({error})", reason="CONFIG_UNREADABLE") from error
