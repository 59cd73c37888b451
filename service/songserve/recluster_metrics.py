"""When reclusterings ran, and what the last one did that succeeded: looked up in their folder once a minute."""

import asyncio
import logging
from datetime import datetime
from math import nan
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from songserve.reclusterings import Reclusterings

__all__ = ["ReclusterMetrics"]

log = logging.getLogger(__name__)

INTERVAL_S = 60.0


class ReclusterMetrics:
    """Gauges, NaN before there was such a run; `tend` keeps them up to date."""

    def __init__(self, registry: CollectorRegistry, reclusterings: Reclusterings) -> None:
        self._reclusterings = reclusterings

        def gauge(name: str, text: str) -> Gauge:
            made = Gauge(f"recluster_{name}", text, namespace="songstream", registry=registry)
            made.set(nan)
            return made

        self._last_run = gauge("last_run_timestamp_seconds", "When the latest reclustering was ordered.")
        self._last_success = gauge("last_success_timestamp_seconds", "When the last one that succeeded ended.")
        self._duration = gauge("duration_seconds", "From its order to its end.")
        self._n_songs = gauge("songs_processed", "Songs that it looked at.")
        self._n_new = gauge("clusters_proposed", "New types that it proposed.")

    async def tend(self) -> None:
        """Look, for ever."""
        while True:
            try:
                await self._look()
            except (OSError, KeyError, ValueError) as error:
                log.warning("the reclusterings cannot be looked at: %s", error)
            await asyncio.sleep(INTERVAL_S)

    async def _look(self) -> None:
        runs = await self._reclusterings.latest()
        if runs:
            self._last_run.set(_seconds(runs[0].order["created_at"]))
        ended = [(_seconds(run.state["updated_at"]), run) for run in runs if run.state["state"] == "SUCCEEDED"]
        if ended:
            ended_s, run = max(ended, key=lambda one: one[0])
            facts = run.state.get("facts") or {}
            self._last_success.set(ended_s)
            self._duration.set(ended_s - _seconds(run.order["created_at"]))
            self._n_songs.set(facts.get("n_songs") or 0)
            self._n_new.set(facts.get("n_new") or 0)


def _seconds(text: Any) -> float:
    return datetime.fromisoformat(str(text)).timestamp()
