"""Run parameters of training: one TOML file, checked, with defaults that work.

They never travel with the model; what serving needs is in the bundle's own configurations.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from songcore.errors import ConfigError
from songcore.names import BUNDLE_NAME
from songcore.novelty import NoveltyConfig
from songcore.presets import STREAMS
from songcore.setting_problems import setting_problems
from songcore.stream import StreamConfig

__all__ = [
    "PRESETS",
    "AugmentSettings",
    "ClusterSettings",
    "DataSettings",
    "EncoderSettings",
    "NoveltySettings",
    "RoundSettings",
    "RunSettings",
    "TrainSettings",
    "WarmupSettings",
    "change_settings",
    "load_settings",
    "preset_for",
]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataSettings(_Section):
    """Where songs come from."""

    segmenter: Literal["song", "syllable", "general"] = "song"
    """Preset of front end and segmenter; it becomes the bundle's."""
    segmentation: Literal["auto", "annotated", "automatic"] = "auto"
    """auto: the songs of songs.csv where there is one, with the borders that the segmenter gives them; else all it finds.

    annotated: the songs of songs.csv with their own borders; automatic: all that the segmenter finds.
    """
    channel: int | None = Field(default=None, ge=1)
    """Channel to listen to, counted from 1; the mean of all if not given."""
    min_songs: int = Field(default=20, ge=4)
    """Fewer songs than this cannot show types."""


class EncoderSettings(_Section):
    """The network."""

    name: Literal["light", "efficientnet-b0"] = "light"
    width: int = Field(default=16, ge=4, le=128)
    """Channels of the light encoder's first stage."""
    n_features: int = Field(default=512, ge=16, le=4096)
    """Values per song before the projection."""
    n_steady_songs: int = Field(default=512, ge=0)
    """So many songs, in several views, show what of these values is not the song, and that counts less; 0: all count."""
    n_modulation: int | None = Field(default=None, ge=0, le=2048)
    """Values of the modulation spectrum that stand beside the network's, 0: none do.

    None: 256 for songs, none for syllables and other single sounds, which have no rhythm.
    """
    n_places: int = Field(default=0, ge=0, le=64)
    """At so many places of a song's own length its spectrum stands beside the network; for single sounds, whose parts come
    in one order."""
    n_random: int = Field(default=0, ge=0, le=16)
    """So many networks of the same shape with random weights stand beside the trained one: they cannot forget what it does."""
    dimension: int = Field(default=256, ge=2, le=512)
    """Values of the served embedding."""


class AugmentSettings(_Section):
    """How much two views of one song may differ."""

    tempo: float = Field(default=0.12, ge=0, lt=0.5)
    """Largest relative change of pace."""
    pitch_mels: float = Field(default=2.0, ge=0, le=8)
    """Largest shift, in mel bands; pitch carries type identity, so little."""
    shift_share: float = Field(default=0.09, ge=0, le=0.5)
    """Largest shift in time, as a part of the song: syllables of 30 ms and songs of 10 s are learned alike."""
    crop_share: float = Field(default=0.08, ge=0, le=0.4)
    """Largest part cut off at either end: segment borders are not exact."""
    gain_db: float = Field(default=5.0, ge=0, le=20)
    """Level, per song and, half as much, along frequency."""
    mix_probability: float = Field(default=0.4, ge=0, le=1)
    """Another song sounds behind."""
    mix_db: tuple[float, float] = (6.0, 22.0)
    """How much fainter it is."""
    background_probability: float = Field(default=0.7, ge=0, le=1)
    """Sound from between the songs is laid over."""
    raise_floor_probability: float = Field(default=0.7, ge=0, le=1)
    lowest_snr_db: float = Field(default=-3.0, ge=-20, le=40)
    """The noise, of soundscapes drawn at random, rises up to this ratio of song to noise."""
    n_masks: int = Field(default=2, ge=0, le=8)
    """Masked stretches of time, and as many of frequency."""
    mask_share: float = Field(default=0.07, ge=0, le=0.5)
    """Length of a masked stretch of time at most, as a part of the song."""
    mask_mels: int = Field(default=6, ge=0, le=32)


