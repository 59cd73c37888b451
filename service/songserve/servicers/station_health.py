"""What a station says of itself, put into metrics."""

from math import nan

from songserve.ingest_requests import Heartbeat
from songserve.notices import ClockWatch, Notice, is_far_ahead
from songserve.records import ClockState
from songserve.runtime import Runtime

__all__ = ["StationHealth"]


class StationHealth:
    """One connected station; ``label`` is what metrics call it."""

    def __init__(self, runtime: Runtime, label: str) -> None:
        self._runtime, self._metrics, self._label = runtime, runtime.metrics, label
        self._clock = ClockWatch()

    def seen(self) -> None:
        """Note that a message came."""
        self._metrics.station_last_seen.labels(self._label).set(self._runtime.now())

    def runs(self, client: str, sample_rate_hz: int) -> None:
        """Note what the station runs."""
        self._metrics.station_runs(self._label, client, sample_rate_hz)

    def says_clock(self, clock: ClockState) -> None:
        """Take note of how good the station's clock is."""
        if clock.error_s is not None:
            self._metrics.station_clock_error.labels(self._label).set(clock.error_s)
        if clock.source != "unspecified":
            self._metrics.station_clock_synchronized.labels(self._label).set(clock.source in {"ntp", "gnss"})

    def beat(self, heartbeat: Heartbeat) -> list[Notice]:
        """Take note of a heartbeat; return what is worth telling."""
        metrics, label = self._metrics, self._label
        metrics.station_spool_bytes.labels(label).set(heartbeat.spool_bytes)
        metrics.station_disk_free_bytes.labels(label).set(heartbeat.disk_free_bytes)
        now_s, oldest_s = self._runtime.now(), heartbeat.spool_oldest_s
        if oldest_s is not None and is_far_ahead(oldest_s, now_s):
            oldest_s = nan  # not known, rather than the last that was
        for gauge, value in (
            (metrics.station_spool_room_bytes, heartbeat.spool_room_bytes),
            (metrics.station_spool_oldest, oldest_s),
            (metrics.station_supply_volts, heartbeat.supply_volts),
            (metrics.station_temperature, heartbeat.temperature_celsius),
        ):
            if value is not None:
                gauge.labels(label).set(value)
        self.says_clock(heartbeat.clock)
        if heartbeat.create_time_s is None:
            return []
        metrics.station_clock_offset.labels(label).set(heartbeat.create_time_s - now_s)
        return self._clock.compare(heartbeat.create_time_s, now_s)

    def clipped(self, n_samples: int) -> None:
        """Take note of how many samples of a chunk are at full scale, as the station counted them."""
        if n_samples:
            self._metrics.station_clipped_samples_total.labels(self._label).inc(n_samples)

    def captured(self, captured_s: float, *, counted_s: float) -> list[Notice]:
        """Take note of when a chunk begins by the station's clock and by counting samples; return what is worth telling.

        A time that lies more than a day ahead tells nothing of drift, only that the clock is wrong.
        """
        now_s = self._runtime.now()
        if is_far_ahead(captured_s, now_s):
            return self._clock.captured_far_ahead(captured_s, now_s)
        self._metrics.station_sample_clock_offset.labels(self._label).set(captured_s - counted_s)
        return []

    def committed(self, captured_until_s: float) -> None:
        """Take note of the capture time up to which all is committed."""
        self._metrics.station_committed.labels(self._label).set(captured_until_s)
