"""Runs at the times of a cron expression, in a process that stays; and a stop that reaches a run wherever it is."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from threading import Event
from types import FrameType

from cronsim import CronSim, CronSimError

from songcore.errors import ConfigError, SongError
from songtrain.recluster.run_folder import CancelledError

__all__ = ["keep_schedule", "next_time", "until_stopped"]


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


def keep_schedule(
    schedule: str,
    work: Callable[[], None],
    now: Callable[[], datetime],
    wait: Callable[[float], bool],
    on_error: Callable[[SongError], None] = lambda error: print(f"songstream: {error} [{error.reason}]", flush=True),
) -> None:
    """Do the work at every time of the schedule until ``wait``, which gets seconds, returns that it is to stop.

    Work that fails is told and tried again at the next time; times that pass while it is done are left out.
    """
    while True:
        due = next_time(schedule, now())
        while (left := due - now()) > timedelta(0):
            # An hour at most: clocks are set.
            if wait(min(left.total_seconds(), 3600.0)):
                return
        try:
            work()
        except CancelledError:
            return
        except SongError as error:
            on_error(error)


class _Stop(Event):
    """Set by SIGTERM; a run that is at work is then ended by CancelledError."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait, in which a signal is no error."""
        try:
            return super().wait(timeout)
        except CancelledError:
            return True


@contextmanager
def until_stopped() -> Iterator[Event]:
    """Turn SIGTERM and Ctrl-C into CancelledError where the main thread is, and yield an event that is then set."""
    stopped = _Stop()

    def stop(number: int, _: FrameType | None) -> None:
        stopped.set()
        raise CancelledError(f"told to stop by {signal.Signals(number).name}; start the run again to go on with it")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
