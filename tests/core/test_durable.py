"""Files are replaced whole or not at all, and only they."""

from pathlib import Path

import pytest

from songcore.durable import replace_file


def test_a_file_has_the_old_content_or_the_new(tmp_path: Path) -> None:
    """Nothing is left beside it, and the mode is as asked."""
    path = tmp_path / "cursor"
    for content in (b"old", b"new"):
        replace_file(path, content, mode=0o640)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o640)
    assert list(tmp_path.iterdir()) == [path]


def test_no_link_is_followed(tmp_path: Path) -> None:
    """A link in the place of the scratch file, which leads elsewhere, is an error; what it leads to stays as it is."""
    path, other = tmp_path / "shelf", tmp_path / "other"
    other.write_text("precious")
    (tmp_path / "shelf.new").symlink_to(other)
    with pytest.raises(OSError, match="symbolic links"):
        replace_file(path, b"content")
    assert other.read_text() == "precious"
    replace_file(path, b"content")
    assert path.read_bytes() == b"content"
