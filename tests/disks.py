"""File systems of a test's own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["mounted"]


@contextmanager
def mounted(path: Path, *options: str) -> Iterator[Path]:
    """Mount at a folder, made if missing, with options of ``mount``, and give it; skip where that cannot be done."""
    if shutil.which("mount") is None:
        pytest.skip("mount is not installed; deploy/install-test-tools.sh installs it")
    path.mkdir(exist_ok=True)
    if os.getuid() or subprocess.run(["mount", *options, str(path)], capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root alone, and not in every container")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
