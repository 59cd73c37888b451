"""The docs name what the code has: reasons and commands."""

import io
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from songcore.annotations import read_songs_csv

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


@pytest.mark.parametrize(
    ("table", "songs"),
    [
        (
            (
                "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tBegin Path\t"
                "File Offset (s)\tAnnotation\n"
                "1\tSpectrogram 1\t1\t1.0\t2.5\t0\t9000\tC:\\birds\\a.wav\t1.0\tA\n"
                "2\tSpectrogram 1\t1\t61.0\t62.5\t0\t9000\tC:\\birds\\b.wav\t1.0\t\n"
            ),
            [("a.wav", 1.0, 2.5, "A"), ("b.wav", 1.0, 2.5, "")],
        ),
        ("1.0\t2.5\tA\n", [("night.wav", 1.0, 2.5, "A")]),
    ],
    ids=["Raven", "Audacity"],
)
def test_other_programs_tables_become_songs_csv(
    tmp_path: Path, table: str, songs: list[tuple[str, float, float, str]]
) -> None:
    """The script of reasons.md makes the songs.csv that commands read."""
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/reasons.md").read_text(), re.DOTALL)
    (tmp_path / "night.txt").write_text(table)
    command = [sys.executable, "-c", script, str(tmp_path / "night.txt"), "night.wav"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = read_songs_csv(io.StringIO(done.stdout))
    assert [(one.recording, one.onset_s, one.offset_s, one.label) for one in found] == songs


def test_every_command_is_documented() -> None:
    """Every sub-command is used on a page or in the README."""
    text = docs() + (ROOT / "README.md").read_text()
    names = {entry.name for entry in entry_points(group="songstream.commands")}
    assert {"classify", "listen", "serve", "synth", "train"} <= names
    assert {name for name in names if not re.search(rf"songstream {name}\b", text)} == set()
