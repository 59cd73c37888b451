"""A server that breaks the rule of acks on purpose: it acknowledges a commit half a second before it is on the disk.

Takes the options of ``songstream serve`` that bench/faults.py gives, which is to find it out.
"""

import argparse
import asyncio
import json
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from songcore.bundle import load_bundle
from songserve.records import Commit, StoredSong
from songserve.refusal import Refusal
from songserve.server import serving
from songserve.settings import load_settings
from songserve.store import Store

LATE_S = 0.5


class EarlyStore(Store):
    """Says that a commit is stored, and stores it later."""

    def commit(self, commit: Commit) -> "Future[Sequence[StoredSong]]":
        """Answer at once."""
        told: Future[Sequence[StoredSong]] = Future()
        told.set_result(commit.songs)
        later = threading.Timer(LATE_S, self._commit_later, [commit])
        later.daemon = True
        later.start()
        return told

    def _commit_later(self, commit: Commit) -> None:
        with suppress(Refusal):
            super().commit(commit).result()


async def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    for name in ("bundle", "data-dir", "listen", "metrics-port", "device", "config"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--json", action="store_true")
    given = vars(parser.parse_args())
    config = given.pop("config")
    given.pop("json")
    settings = load_settings(given, file=Path(config))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    bundle = load_bundle(settings.bundle, device="cpu")
    async with serving(settings, bundle, version="early", make_store=EarlyStore) as server:
        print(json.dumps({"address": server.addresses.grpc}), flush=True)
        await stop.wait()
        await asyncio.sleep(2 * LATE_S)


if __name__ == "__main__":
    asyncio.run(main())
