"""The test bundle, made once for all tests of the core."""

import shutil
from pathlib import Path

import pytest

from bundles import bundle_parts
from songcore.bundle import BundleParts, write_bundle


@pytest.fixture(scope="session")
def parts() -> BundleParts:
    """Return what the test bundle is made of."""
    return bundle_parts()


@pytest.fixture(scope="session")
def pristine(parts: BundleParts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a bundle that no test changes."""
    path = tmp_path_factory.mktemp("bundles") / "pristine"
    write_bundle(path, parts)
    return path


@pytest.fixture
def bundle_path(pristine: Path, tmp_path: Path) -> Path:
    """Return the path of a bundle to be damaged."""
    return Path(shutil.copytree(pristine, tmp_path / "bundle"))
