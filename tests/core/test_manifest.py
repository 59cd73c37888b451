"""The manifest: any parameters survive JSON with the same digest, and unknown, missing or odd ones do not pass."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bundles import stream_config
from songcore.manifest import EncoderInfo, Manifest, SongType
from songcore.novelty import NoveltyConfig

config = stream_config()


def manifest(**changes: Any) -> Manifest:
    """Return a manifest without a digest."""
    fields = {
        "name": "test",
        "created_by": "a test",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "frontend": config.frontend,
        "segmenter": config.segmenter,
        "features": config.features,
        "quality": config.quality,
        "encoder": EncoderInfo(architecture="none", n_parameters=0, dimension=3, trained_on="nothing"),
        "novelty": NoveltyConfig(),
        "sha256": {"encoder.onnx": "0" * 64},
    }
    return Manifest.model_validate({**fields, **changes})


def signed(made: Manifest) -> Manifest:
    """Return the manifest with its digest."""
    return made.model_copy(update={"digest": made.computed_digest()})


@given(
    report=st.dictionaries(st.text(max_size=8), st.floats() | st.integers() | st.text(max_size=8) | st.none()),
    created_by=st.text(max_size=20),
    created_at=st.datetimes(timezones=st.just(UTC) | st.just(timezone(timedelta(hours=5, minutes=30)))),
)
def test_digest_survives_the_file(report: dict[str, Any], created_by: str, created_at: datetime) -> None:
    """Written as JSON text and read back, a manifest has the digest it was signed with, also with NaN among the scores."""
    made = signed(manifest(report=report, created_by=created_by, created_at=created_at))
    read = Manifest.model_validate(json.loads(made.model_dump_json(indent=1)))
    assert read.digest == read.computed_digest() == made.digest


def test_digest_is_stable() -> None:
    """The digest neither depends on the digest field nor on the order of keys in the file."""
    made = signed(manifest())
    assert signed(made) == made
    turned = dict(reversed(json.loads(made.model_dump_json()).items()))
    assert Manifest.model_validate(turned).computed_digest() == made.digest


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"frontend": config.frontend.model_copy(update={"hop": 385})},
        {"segmenter": config.segmenter.model_copy(update={"quiet_db": 8.5})},
        {"features": config.features.model_copy(update={"margin_db": 3.5})},
        {"novelty": NoveltyConfig(alpha=0.051)},
        {"sha256": {"encoder.onnx": "1" * 64}},
        {"report": {"score": 0.5}},
        {"parent_digest": "0" * 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_part_is_in_the_digest(change: dict[str, Any]) -> None:
    """A change of any parameter changes the digest."""
    assert manifest(**change).computed_digest() != manifest().computed_digest()


def test_stream_parameters_come_from_the_manifest() -> None:
    """The stream's configuration is the manifest's, part for part."""
    assert manifest().stream == config


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"name": "My Bundle"},
        {"name": ""},
        {"name": "../etc"},
        {"name": "a" * 64},
        {"schema_version": 2},
        {"schema_version": "1"},
        {"created_at": "yesterday"},
        {"frontend": {"hop": 384, "window": "hann"}},
        {"novelty": {"alpha": 0.05, "threshold": 1}},
        {"encoder": {"architecture": "x"}},
        {"sha256": None},
        {"report": {"scores": [1, 2]}},
    ],
    ids=str,
)
def test_other_manifests_are_refused(change: dict[str, Any]) -> None:
    """Unknown and missing keys at any depth, another schema and odd values are refused."""
    with pytest.raises(ValidationError):
        manifest(**change)


@pytest.mark.parametrize("missing", ["name", "frontend", "segmenter", "features", "encoder", "novelty", "sha256"])
def test_parameters_have_no_silent_defaults(missing: str) -> None:
    """A manifest without one of its parts is refused: nothing about a model is assumed."""
    fields = json.loads(manifest().model_dump_json())
    del fields[missing]
    with pytest.raises(ValidationError, match=missing):
        Manifest.model_validate(fields)


@pytest.mark.parametrize("type_id", ["T0001", "N00000042", "ABCD1234"])
def test_type_ids(type_id: str) -> None:
    """One to four capitals and four to eight digits name a type."""
    assert SongType(id=type_id).id == type_id


@pytest.mark.parametrize("type_id", ["", "t0001", "T001", "T123456789", "ABCDE0001", "T0001 ", "T0001\n", "Ｔ0001"])
def test_other_type_ids_are_refused(type_id: str) -> None:
    """Anything else does not name a type, so an id is safe in file names, labels and URLs."""
    with pytest.raises(ValidationError):
        SongType(id=type_id)
