"""Runs at the times of a cron expression, in a process that stays; and a stop that reaches a run wherever it is."""

import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import FrameType

from cronsim import CronSim, CronSimError

from songcore.errors import ConfigError, SongError
from songtrain.recluster.run_folder import CancelledError

__all__ = ["Stop", "keep_schedule", "next_time", "tell_error", "until_stopped"]


def next_time(schedule: str, after: datetime) -> datetime:
    """Return the first time of a cron expression after a time, in its zone; ConfigError SCHEDULE_INVALID."""
    try:
        return next(CronSim(schedule, after))
    except (CronSimError, StopIteration) as error:
        raise ConfigError(
            f"--schedule {schedule!r} is no cron expression with a time to come ({error or 'none within 50 years'}); "
            "expected minute, hour, day, month and weekday, such as '30 2 * * *'",
            reason="SCHEDULE_INVALID",
        ) from error


def tell_error(error: Exception) -> None:
    """Print what went wrong; a fault of songstream with where it happened, on standard error."""
    if isinstance(error, SongError):
        print(f"songstream: {error} [{error.reason}]", flush=True)
        return
    traceback.print_exception(error)
    print(f"songstream: a fault of songstream: {error!r} [FAULT]", file=sys.stderr, flush=True)


def keep_schedule(
    schedule: str,
    work: Callable[[], None],
    now: Callable[[], datetime],
    wait: Callable[[float], bool],
    on_error: Callable[[Exception], None] = tell_error,
) -> None:
    """Do the work at every time of the schedule until ``wait``, which gets seconds, returns that it is to stop.

    Work that fails, in whatever way, is told and tried again at the next time; times that pass while it is done are left out.
    A CancelledError, from wherever, ends it, too.
    """
    try:
        while True:
            due = next_time(schedule, now())
            while (left := due - now()) > timedelta(0):
                # An hour at most: clocks are set.
                if wait(min(left.total_seconds(), 3600.0)):
                    return
            try:
                work()
            except Exception as error:  # noqa: BLE001 - tomorrow's run is not lost for what happens to today's
                on_error(error)
    except CancelledError:
        return


class Stop:
    """Whether a signal told this process to stop."""

    def __init__(self) -> None:
        self.signal = ""
        """The signal's name; empty before there was one."""

    def check(self) -> None:
        """Raise CancelledError if there was a signal: where it came, the exception may have been lost."""
        if self.signal:
            raise CancelledError(f"told to stop by {self.signal}; start the run again to go on with it")

    def wait(self, seconds: float) -> bool:
        """Wait so long or until there is a signal, which is no error here; return whether there was one."""
        try:
            if not self.signal:
                time.sleep(seconds)
        except CancelledError:
            return True
        return bool(self.signal)


@contextmanager
def until_stopped() -> Iterator[Stop]:
    """Turn SIGTERM and Ctrl-C into CancelledError where the main thread is, and yield what then knows of it."""
    stopped = Stop()

    def stop(number: int, _: FrameType | None) -> None:
        stopped.signal = signal.Signals(number).name
        stopped.check()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