class WarmupSettings(_Section):
    """Contrastive warm-up (SimCLR): two views of a song attract each other, all others repel."""

    n_epochs: int = Field(default=16, ge=0, le=1000)
    learning_rate: float = Field(default=2e-3, gt=0, le=1)
    temperature: float = Field(default=0.2, gt=0, le=10)
    neighbours_from_epoch: int = Field(default=6, ge=0)
    """From here on a song's partner is often one of its mutual nearest neighbours."""
    neighbour_probability: float = Field(default=0.5, ge=0, le=1)
    n_neighbours: int = Field(default=8, ge=1, le=100)


class RoundSettings(_Section):
    """Self-labelling: cluster, then learn the dense cores with ArcFace; again."""

    n_rounds: int = Field(default=3, ge=0, le=50)
    n_epochs: int = Field(default=6, ge=1, le=1000)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    margin_degrees: float = Field(default=11.5, ge=0, lt=90)
    scale: float = Field(default=16.0, gt=0, le=128)
    contrastive_weight: float = Field(default=0.5, ge=0, le=10)
    sampling_exponent: float = Field(default=0.5, ge=0, le=1)
    """Songs of a cluster are drawn in proportion to its size to the power of minus this; 1 draws clusters evenly."""


class ClusterSettings(_Section):
    """Density clustering (HDBSCAN); the number of types is found."""

    min_cluster_size: int | None = Field(default=None, ge=2)
    """None: as ``min_share`` says."""
    min_share: float | None = Field(default=None, gt=0, lt=0.5)
    """Part of the songs that a type has at least, and never fewer than 5; None: 0.2 %, but no more than 10 songs."""
    min_samples: int = Field(default=5, ge=1)
    fill_neighbours: int = Field(default=5, ge=1)
    """Songs outside dense cores take the type of most of this many nearest core songs."""
    max_share: float = Field(default=0.6, gt=0, le=1)
    """A cluster with more of the songs than this counts as collapse; raise it where one type really is that common."""
    max_prototypes: int = Field(default=4, ge=1, le=64)


class NoveltySettings(_Section):
    """Novelty decision and its calibration."""

    held_out_share: float = Field(default=0.15, gt=0, le=0.5)
    """Part of the recordings, whole, that neither training nor the reference bank sees."""
    n_neighbours: int = Field(default=5, ge=1, le=100)
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Promised share of known songs that are called novel."""
    uncertain_alpha: float = Field(default=0.1, gt=0, lt=1)
    """Songs with p-values between `alpha` and this are uncertain."""
    min_type_songs: int = Field(default=100, ge=1)
    """A type with so many held-out songs is calibrated on its own, each song counting `n_others` times."""
    max_bank: int = Field(default=5000, ge=10)
    other_tempo: float = Field(default=0.09, ge=0, lt=0.5)
    """Held-out songs are judged as sung by others: at a pace that differs by up to this part,"""
    other_pitch_mels: float = Field(default=1.5, ge=0, le=8)
    """and a pitch that differs by up to so many bands."""
    n_others: int = Field(default=3, ge=1, le=100)
    """So often each."""

    def served(self) -> NoveltyConfig:
        """Return the part of them that travels with the bundle."""
        return NoveltyConfig.model_validate(self.model_dump(include=set(NoveltyConfig.model_fields)))


class RunSettings(_Section):
    """How the work is spread."""

    batch_size: int = Field(default=128, ge=4, le=8192)
    max_frames: int = Field(default=384, ge=32)
    """Training looks at stretches of at most this many frames of a song."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: whichever is faster, tried at the start."""
    n_workers: int = Field(default=1, ge=1, le=1024)
    threads_per_worker: int | None = Field(default=None, ge=1)
    """None: the cores of this machine shared among the workers."""
    max_failures: int = Field(default=3, ge=0)
    """So often a lost worker is replaced and training resumed."""
    checkpoint_every_s: float = Field(default=10.0, ge=0, le=3600)
    """A checkpoint follows the first epoch that ends so long after the last one; 0: every epoch."""


