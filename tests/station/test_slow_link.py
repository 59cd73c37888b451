"""A link on which every answer takes seconds."""

import asyncio
import sys
from pathlib import Path
from random import Random

from certificates import Authority
from serving import ServerThread
from songcore.bundle import Bundle
from songcore.credentials import credentials_for
from songstation.channel import Channel

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))

from faults_link import Proxy, Weather


def test_tls_over_a_slow_link_is_given_the_time_it_takes(bundle: Bundle, tmp_path: Path) -> None:
    """Connecting takes longer than the longest delay between two tries, and the first try succeeds all the same."""
    authority = Authority(tmp_path / "certificates")
    files = authority.certificate("127.0.0.1")

    async def connect(port: int) -> int:
        proxy = Proxy(Random(0))
        address = f"127.0.0.1:{await proxy.start()}"
        proxy.target, proxy.weather = port, Weather(latency_s=(1.3, 1.3))
        trusted = credentials_for(address, ca=authority.ca)
        async with Channel(address, trusted) as channel:
            await asyncio.wait_for((await channel.opened()).channel_ready(), 60)
        await proxy.stop()
        return proxy.n_connections

    with ServerThread(bundle, tmp_path / "data", tls_certificate=files.certificate, tls_key=files.key) as server:
        assert asyncio.run(connect(int(server.addresses.grpc.rpartition(":")[2]))) == 1
