"""Let a connection die without a word, as when a router forgets it, and wait until the station has another.

A real station gives sound in real time to a real server, through a proxy that from one moment on swallows everything on that
connection and never closes it; new ones work. The last line is JSON. What its fields mean:

reconnect_s      from the death of the connection until the server's commits reach the station again
rss_growth_mb    memory of the station at the end, minus that before the death
lost_s           sound that was captured and is not committed in the end
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from faults_link import Proxy
from faults_programs import Program, SoundPipe, songstream

ROOT = Path(__file__).resolve().parent.parent
RATE_HZ = 48_000


async def measure(folder: Path, bundle: Path, settings: dict[str, float], limit_s: float) -> dict[str, Any]:
    """Return the fields of the JSON line."""
    proxy = Proxy(Random(0))  # noqa: S311 - no secret
    port, pipe, spool = await proxy.start(), SoundPipe(folder / "sound"), folder / "spool"
    serve = [*songstream(), "serve", "--bundle", str(bundle), "--data-dir", str(folder / "data"), "--json"]
    server = Program(
        [*serve, "--listen", "127.0.0.1:0", "--metrics-port", "0", "--device", "cpu"], folder / "server.log", {}
    )
    command = [*songstream(), "station", "run", "--server", f"127.0.0.1:{port}", "--spool", str(spool)]
    command += ["--pipe", str(folder / "sound"), "--rate", str(RATE_HZ), "--metrics-port", "0"]
    environment = {f"SONGSTREAM_STATION_{name.upper()}": str(value) for name, value in settings.items()}
    station = Program(command, folder / "station.log", environment)
    giving = asyncio.create_task(_give(pipe))
    try:
        server.start()
        proxy.target = int((await server.ready())["address"].rpartition(":")[2])
        station.start()
        before = await _committed(spool, beyond=RATE_HZ, within_s=limit_s)
        rss_mb = _rss_mb(station)
        proxy.forget()
        died_s = time.monotonic()
        await _committed(spool, beyond=before + 5 * RATE_HZ, within_s=limit_s)
        reconnect_s, growth_mb = time.monotonic() - died_s, _rss_mb(station) - rss_mb
        giving.cancel()
        station.send(signal.SIGTERM)
        await station.ended(60)
        state = json.loads((spool / "state.json").read_text())
    finally:
        giving.cancel()
        for program in (station, server):
            await program.kill()
        await proxy.stop()
        pipe.close()
    lost_s = (state["captured_samples"] - state["committed_samples"]) / RATE_HZ
    return {"reconnect_s": round(reconnect_s, 1), "rss_growth_mb": round(growth_mb, 1), "lost_s": lost_s}


async def _give(pipe: SoundPipe) -> None:
    noise = np.random.default_rng(0).normal(0, 300, RATE_HZ).astype("<i2").tobytes()
    due_s, n_bytes = time.monotonic(), 0
    while True:
        await asyncio.sleep(0.02)
        while due_s < time.monotonic():
            n_taken = pipe.write(noise[n_bytes % len(noise) :])
            if not n_taken:  # the pipe is full, and what it does not take was never played
                due_s = time.monotonic()
                break
            n_bytes += n_taken
            due_s += n_taken / (2 * RATE_HZ)


async def _committed(spool: Path, *, beyond: int, within_s: float) -> int:
    """Return the samples that the station knows to be committed, once they are more; raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while True:
            await asyncio.sleep(0.1)
            try:
                cursor: dict[str, Any] = json.loads((spool / "cursor").read_bytes())
            except FileNotFoundError:
                continue
            n_samples: int = sum(one["committed_sample"] for one in cursor.values())
            if n_samples > beyond:
                return n_samples


def _rss_mb(program: Program) -> float:
    assert program.process
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keepalive-s", type=float, help="setting of the station [default: its own]")
    parser.add_argument("--limit-s", type=float, default=300.0, help="give up after this long")
    parser.add_argument("--keep", type=Path, help="keep all files in this new directory")
    given = parser.parse_args()
    sys.path.append(str(ROOT / "tests"))
    from bundles import make_test_bundle

    settings = {} if given.keepalive_s is None else {"keepalive_s": given.keepalive_s}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as name:
        folder = given.keep or Path(name)
        make_test_bundle(folder / "bundle")
        result = asyncio.run(measure(folder, folder / "bundle", settings, given.limit_s))
    print(json.dumps(result))
    if result["reconnect_s"] > 60 or result["lost_s"]:
        sys.exit("the station did not come back in time, or lost sound")


if __name__ == "__main__":
    main()
