"""bench/clusters.py: what is asked of it wrongly is said by name, before anything is run."""

import sys
from pathlib import Path

import pytest
import typer

from songcore.errors import InputError

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))

import clusters as bench


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("songs=many", "whole number from 1"),
        ("songs=0", "whole number from 1"),
        ("channel=-1", "whole number from 1"),
        ("segmenter=sylable", "song, syllable, general"),
        ("segmentation=none", "auto, annotated, automatic"),
    ],
)
def test_options_that_cannot_be_are_answered_with_what_can(option: str, words: str) -> None:
    """A number that is none and a word that is not among the choices: the choices are told."""
    with pytest.raises(typer.BadParameter, match=words):
        bench.parse_set(f"a=folder,{option}")


def test_two_sets_of_one_name_are_refused() -> None:
    """Else the second one's scores would stand where the first one's were."""
    with pytest.raises(typer.BadParameter, match="one name"):
        bench.main(["a=one", "a=two"])


def test_a_file_of_stretches_that_names_what_is_not_there_is_told(tmp_path: Path) -> None:
    """The message has the file that is missing and where it was looked for."""
    (tmp_path / "segments.csv").write_text("idx,sprite,start_s,dur_s,species\n0,gone.wav,0,1,a\n")
    with pytest.raises(InputError, match=r"names gone\.wav, which is neither in") as raised:
        bench.folder_of_segments(tmp_path, tmp_path / "made")
    assert raised.value.reason == "RECORDING_MISSING"