class TrainSettings(_Section):
    """Everything of a training run."""

    name: str = Field(default="songs", pattern=f"^{BUNDLE_NAME}$")
    seed: int = Field(default=0, ge=0, lt=2**32)
    """scikit-learn takes no larger one."""
    data: DataSettings = DataSettings()
    encoder: EncoderSettings = EncoderSettings()
    augment: AugmentSettings = AugmentSettings()
    """Views that the network learns from."""
    steady: AugmentSettings = AugmentSettings()
    """Views that show the last layer what is not the song; they may differ more than those that are learned from."""
    warmup: WarmupSettings = WarmupSettings()
    rounds: RoundSettings = RoundSettings()
    clusters: ClusterSettings = ClusterSettings()
    novelty: NoveltySettings = NoveltySettings()
    run: RunSettings = RunSettings()


PRESETS: dict[str, TrainSettings] = {
    "default": TrainSettings(),
    # One sound that lasts a moment: little can change before it is another syllable, and neighbours are soon another syllable.
    "syllable": TrainSettings(
        name="syllables",
        data=DataSettings(segmenter="syllable"),
        encoder=EncoderSettings(n_places=12, n_random=1),
        augment=AugmentSettings(
            tempo=0.05, pitch_mels=1.0, shift_share=0.05, lowest_snr_db=6.0, n_masks=1, mask_mels=3
        ),
        # Borders and pace are part of what a syllable is, so views that differ more would whiten it away.
        steady=AugmentSettings(tempo=0.05, pitch_mels=1.0, shift_share=0.05, lowest_snr_db=6.0, n_masks=1, mask_mels=3),
        warmup=WarmupSettings(n_epochs=8, neighbour_probability=0.0),
        rounds=RoundSettings(n_rounds=0),
        # A bird has tens of syllables, not hundreds: rarer ones are rather renditions cut or sung badly.
        clusters=ClusterSettings(min_share=0.005),
        novelty=NoveltySettings(other_tempo=0.05, other_pitch_mels=1.0),
    ),
    # Clips of anything: few, and each is one type's own world; random weights know as much as they can teach.
    "general": TrainSettings(
        name="sounds",
        data=DataSettings(segmenter="general", segmentation="annotated"),
        encoder=EncoderSettings(n_random=2),
        warmup=WarmupSettings(n_epochs=8, neighbour_probability=0.0),
        rounds=RoundSettings(n_rounds=0),
    ),
    "demo": TrainSettings(
        name="demo",
        warmup=WarmupSettings(n_epochs=10, neighbours_from_epoch=5),
        rounds=RoundSettings(n_rounds=2, n_epochs=4),
        run=RunSettings(batch_size=64),
    ),
}


def preset_for(stream: StreamConfig) -> TrainSettings:
    """Return the preset for the kind of sound that this front end and segmenter are made for, the default for any other."""
    kind = next((name for name in ("syllable", "general") if stream == STREAMS[name]), "default")
    return PRESETS[kind]


def load_settings(file: Path | None, preset: str = "default") -> TrainSettings:
    """Return the preset with what the TOML ``file`` changes; ConfigError names a wrong or unknown key."""
    if preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}: choose one of {', '.join(PRESETS)}", reason="PRESET_UNKNOWN")
    if file is None:
        return PRESETS[preset]
    try:
        changes = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", reason="CONFIG_UNREADABLE") from error
    except ValueError as error:
        raise ConfigError(f"{file} is not TOML ({error})", reason="CONFIG_UNREADABLE") from error
    settings = change_settings(PRESETS[preset], changes, str(file))
    if settings.warmup.n_epochs + settings.rounds.n_rounds == 0:
        raise ConfigError(f"{file}: warmup.n_epochs and rounds.n_rounds are both 0: nothing would be trained")
    return settings


def change_settings(settings: TrainSettings, changes: Mapping[str, object], where: str) -> TrainSettings:
    """Return the settings with nested ``changes``, as a TOML file has them; ConfigError names ``where`` and what is wrong."""
    try:
        return TrainSettings.model_validate(_merged(settings.model_dump(), changes))
    except ValidationError as error:
        raise ConfigError(f"{where}: {setting_problems(error, TrainSettings)}") from error


def _merged(known: dict[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    merged = dict(known)
    for key, value in changes.items():
        old = known.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
