"""One test bundle, servers on fresh data directories, and stores on both databases."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bundles import Family, make_family, make_test_bundle
from postgres import PostgresServer
from serving import ServerThread
from songcore.bundle import Bundle
from stores import Opened

StartServer = Callable[..., ServerThread]


@pytest.fixture(scope="session")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the test bundle."""
    path = tmp_path_factory.mktemp("bundles") / "test"
    make_test_bundle(path)
    return path


@pytest.fixture(scope="session")
def bundle(bundle_dir: Path) -> Bundle:
    """Return the test bundle, loaded."""
    from songcore.bundle import load_bundle

    return load_bundle(bundle_dir, device="cpu")


@pytest.fixture(scope="session")
def family(bundle_dir: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Return the test bundle and what was retrained from it."""
    return make_family(bundle_dir, bundle, tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def start_server(bundle: Bundle, tmp_path: Path) -> Iterator[StartServer]:
    """Return a function that starts a server in this process; all are drained at the end."""
    with ExitStack() as stack:

        def start(data_dir: Path | None = None, **settings: Any) -> ServerThread:
            return stack.enter_context(ServerThread(bundle, data_dir or tmp_path / "data", **settings))

        yield start


@pytest.fixture
def server(start_server: StartServer) -> ServerThread:
    """Return a server with default settings."""
    return start_server()


@pytest.fixture(scope="module")
def shared_server(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    """Return a server for tests that each use a session of their own."""
    with ServerThread(bundle, tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """Return None for the SQLite file of a data directory, and then the URL of a new PostgreSQL database."""
    if request.param == "sqlite":
        return None
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def opened(tmp_path: Path, database_url: str | None) -> Iterator[Opened]:
    """Return an open store, on each database."""
    with Opened(tmp_path / "data", database_url=database_url) as opened:
        yield opened
