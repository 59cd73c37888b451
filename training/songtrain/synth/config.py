"""What a simulated season is made of, and the presets."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from songcore.errors import ConfigError
from songcore.setting_problems import setting_problems

__all__ = ["PRESETS", "SeasonConfig", "season_config"]


class SeasonConfig(BaseModel):
    """A season of singing, complete but for its random numbers, which follow from the two seeds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seed: int = Field(default=1, ge=0)
    """Singers, plan, renditions, weather and noise of this season."""
    type_seed: int = Field(default=1, ge=0)
    """The song types: seasons that share it share their types, whoever sings them."""

    day: int = Field(default=0, ge=0, le=10_000)
    """Days share singers, stations and types, and differ in who sings what, how, and in what weather."""

    n_types: int = Field(default=40, ge=1, le=2000)
    near_variant_share: float = Field(default=0.2, ge=0, le=0.9)
    """Share of types that are another type with one or two sections exchanged or altered."""
    zipf_exponent: float = Field(default=1.0, ge=0, le=3)
    """Type i of n (counted from 0) is sung in proportion to 1 / (i + 1) ** zipf_exponent."""
    withheld: tuple[int, ...] = ()
    """Types that nobody sings this season, by index; the others keep their proportions."""

    drifting: int | None = Field(default=None, ge=0)
    """A type, by index, that is sung a little higher every day."""
    drift_octaves: float = Field(default=0.0, ge=-0.1, le=0.1)
    """Each day, against the day before."""

    n_songs: int = Field(default=2000, ge=1, le=1_000_000)
    n_singers: int = Field(default=4, ge=1, le=1000)
    n_stations: int = Field(default=4, ge=1, le=1000)
    """Recorders, each with its own noise, echoes and microphone; a singer keeps to one of its site."""
    n_sites: int = Field(default=2, ge=1, le=1000)
    """Neighbourhoods of stations. Singers of one site share a dialect."""
    repertoire_share: float = Field(default=0.7, gt=0, le=1)
    """Share of the types that one singer knows; every type is known by someone."""

    tempo_sd: float = Field(default=0.04, ge=0, le=0.3)
    """Rendition to rendition, standard deviation of the natural logarithm of the pace."""
    pitch_sd_octaves: float = Field(default=0.012, ge=0, le=0.3)
    voice_sd_octaves: float = Field(default=0.03, ge=0, le=0.3)
    """Singer to singer."""
    dialect_sd_octaves: float = Field(default=0.02, ge=0, le=0.3)
    """Site to site, for each section of a type."""
    slip_share: float = Field(default=0.03, ge=0, le=1)
    """Chance of a slip: a note dropped, a motif repeated once more or less, a soft section left out, the end cut."""

    snr_db: tuple[float, float] = (6.0, 30.0)
    """Least and greatest song-to-noise ratio, see `songtrain.synth.scene`."""
    overlap_share: float = Field(default=0.0, ge=0, le=0.5)
    """Share of songs sung by a second, labelled singer in the same recording, in its own rhythm: many overlap."""
    far_singer_share: float = Field(default=0.3, ge=0, le=1)
    """Share of recordings in which an unlabelled nightingale sings far behind."""
    other_birds_per_minute: float = Field(default=4.0, ge=0, le=60)
    insect_share: float = Field(default=0.3, ge=0, le=1)
    rain_share: float = Field(default=0.1, ge=0, le=1)
    wind_share: float = Field(default=0.4, ge=0, le=1)

    sample_rate_hz: int = Field(default=48_000, ge=24_000, le=192_000)
    recording_s: float = Field(default=120.0, ge=20, le=3600)
    """Length of a recording; one whose songs do not fit is as much longer as they need."""
    duty: float = Field(default=0.4, ge=0.1, le=0.6)
    """Share of the time in which the singer of a recording sings."""

    def spawn_key(self, *key: int) -> tuple[int, ...]:
        """Return the key of a random stream that each day has for itself; the first day's keys are those of old."""
        return (*key, self.day) if self.day else key

    @field_validator("withheld")
    @classmethod
    def _sorted(cls, withheld: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(withheld)))

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.snr_db
        if not -30 <= low <= high <= 60:
            raise ValueError(f"snr_db {low} to {high}: expected least and greatest, in this order, within -30 to 60 dB")
        wrong = [i for i in self.withheld if not 0 <= i < self.n_types]
        if wrong:
            raise ValueError(f"withheld types {wrong} do not exist: types are 0 to {self.n_types - 1}")
        if self.drifting is not None and self.drifting >= self.n_types:
            raise ValueError(f"drifting type {self.drifting} does not exist: types are 0 to {self.n_types - 1}")
        if len(self.withheld) == self.n_types:
            raise ValueError("every type is withheld: nothing is left to sing")
        if self.n_sites > self.n_stations:
            raise ValueError(f"{self.n_sites} sites but only {self.n_stations} stations: give every site a station")
        return self


PRESETS: dict[str, SeasonConfig] = {
    "demo": SeasonConfig(
        n_types=14,
        n_songs=600,
        n_singers=3,
        n_stations=3,
        n_sites=1,
        near_variant_share=0.0,
        repertoire_share=0.9,
        snr_db=(12.0, 30.0),
        far_singer_share=0.2,
        other_birds_per_minute=2.0,
        rain_share=0.0,
    ),
    "easy": SeasonConfig(),
    "hard": SeasonConfig(
        n_types=60,
        n_songs=5000,
        n_singers=6,
        n_stations=6,
        n_sites=3,
        near_variant_share=0.3,
        repertoire_share=0.6,
        tempo_sd=0.05,
        pitch_sd_octaves=0.015,
        voice_sd_octaves=0.02,
        dialect_sd_octaves=0.015,
        slip_share=0.05,
        snr_db=(-5.0, 30.0),
        overlap_share=0.1,
        far_singer_share=0.3,
        other_birds_per_minute=3.0,
        rain_share=0.15,
        wind_share=0.5,
    ),
}
PRESETS["default"] = PRESETS["easy"]


def season_config(preset: str = "default", **changes: object) -> SeasonConfig:
    """Return a preset with some fields changed; ConfigError names what is wrong."""
    if preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}: choose one of {', '.join(PRESETS)}", reason="PRESET_UNKNOWN")
    try:
        return SeasonConfig.model_validate(PRESETS[preset].model_dump() | changes)
    except ValidationError as error:
        problems = setting_problems(error, SeasonConfig, whole="season")
        raise ConfigError(f"season settings: {problems}", reason="SEASON_INVALID") from error
