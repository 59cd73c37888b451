"""What an estimator remembers of its epochs, and when it has learned enough."""

from collections import defaultdict

__all__ = ["History"]

MIN_GAIN = 1e-3
"""Part of the loss by which an epoch must improve on the best to count as a gain: noise alone wins a little now and then."""


class History:
    """The mean of every term of the loss by epoch; an `EpochEnd` of `fit_network`."""

    def __init__(self, patience: int | None = None, epochs: list[dict[str, float]] | None = None) -> None:
        self.epochs: list[dict[str, float]] = [] if epochs is None else epochs
        self.constant: dict[str, float] = {}
        """Added to every epoch."""
        self._patience = patience
        self._sums: dict[str, float] = defaultdict(float)
        self._n_songs = 0
        self._best, self._n_without_gain = float("inf"), 0

    def add(self, n_songs: int, **terms: float) -> None:
        """Remember a batch's mean terms."""
        self._n_songs += n_songs
        for name, value in terms.items():
            self._sums[name] += value * n_songs

    def __call__(self, epoch: int, loss: float) -> bool:  # noqa: ARG002 - what `fit_network` calls with
        """Close the epoch; return whether ``patience`` epochs have passed without gain."""
        means = {name: total / self._n_songs for name, total in self._sums.items()}
        self.epochs.append({"loss": loss, **means, **self.constant})
        self._sums.clear()
        self._n_songs = 0
        if loss < self._best - MIN_GAIN * abs(self._best) or self._best == float("inf"):
            self._best, self._n_without_gain = loss, 0
        else:
            self._n_without_gain += 1
        return self._patience is not None and self._n_without_gain >= self._patience
