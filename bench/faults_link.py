"""A bad network in one process: a TCP proxy whose weather can be changed while connections go through it.

What it can do to them is what Toxiproxy can: refuse, reset at a byte, stand still, swallow without a word, be slow, and pass
one direction only.
"""

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from random import Random
from typing import Literal

__all__ = ["Proxy", "Weather"]

Direction = Literal["up", "down"]
"""Up is to the server."""
_READ_BYTES = 16_384


@dataclass
class Weather:
    """What happens to bytes on the way; all of it can change at any moment."""

    refuses: bool = False
    """New connections are reset."""
    swallows: set[Direction] = field(default_factory=set)
    """What goes there disappears; a connection that lost bytes never carries any again in that direction, nor an end."""
    latency_s: tuple[float, float] = (0.0, 0.0)
    """Least and most, for each piece."""
    bytes_per_s: float = 0.0
    """In each direction; 0 for any number."""
    most_bytes: int = _READ_BYTES
    """In one piece."""


class Proxy:
    """Carries connections to ``target``, a port of this machine, which may change; without one they are refused."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.target: int | None = None
        self.weather = Weather()
        self.flows = asyncio.Event()
        """While cleared every byte waits; nothing is lost by that."""
        self.flows.set()
        self.n_connections = self.n_bytes = 0
        self._reset_at: int | None = None
        self._open: set[_Connection] = set()

    async def start(self) -> int:
        """Return the port to connect to."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_READ_BYTES)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """End all connections and take no more."""
        self._server.close()
        self.reset()
        await self._server.wait_closed()

    def reset(self) -> None:
        """Reset every connection: both ends get RST."""
        for connection in list(self._open):
            connection.reset()

    def forget(self) -> None:
        """Let every connection be dead without a word: nothing goes through it any more, and neither end is told."""
        for connection in self._open:
            connection.is_dead = True

    def reset_after(self, n_bytes: int) -> None:
        """Reset every connection when so many more bytes have gone through, in the middle of whatever they are."""
        self._reset_at = self.n_bytes + n_bytes

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_connections += 1
        connection = _Connection(self, reader, writer)
        self._open.add(connection)
        try:
            await connection.run()
        except asyncio.CancelledError:  # the program ends
            pass
        finally:
            self._open.discard(connection)
            connection.reset()

    def room(self) -> int:
        """Return how many bytes may be passed on before a reset is due; at least 1."""
        return max(1, self._reset_at - self.n_bytes) if self._reset_at is not None else _READ_BYTES

    def passed(self, n_bytes: int) -> None:
        """Count bytes, and reset when it is time."""
        self.n_bytes += n_bytes
        if self._reset_at is not None and self.n_bytes >= self._reset_at:
            self._reset_at = None
            self.reset()

    async def delay(self, n_bytes: int) -> None:
        """Wait as long as a piece takes."""
        least, most = self.weather.latency_s
        seconds = self._rng.uniform(least, most) if most else 0.0
        if self.weather.bytes_per_s:
            seconds += n_bytes / self.weather.bytes_per_s
        if seconds:
            await asyncio.sleep(seconds)
        await self.flows.wait()


class _Connection:
    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy, self._reader, self._writers = proxy, reader, [writer]
        self._over = asyncio.Event()
        self.is_dead = False

    async def run(self) -> None:
        """Carry both directions until one end is closed or the connection is reset."""
        proxy = self._proxy
        if proxy.weather.refuses or proxy.target is None:
            return
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.target, limit=_READ_BYTES)
        except OSError:
            return
        self._writers.append(writer)
        pumps = [
            asyncio.create_task(self._pump(self._reader, writer, "up")),
            asyncio.create_task(self._pump(reader, self._writers[0], "down")),
        ]
        try:
            await self._over.wait()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    def reset(self) -> None:
        """Close both ends so that the kernel sends RST."""
        self._over.set()
        for writer in self._writers:
            end: socket.socket | None = writer.get_extra_info("socket")
            if end is not None and end.fileno() >= 0:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        proxy, has_lost = self._proxy, False
        try:
            while data := await reader.read(_READ_BYTES):
                while data:
                    n_bytes = min(len(data), proxy.weather.most_bytes, proxy.room())
                    await proxy.delay(n_bytes)
                    has_lost = has_lost or self.is_dead or direction in proxy.weather.swallows
                    if not has_lost:
                        writer.write(data[:n_bytes])
                        await writer.drain()
                        proxy.passed(n_bytes)
                    data = data[n_bytes:]
        except OSError:
            pass
        if not (has_lost or self.is_dead or proxy.weather.swallows):
            self._over.set()
