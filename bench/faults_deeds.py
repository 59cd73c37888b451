"""The faults themselves, each a method by its name in `faults_plan.KINDS`; a fault has ended when its method returns."""

import asyncio
import os
import signal
import time
from pathlib import Path

from faults_account import Place
from faults_link import Weather
from faults_plan import Fault
from faults_programs import Disk
from faults_world import World

from songstation.spool_records import HEADER_BYTES, Found, Kind, scan

__all__ = ["Deeds"]

_STEPS_S = (3600.0, -3600.0, 43_200.0, -1.0e9)
"""By which the wall clock is set; the last is a clock that begins anew after a power cut."""


class Deeds(World):
    """A world in which things go wrong."""

    async def do(self, fault: Fault) -> None:
        """Do one and heal it."""
        await getattr(self, f"_{fault.kind}")(fault)

    async def _reset(self, fault: Fault) -> None:
        self.proxy.reset_after(round(fault.size * 100_000))
        self.faults["reset"] += 1

    async def _link_down(self, fault: Fault) -> None:
        async with self.breaking:
            self._break_link()
            await asyncio.sleep(fault.lasts_s)
            self.proxy.weather = Weather()
        self.faults["link_down"] += 1

    def _break_link(self) -> None:
        self.proxy.weather = Weather(refuses=True)
        self.proxy.reset()

    async def _stall(self, fault: Fault) -> None:
        self.proxy.flows.clear()
        await asyncio.sleep(fault.lasts_s)
        self.proxy.flows.set()
        self.faults["stall"] += 1

    async def _black_hole(self, fault: Fault) -> None:
        self.proxy.forget()
        await self._weather(fault, Weather(swallows={"up", "down"}))

    async def _lost_acks(self, fault: Fault) -> None:
        await self._weather(fault, Weather(swallows={"down"}))

    async def _slow_link(self, fault: Fault) -> None:
        slow = Weather(
            latency_s=(0.0, 0.02 * fault.size),
            bytes_per_s=100_000 + 400_000 * fault.size,
            most_bytes=self.rng.choice([1, 100, 1500]),
        )
        await self._weather(fault, slow)

    async def _weather(self, fault: Fault, weather: Weather) -> None:
        async with self.breaking:
            self.proxy.weather = weather
            await asyncio.sleep(fault.lasts_s)
            self.proxy.weather = Weather()
        self.faults[fault.kind] += 1

    async def _kill_server(self, fault: Fault) -> None:
        async with self.serving:
            self.proxy.target = None
            await self.server.kill()
            self.books.check(self.n_given)
            await asyncio.sleep(fault.lasts_s * fault.size)
            await self.start_server()
        self.faults["kill_server"] += 1

    async def _drain_server(self, fault: Fault) -> None:
        async with self.serving:
            self.server.send(signal.SIGTERM)
            if (code := await self.server.ended(30)) != 0:
                self.problems.append(f"the server ended with {code} when it was drained")
            await self.server.kill()
            self.proxy.target = None
            await self.start_server()
        self.faults[fault.kind] += 1

    async def _freeze_server(self, fault: Fault) -> None:
        self.server.send(signal.SIGSTOP)
        await asyncio.sleep(fault.lasts_s)
        self.server.send(signal.SIGCONT)
        self.faults[fault.kind] += 1

    async def _kill_station(self, fault: Fault) -> None:
        async with self.recording:
            await self.end_station()
            self._note_torn()
            await self.restart_station()
        self.faults[fault.kind] += 1

    async def _server_disk_full(self, fault: Fault) -> None:
        await self._full_disk(fault, self.data)

    async def _station_disk_full(self, fault: Fault) -> None:
        await self._full_disk(fault, self.spool)

    async def _full_disk(self, fault: Fault, disk: Disk) -> None:
        disk.fill(round(fault.size * 16_000_000) if fault.size < 0.5 else round((fault.size - 0.5) * 200_000))
        began_s = time.monotonic()
        await asyncio.sleep(fault.lasts_s)
        disk.free()
        if disk is self.spool:
            # As much as can be given in that time, and what was on the way.
            self.losable_s += (time.monotonic() - began_s) * self.plan.speed + 2.5
        self.faults[fault.kind] += 1

    async def _disk_full_kill(self, fault: Fault) -> None:
        async with self.breaking, self.recording:
            # Of what has arrived at the server nothing can be lost.
            self._break_link()
            self.spool.fill(0)
            began_s = time.monotonic()
            await asyncio.sleep(2.0 + fault.lasts_s)
            await self.end_station()
            self._note_torn()
            self.losable_s += (time.monotonic() - began_s) * self.plan.speed + 2.5
            if fault.size < 0.5:
                self.spool.free()
            self.station.start()
            if fault.size >= 0.5:  # it finds its disk as full as it left it
                await asyncio.sleep(fault.lasts_s)
                self.spool.free()
            await self.go_on()
            self.proxy.weather = Weather()
        self.faults[fault.kind] += 1

    async def _torn_record(self, fault: Fault) -> None:
        async with self.breaking, self.recording:
            self._break_link()
            if await self._captures_more(2):
                await self.end_station()
                self._tear(fault)
                await self.restart_station()
            self.proxy.weather = Weather()

    def _tear(self, fault: Fault) -> None:
        path, _, found = self.newest()
        last = found[-1]
        if last.record.kind is not Kind.SOUND or not last.intact:
            return
        self._note_corrupt(last)
        # In one of four its header is torn too, which says how long it was.
        least, most = (last.n_data + 1, last.n_data + HEADER_BYTES - 1) if fault.size < 0.25 else (1, last.n_data)
        n_cut = self.rng.randint(least, most)
        os.truncate(path, last.end - n_cut)
        self.faults[fault.kind] += 1

    async def _flipped_record(self, fault: Fault) -> None:
        async with self.breaking, self.recording:
            self._break_link()
            newest, content, _ = self.newest()
            n_before = len(content)
            if await self._captures_more(4):
                self._flip(fault, newest, n_before)
            self.proxy.weather = Weather()

    def _flip(self, fault: Fault, path: Path, n_before: int) -> None:
        found = list(scan(path.read_bytes()))
        # What was written after the link broke is not at the server; the one behind it says what is missing.
        able = [one for one in found[:-1] if one.offset >= n_before and one.record.kind is Kind.SOUND and one.intact]
        if not able:
            return
        one = self.rng.choice(able)
        place = one.offset + round(fault.size * (HEADER_BYTES + one.n_data - 1))
        with path.open("r+b") as file:
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ 1 << self.rng.randrange(8)]))
        self._note_corrupt(one)
        self.faults[fault.kind] += 1

    async def _captures_more(self, n_chunks: int) -> bool:
        """Return whether so many more chunks were captured soon."""
        wanted = self.books.n_captured + n_chunks * round(self.plan.chunk_s * self.plan.rate_hz)
        return await self.until(lambda: self.books.n_captured >= wanted, reads=True, within_s=3.0)

    def _note_torn(self) -> None:
        """Expect the loss of the chunk whose write the kill interrupted, where the kernel had done a part of it: of one."""
        if not any(self.spool.path.glob("*.spool")):
            return
        _, content, found = self.newest()
        whole = [one for one in found if one.intact]
        if whole and whole[-1].end < len(content):
            last = whole[-1].record
            begin = last.start_sample + last.n_samples
            self.corrupt.add((str(last.session), Place(begin, begin + round(self.plan.chunk_s * self.plan.rate_hz))))

    def _note_corrupt(self, one: Found) -> None:
        record = one.record
        place = Place(record.start_sample, record.start_sample + record.n_samples)
        self.corrupt.add((str(record.session), place))

    async def _clock_step(self, fault: Fault) -> None:
        if self.clock:
            step_s = _STEPS_S[int(fault.size * len(_STEPS_S)) % len(_STEPS_S)]
            self.offsets_s.append(self.clock.offset_s + step_s)
            self.clock.set(self.offsets_s[-1])
            self.faults[fault.kind] += 1
