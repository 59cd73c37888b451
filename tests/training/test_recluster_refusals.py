"""What `songstream recluster` says of what it cannot begin with, in the words of who typed it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from songcore.errors import SongError
from songtrain.recluster.snapshot import read_snapshot, shown_url, store_folder
from songtrain.recluster.starting import Request, run_request


@pytest.mark.parametrize("place", ["data", "data/songs.sqlite"])
def test_a_store_is_taken_by_its_data_directory_or_file(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `repertoire` and `retype` take it, from wherever the command is given."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "songs.sqlite").touch()
    monkeypatch.chdir(tmp_path)
    assert store_folder(place) == tmp_path / "data"
    assert shown_url(place) == f"sqlite:///{tmp_path}/data/songs.sqlite"


@pytest.mark.parametrize("place", ["sqlite:///{}/songs.sqlite", "postgresql+psycopg://ada:secret@127.0.0.1:1/songs"])
def test_a_store_that_is_not_there_is_called_as_it_was_given(tmp_path: Path, place: str) -> None:
    """But for a password; nothing that the driver is told shows."""
    store = place.format(tmp_path)
    with pytest.raises(SongError) as error:
        read_snapshot(store, clips=None, max_known=1)
    assert error.value.reason == "STORE_UNREACHABLE"
    assert f"the store {store.replace('secret', '***')} cannot be read" in str(error.value)
    assert "secret" not in str(error.value)


def test_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    """It has the reason that every other command gives, whatever else is wrong."""
    store = f"sqlite:///{tmp_path}/songs.sqlite"
    request = Request(store, tmp_path / "nothere", False, None, "quick", "", None, None, None, None)
    with pytest.raises(SongError) as error:
        run_request(request, lambda: datetime(2026, 5, 1, tzinfo=UTC), lambda _: None)
    assert error.value.reason == "BUNDLE_MISSING"
