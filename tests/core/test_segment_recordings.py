"""The segmenter on labelled recordings of real birds, by the program that reports its scores."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


def score(name: str, *options: str) -> dict[str, Any]:
    """Return the JSON line of the benchmark for one labelled set, or skip."""
    if not (DATA / name / "songs.csv").is_file():
        pytest.skip(f"labelled recordings {name} are not beside the checkout")
    program = [sys.executable, str(ROOT / "bench" / "segmentation.py"), "--data", str(DATA / name), "--json", *options]
    result = subprocess.run(program, check=True, capture_output=True, text=True)
    return dict(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.real_data
def test_nightingale_songs() -> None:
    """Of the songs of a near and of a distant nightingale at least 0.95 are found, borders right to 80 ms."""
    report = score("nightingale")
    assert report["song_f1"] >= 0.95
    assert report["median_boundary_error_ms"] <= 80


@pytest.mark.real_data
def test_finch_syllables() -> None:
    """Of the syllables of two Bengalese finches, every sixth recording, at least 0.97 are found, of each bird."""
    report = score("finch", "--preset", "syllable", "--every", "6")
    assert report["song_f1"] >= 0.97
    assert min(group["f1"] for group in report["groups"].values()) >= 0.97


@pytest.mark.real_data
def test_syllables_in_natural_noise() -> None:
    """Of synthetic syllables in two natural noises at least 0.90 are found, and in no added noise nearly all."""
    report = score("chipper", "--preset", "syllable")
    assert report["song_f1"] >= 0.90
    assert report["groups"]["SynSongs_noAddedNoise"]["f1"] >= 0.98
