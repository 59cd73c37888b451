"""Time of work: what a limit or a row says must not depend on who else uses the machine."""

import sys
from time import perf_counter, process_time

__all__ = ["Stopwatch"]


class Stopwatch:
    """Runs from its making, in processor time of this process by torch's threads; where torch has a GPU, in time."""

    def __init__(self) -> None:
        self._begin, self._begin_of_work = perf_counter(), process_time()

    def seconds(self) -> float:
        """Return the seconds so far."""
        # Whoever trains has imported torch; others need not wait for it.
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            return perf_counter() - self._begin
        return (process_time() - self._begin_of_work) / (1 if torch is None else torch.get_num_threads())
