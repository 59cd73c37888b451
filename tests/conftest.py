"""The order of all tests, and the database server that several kinds of them share."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from postgres import PostgresServer, why_no_postgres
from required_tools import pytest_runtest_makereport

__all__ = ["postgres", "pytest_collection_modifyitems", "pytest_runtest_makereport"]

# As `songcore.cli` sets it, before gRPC is imported: what Ray or `preexec_fn` forks can crash otherwise.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# How long an example takes is said by what else the machine does.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that ask for the most time, so that no worker is left alone with one of them at the end."""
    asked: dict[Path, float] = {}
    for item in items:
        marker = item.get_closest_marker("timeout")
        asked[item.path] = max(asked.get(item.path, 0.0), float(marker.args[0]) if marker and marker.args else 0.0)
    items.sort(key=lambda item: -asked[item.path])


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Return a PostgreSQL server with any number of databases."""
    if reason := why_no_postgres():
        pytest.skip(reason)
    with PostgresServer() as server:
        yield server
