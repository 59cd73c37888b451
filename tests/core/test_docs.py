"""The docs name what the code has: reasons and commands."""

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

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
