"""What Prometheus can ask a station. Names and meanings are in docs/station.md; a test compares."""

import logging
from collections.abc import Callable, Iterable, Iterator
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from songcore.errors import ConfigError
from songstation.station_account import Picture

__all__ = ["StationMetrics"]

log = logging.getLogger(__name__)

PREFIX = "songstream_field_"
_SYNC_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)


class StationMetrics:
    """A registry of its own, which looks at the station at each scrape."""

    def __init__(self, picture: Callable[[], Picture | None]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.sync_seconds = Histogram(
            f"{PREFIX}sync_seconds", "Time that the disk took to sync.", registry=self.registry, buckets=_SYNC_BUCKETS
        )
        self.registry.register(_Look(picture))

    def serve(self, host: str, port: int) -> tuple[str, WSGIServer]:
        """Answer scrapes, in a thread; return the address, and the server to shut down. Raises ConfigError PORT_IN_USE."""
        try:
            server, _ = start_http_server(port, host, self.registry)
        except OSError as error:
            raise ConfigError(
                f"metrics cannot listen on {host}:{port} ({error.strerror}); choose another --metrics-port",
                reason="PORT_IN_USE",
            ) from error
        address = f"{host}:{server.server_address[1]}"
        log.info("metrics on %s", address)
        return address, server


class _Look(Collector):
    def __init__(self, picture: Callable[[], Picture | None]) -> None:
        self._picture = picture

    def collect(self) -> Iterator[Metric]:
        """Yield what the station's picture says."""
        picture = self._picture()
        if picture is None:
            return
        account = picture.account
        yield _counter("captured_seconds", "Sound that the device gave.", account.captured_s)
        yield _by("lost_seconds", "Sound declared lost.", "reason", account.lost_s.items())
        yield _by("streams_failed", "Streams that ended early.", "code", account.n_streams_failed.items())
        yield _counter("sessions", "Sessions begun.", account.n_sessions)
        yield _counter("songs", "Songs that the server told of.", account.n_songs)
        yield _gauge("connected", "1 while the live session has a stream.", picture.is_connected)
        yield _gauge("refused", "1 while the station, or one of its sessions, is shut out.", bool(picture.refused))
        yield _gauge("device_present", "1 while a device gives sound.", bool(picture.device))
        yield _gauge("sessions_waiting", "Earlier sessions still to be sent.", picture.sessions_waiting)
        yield _gauge("waiting_seconds", "Sound, and losses, that the server has not committed.", picture.waiting_s)
        yield _gauge("spool_bytes", "Size of the spool.", picture.spool_bytes)
        yield _gauge("disk_free_bytes", "What the disk has left.", picture.disk_free_bytes)
        yield _gauge("clock_offset_seconds", "Wall clock minus the samples' time.", picture.clock_offset_s)
        yield _gauge("clock_synchronized", "1 while something sets the clock.", picture.clock.source in {"ntp", "gnss"})
        if picture.clock.error_s is not None:
            yield _gauge("clock_error_seconds", "Greatest error of the clock.", picture.clock.error_s)
        if account.last_chunk is not None:
            time_s = account.last_chunk.timestamp()
            yield _gauge("last_sound_timestamp_seconds", "When the device gave sound last.", time_s)


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, meaning, value=float(value))


def _counter(name: str, meaning: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, meaning, value=value)


def _by(name: str, meaning: str, label: str, values: Iterable[tuple[str, float]]) -> CounterMetricFamily:
    family = CounterMetricFamily(PREFIX + name, meaning, labels=[label])
    for key, value in list(values):
        family.add_metric([key], value)
    return family
