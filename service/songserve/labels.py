"""Labels of metrics that people's data make, bounded: the first values have their own, the rest share one."""

import threading
from collections.abc import Iterable

__all__ = ["OTHER", "Labels"]

OTHER = "other"


class Labels:
    """Gives the first ``most`` values that it meets a label of their own, and keeps it theirs; for any number of threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._own: set[str] = set()
        self._lock = threading.Lock()

    def of(self, value: str) -> str:
        """Return the value, which has a label from now on, or ``other`` where there are too many."""
        self.take([value])
        return value if value in self._own else OTHER

    def take(self, values: Iterable[str]) -> None:
        """Give values their labels in this order, as far as there is room."""
        with self._lock:
            for value in values:
                if len(self._own) >= self._most:
                    return
                self._own.add(value)

    def would_take(self, values: Iterable[str]) -> bool:
        """Whether there is room, and one of the values without a label."""
        return len(self._own) < self._most and not self._own.issuperset(values)
