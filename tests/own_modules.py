"""Modules of estimators of one's own, as users of the laboratory bring them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["importable"]


@contextmanager
def importable(folder: Path, name: str, text: str) -> Iterator[None]:
    """Put a module on the path of this process and of what it starts: Ray's workers, if Ray comes after."""
    (folder / f"{name}.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder))
        yield
