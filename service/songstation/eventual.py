"""What may not be possible yet, while everything else goes on."""

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from songcore.errors import ConfigError
from songstation.recovery import Backoff

__all__ = ["Eventual"]

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Eventual(Generic[Result]):
    """The result of ``act``, which runs in a thread, and again after growing delays as long as it raises ConfigError."""

    def __init__(self, act: Callable[[], Result], backoff: Backoff) -> None:
        self._act, self._backoff = act, backoff
        self._acting = asyncio.Lock()
        self.result: Result | None = None
        """None as long as there is none."""
        self.trouble = ""
        """Why there was none at the last try, with the reason; empty before the first and once there is one."""

    async def get(self) -> Result:
        """Return the result once there is one; what keeps it from being there is logged once, by whomever it is awaited."""
        async with self._acting:
            while self.result is None:
                try:
                    self.result = await asyncio.to_thread(self._act)
                except ConfigError as error:
                    self._note(f"{error} [{error.reason}]")
                    await asyncio.sleep(self._backoff.next_delay_s())
            self._note("")
            return self.result

    def _note(self, trouble: str) -> None:
        before, self.trouble = self.trouble, trouble
        if trouble and trouble != before:
            log.error("%s; it is tried again, sound is kept meanwhile", trouble)
        elif before and not trouble:
            log.info("no more of this: %s", before)
