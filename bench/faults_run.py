"""One seed, played: sound goes into a real station, through a bad network, into a real server, until all of it is stored."""

import asyncio
import signal
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from faults_account import Books
from faults_deeds import Deeds
from faults_world import CLOCK_LIMIT_S, PATIENCE_S

__all__ = ["Ended", "Run"]

WITHHELD_S = 3.0


@dataclass
class Ended:
    """What a run left behind."""

    books: Books
    problems: list[str]
    faults: Counter[str]
    seconds: float
    sound: bytes


class Run(Deeds):
    """Plays one plan to its end."""

    async def play(self) -> Ended:
        """Return when everything is stored, or it has become clear that it never will be."""
        began_s = time.monotonic()
        try:
            await self.begin()
            await self._suffer()
            await self._settle()
        finally:
            await self.end()
        problems = [*self.problems, *self.books.problems]
        return Ended(self.books, problems, self.faults, time.monotonic() - began_s, self.sound)

    async def _suffer(self) -> None:
        """Let each fault happen when it is its time."""
        going: list[asyncio.Task[None]] = []
        for fault in self.plan.faults:
            due = min(round(fault.at_s * self.plan.rate_hz), len(self.sound) // 2)
            while self.n_given < due:  # noqa: ASYNC110 - another task counts
                await asyncio.sleep(0.01)
            going.append(asyncio.create_task(self.do(fault)))
        for done in await asyncio.gather(*going, return_exceptions=True):
            if isinstance(done, BaseException):
                self.problems.append(f"a fault could not be played: {done!r}")
        self.books.check(self.n_given)

    async def _settle(self) -> None:
        """In fine weather everything arrives, and both programs end well."""
        total = len(self.sound) // 2
        seen, since_s = -1, time.monotonic()

        def is_captured() -> bool:
            nonlocal seen, since_s
            if self.books.n_captured != seen:
                seen, since_s = self.books.n_captured, time.monotonic()
            # Records are seen in the spool a moment after the station counts them; what stays away is a loss not yet declared.
            stays = time.monotonic() - since_s > WITHHELD_S
            return seen >= total or (stays and seen + self.books.n_withheld() >= total)

        if not await self.until(is_captured, reads=True):
            self.problems.append(f"captured {self.books.n_captured} of {total} samples, and no more")
        self.station.send(signal.SIGTERM)
        if (code := await self.station.ended(PATIENCE_S)) != 0:
            self.problems.append(f"the station ended with {code}")
        self.books.check(self.n_given)
        self.problems += self.books.unfinished()
        if self.books.n_captured != self.n_given:
            self.problems.append(f"captured {self.books.n_captured} of {self.n_given} samples")
        self.server.send(signal.SIGTERM)
        if (code := await self.server.ended(PATIENCE_S)) != 0:
            self.problems.append(f"the server ended with {code}")
        self._check_losses()
        self._check_clock()

    def _check_losses(self) -> None:
        """Compare what is declared lost with what was damaged here, and with what a full disk did not take."""
        full_s = 0.0
        for uuid, kept in self.books.sessions.items():
            for place, reason in kept.losses.items():
                if reason == "SPOOL_FULL":
                    full_s += (place.end - place.begin) / kept.rate_hz
                elif reason != "SPOOL_CORRUPT" or (uuid, place) not in self.corrupt:
                    self.problems.append(f"{uuid}: {place} was declared lost without need: {reason}")
        if full_s > self.losable_s:
            self.problems.append(
                f"{full_s:.1f} s were declared lost to a disk that was full for {self.losable_s:.1f} s"
            )

    def _check_clock(self) -> None:
        """Each session begins at a time that the wall clock had, and the last at what it has now."""
        offsets_s = list(self.offsets_s)
        for uuid, kept in self.books.sessions.items():
            ahead_s = (datetime.fromisoformat(kept.start) - self.began).total_seconds()
            while offsets_s and not -1.0 <= ahead_s - offsets_s[0] <= CLOCK_LIMIT_S:
                offsets_s.pop(0)
            if not offsets_s:
                self.problems.append(f"{uuid} begins at {kept.start}, which no clock said")
                return
