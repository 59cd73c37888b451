"""The docs name what the code has: reasons, commands, training settings."""

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from pydantic import BaseModel

from songtrain.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("core/songcore", "service/songserve", "service/songstation", "training/songtrain")
FAMILIES = {"INPUT_INVALID", "BUNDLE_INVALID", "SONG_ERROR"}
"""Of the error tree's classes; nothing is raised without a reason of its own, but for settings."""


def docs() -> str:
    """Return the text of all pages."""
    return "\n".join(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))


@pytest.mark.parametrize("source", SOURCES)
def test_every_reason_is_documented(source: str) -> None:
    """Every reason that the package's code can give stands on a page."""
    texts = [path.read_text() for path in (ROOT / source).rglob("*.py")]
    reasons = {reason for text in texts for reason in re.findall(r'reason"?\s*[:=]\s*"([A-Z_]+)"', text)} - FAMILIES
    assert reasons
    assert reasons - set(re.findall(r"`([A-Z_]+)`", docs())) == set()


def test_every_command_is_documented() -> None:
    """Every sub-command is used on a page or in the README."""
    text = docs() + (ROOT / "README.md").read_text()
    names = {entry.name for entry in entry_points(group="songstream.commands")}
    assert {"classify", "listen", "serve", "synth", "train"} <= names
    assert {name for name in names if not re.search(rf"songstream {name}\b", text)} == set()


def settings_of(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Return every setting of a tree of models with its default as the docs write it."""
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            found |= settings_of(type(field.default), f"{prefix}{name}.")
        elif isinstance(field.default, tuple):
            found[prefix + name] = ", ".join(map(str, field.default))
        else:
            found[prefix + name] = "" if field.default is None else str(field.default)
    return found


def test_every_training_setting_is_documented() -> None:
    """The table in docs/training.md has every setting with its default, and none that is gone."""
    rows = re.findall(r"^\| `([a-z_.]+)` \| ?(.*?) ?\|", (ROOT / "docs" / "training.md").read_text(), re.MULTILINE)
    assert dict(rows) == settings_of(TrainSettings)
