"""The models of a bundle's JSON files: everything a trained model needs to be served as it was trained."""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from songcore.features import FeatureConfig
from songcore.frontend import FrontendConfig
from songcore.lineage import TYPE_ID_PATTERN, TypeChange, retired_ids
from songcore.names import BUNDLE_NAME
from songcore.novelty import NoveltyConfig
from songcore.quality import QualityConfig
from songcore.segment import SegmenterConfig
from songcore.stream import StreamConfig

__all__ = ["SCHEMA_VERSION", "EncoderInfo", "GateCheck", "Manifest", "SongType", "manifest_digest"]

SCHEMA_VERSION: Literal[1] = 1


class EncoderInfo(BaseModel):
    """What the encoder is and where its weights come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    n_parameters: int = Field(ge=0)
    dimension: int = Field(ge=1)
    trained_on: str
    """One sentence for people: which recordings, how many songs."""


class SongType(BaseModel):
    """A song type of the catalogue. Its id never changes its meaning and is never used again for another."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=TYPE_ID_PATTERN)
    name: str = ""
    """Given by people; empty until someone does."""
    kind: Literal["song", "noise"] = "song"
    n_songs: int = Field(default=0, ge=0)
    """Songs of this type in the training set."""
    parents: tuple[str, ...] = ()
    """Ids this type was split or merged from."""
    exemplars: tuple[str, ...] = ()
    """Typical songs as ``recording@onset_s-offset_s``, the most typical first."""


class GateCheck(BaseModel):
    """One thing that a retrained bundle had to show before it may replace its parent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["golden", "id_stability", "survival", "named_types", "review", "calibration", "decisions"]
    passed: bool
    value: float | None = None
    """What was found; None where there was nothing to measure, and the check then passes."""
    bound: str = ""
    """What was expected, for people: ``at least 0.85``."""
    detail: str = ""


class Manifest(BaseModel):
    """``manifest.json``: the parameters that travel with the weights, and the hashes of the files beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str = Field(pattern=f"^{BUNDLE_NAME}$")
    created_by: str
    created_at: datetime
    parent_digest: str | None = None
    """The bundle this one was retrained from."""
    frontend: FrontendConfig
    segmenter: SegmenterConfig
    features: FeatureConfig
    encoder: EncoderInfo
    novelty: NoveltyConfig
    lineage: tuple[TypeChange, ...] = ()
    """What every retraining since the first bundle did to the types, the oldest first."""
    gate: tuple[GateCheck, ...] = ()
    """What a retrained bundle showed; none for one trained from nothing."""
    quality: QualityConfig = QualityConfig()
    report: dict[str, float | int | str | None] = {}
    """Scores of the evaluation, for people and for release gates."""
    sha256: dict[str, str]
    digest: str = ""
    """SHA-256 over everything above; names the model on every result."""

    def computed_digest(self) -> str:
        """Return the `manifest_digest` of this manifest."""
        # Through JSON text, as it will be read back: a score that is not a number is then null in both.
        return manifest_digest(json.loads(self.model_dump_json()))

    @property
    def retired(self) -> frozenset[str]:
        """Ids that name no type any more and are not given again."""
        return retired_ids(self.lineage)

    @property
    def stream(self) -> StreamConfig:
        """What decides which songs a stream holds."""
        return StreamConfig(self.frontend, self.segmenter, self.features, self.quality)


def manifest_digest(content: Mapping[str, object]) -> str:
    """Return the SHA-256, in hex, of a manifest.json as it was read, without its digest, as JSON with sorted keys.

    Of what stands there: a field that came later, and is not there, has its default and changes no digest.
    """
    rest = {name: value for name, value in content.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
