"""The pages of training and reclustering name every run parameter."""

from pathlib import Path

from pydantic import BaseModel

from songtrain.recluster.settings import ReclusterSettings
from songtrain.settings import TrainSettings

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
RECLUSTER = PAGE.with_name("recluster.md")


def test_every_parameter_is_documented_with_its_default() -> None:
    """The table of parameters holds exactly the fields of the settings, each with the default it has."""
    settings = TrainSettings()
    expected: dict[str, str] = {}
    for name in TrainSettings.model_fields:
        value = getattr(settings, name)
        parts = (
            {f"{name}.{key}": getattr(value, key) for key in type(value).model_fields}
            if isinstance(value, BaseModel)
            else {name: value}
        )
        expected |= {key: "–" if part is None else str(part) for key, part in parts.items()}
    rows = [line.split("|") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert {row[1].strip(" `"): row[2].strip() for row in rows} == expected


def test_every_parameter_of_a_reclustering_is_documented_with_its_default() -> None:
    """The table on the page of reclustering holds exactly the fields of its settings, each with the default it has."""
    settings = ReclusterSettings()
    expected: dict[str, str] = {}
    for name in ReclusterSettings.model_fields:
        value = getattr(settings, name)
        fields = (
            {f"{name}.{key}": getattr(value, key) for key in type(value).model_fields}
            if isinstance(value, BaseModel)
            else {name: value}
        )
        expected |= {key: "–" if part is None else str(part) for key, part in fields.items()}
    text = RECLUSTER.read_text(encoding="utf-8").split("## Parameters")[1]
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    assert {row[1].strip(" `"): row[2].strip() for row in rows} == expected
