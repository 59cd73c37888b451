"""What Prometheus can ask. Names and meanings are in docs/operating.md; a test compares.

Labels are bounded: at most 50 song types and 500 stations have their own, the rest share ``other``. Which these are is
told by the store, so that a restart moves no series. Counts of songs, recorded and lost seconds are read from the store
at each scrape, so nothing can make them drift from it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

from songcore.bundle import Bundle
from songserve.batching import Failure
from songserve.labels import Labels
from songserve.novelty_metrics import NoveltyMetrics
from songserve.records import StoredSong
from songserve.store_metrics import StoreTotals
from songserve.tally import Tally

__all__ = ["MAX_STATIONS", "MAX_TYPES", "Metrics"]

MAX_TYPES = 50
MAX_STATIONS = 500
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SECONDS_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Every metric of the service, in a registry of its own; also the observer of store and batcher."""

    def __init__(self, *, version: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._define_ingest()
        self._define_stations()
        self._define_songs()
        self._define_inference()
        self._define_clips()
        self._define_bundles()
        self._gauge("build_info", "Version of songstream; always 1.", "version").labels(version).set(1)
        self._types, self._stations = Labels(MAX_TYPES), Labels(MAX_STATIONS)
        self._station_runs: dict[str, tuple[str, str, str]] = {}
        self.novelty = NoveltyMetrics(self.registry, self.station_label)

    def count_in_store(
        self,
        totals: Callable[[], tuple[Tally, Mapping[str, float]]],
        gaps: Callable[[], Mapping[str, float]],
        types_in_order: Callable[[], Iterable[str]],
    ) -> None:
        """Take songs by type, seconds by station, and declared gaps by reason from the store.

        Types have labels in the order that ``types_in_order`` gives.
        """
        self.registry.register(StoreTotals(totals, gaps, types_in_order, self._types, self._stations))

    def stations_known(self, stations: Iterable[str]) -> None:
        """Give stations labels in this order, before any of them comes."""
        self._stations.take(stations)

    def station_label(self, station: str) -> str:
        """Return the station's label, or ``other`` when there are too many."""
        return self._stations.of(station)

    def station_runs(self, station: str, client: str, sample_rate_hz: int) -> None:
        """Show what a station runs, in place of what it ran before: what clients say of themselves makes no series."""
        labels = (station, client, str(sample_rate_hz))
        before = self._station_runs.get(station, labels)
        if before != labels:
            self.station_info.remove(*before)
        self._station_runs[station] = labels
        self.station_info.labels(*labels).set(1)

    def songs_stored(self, songs: Sequence[StoredSong]) -> None:
        """Observe songs that the store has taken in."""
        for song in songs:
            self.song_duration_seconds.observe((song.offset - song.onset) / song.sample_rate_hz)
            self.song_similarity.observe(song.similarity)
            self.song_p_value.observe(song.p_value)
        self.novelty.songs_stored(songs)

    def transaction_done(self, seconds: float, n_jobs: int) -> None:
        """Observe one transaction of the store; called in its thread."""
        self.db_commit_seconds.observe(seconds)
        self.db_commit_jobs.observe(n_jobs)

    def batch_done(self, n_songs: int, queued_s: Sequence[float], compute_s: float) -> None:
        """Observe one forward pass."""
        self.inference_executions_total.inc()
        self.inference_songs_total.inc(n_songs)
        self.inference_batch_size.observe(n_songs)
        self.inference_compute_seconds.observe(compute_s)
        for seconds in queued_s:
            self.inference_queue_seconds.observe(seconds)

    def request_done(self, failure: Failure | None) -> None:
        """Count a request for names, by why it failed if it did."""
        self.inference_requests_total.labels("failure" if failure else "success").inc()
        if failure:
            self.inference_failures_total.labels(failure).inc()

    def pending_changed(self, n_songs: int) -> None:
        """Set how many songs wait for the model."""
        self.inference_pending_songs.set(n_songs)

    def clip_handled(self, outcome: str) -> None:
        """Count a clip that was to be written."""
        self.clips_total.labels(outcome).inc()

    def clips_deleted(self, reason: str, n_clips: int) -> None:
        """Count clips that were deleted."""
        self.clips_deleted_total.labels(reason).inc(n_clips)

    def bundle_active(self, bundle: Bundle, *, since_s: float) -> None:
        """Show which bundle serves, and since when."""
        self.model_bundle_info.clear()
        self.model_bundle_info.labels(bundle.digest, bundle.embedder.provider).set(1)
        self.model_active_since.set(since_s)
        self.model_fallback_to_cpu.set(bundle.embedder.fell_back)

    def swap_done(self, outcome: str, seconds: float | None = None) -> None:
        """Count an attempt to swap bundles; ``seconds`` when it succeeded."""
        self.model_swaps_total.labels(outcome).inc()
        if seconds is not None:
            self.model_swap_seconds.observe(seconds)

    def shadowed(self, outcome: str, n_songs: int) -> None:
        """Count songs that a candidate was compared on."""
        self.shadow_songs_total.labels(outcome).inc(n_songs)

    def shadow_drift(self, drift: float) -> None:
        """Show how far the p-values of the candidate are from those of the active bundle."""
        self.shadow_p_value_drift.set(drift)

    def _define_bundles(self) -> None:
        self.model_bundle_info = self._gauge(
            "model_bundle_info", "Bundle being served; always 1.", "digest", "provider"
        )
        self.model_swaps_total = self._counter("model_swaps", "Attempts to swap bundles.", "outcome")
        for outcome in ("activated", "rolled_back", "refused", "failed"):
            self.model_swaps_total.labels(outcome)
        self.model_swap_seconds = self._histogram(
            "model_swap_seconds", "From the call to the bundle being active.", LATENCY_BUCKETS
        )
        self.model_active_since = self._gauge(
            "model_active_since_timestamp_seconds", "When the bundle being served became active."
        )
        self.model_fallback_to_cpu = self._gauge(
            "model_fallback_to_cpu", "1 when there is a GPU and the encoder runs on the processor."
        )
        self.shadow_songs_total = self._counter(
            "shadow_songs", "Songs that a candidate was compared on with the active bundle.", "outcome"
        )
        for outcome in ("same", "by_lineage", "other", "novel", "left_out"):
            self.shadow_songs_total.labels(outcome)
        self.shadow_p_value_drift = self._gauge(
            "shadow_p_value_drift", "Largest distance of the two distributions of p-values, 0 to 1."
        )

    def _define_clips(self) -> None:
        self.clips_total = self._counter("clips", "Clips of songs to be written.", "outcome")
        self.clips_deleted_total = self._counter("clips_deleted", "Clips deleted by age or quota.", "reason")
        self.clip_bytes = self._gauge("clip_bytes", "Clips on the disk, as last looked at.")

    def _define_ingest(self) -> None:
        self.ingest_streams = self._gauge("ingest_streams", "Connected audio streams.", "lane")
        self.ingest_chunks_total = self._counter("ingest_chunks", "Chunks received.", "outcome")
        self.ingest_bytes_total = self._counter("ingest_bytes", "Bytes of audio accepted.")
        self.ingest_audio_seconds_total = self._counter("ingest_audio_seconds", "Seconds of audio accepted.", "lane")
        self.ingest_closes_total = self._counter("ingest_stream_closes", "Ends of audio streams.", "reason")
        self.ingest_ack_latency_seconds = self._histogram(
            "ingest_ack_latency_seconds",
            "From the first chunk of a step that makes a checkpoint to its ack; chunks of steps before it are left out.",
            LATENCY_BUCKETS,
        )
        self.ingest_commit_lag_seconds = self._histogram(
            "ingest_commit_lag_seconds",
            "From capture to commit, by the station's clock.",
            (*LATENCY_BUCKETS, 300, 3600, 86400),
        )
        self.station_last_seen = self._gauge(
            "station_last_seen_timestamp_seconds", "Last message of a station.", "station"
        )
        self.ingest_in_flight_bytes = self._gauge("ingest_in_flight_bytes", "Audio that waits to be listened to.")
        self.ingest_credit_stalls_total = self._counter(
            "ingest_credit_stalls", "Times the server stopped reading a stream that had sent all it might."
        )
        self.ingest_fences_total = self._counter("ingest_writer_fences", "Streams ended by a newer one.")
        self.ingest_sequence_errors_total = self._counter(
            "ingest_sequence_errors", "Chunks out of order or under a number used before.", "reason"
        )
        for reason in ("SEQUENCE_GAP", "SEQUENCE_REUSED"):
            self.ingest_sequence_errors_total.labels(reason)
        self.ingest_rewinds_total = self._counter(
            "ingest_rewinds", "Sessions that had been acknowledged further than the database knows."
        )
        self.ingest_guesses_total = self._counter("ingest_guesses", "Guesses sent at songs being sung.")

    def _define_stations(self) -> None:
        self.station_info = self._gauge(
            "station_info", "What a station runs; always 1.", "station", "version", "sample_rate_hz"
        )
        self.station_committed = self._gauge(
            "station_committed_timestamp_seconds",
            "Capture time up to which the audio of a station's live stream is committed; a backlog does not move it.",
            "station",
        )
        self.station_spool_bytes = self._gauge("station_spool_bytes", "Unacknowledged audio on a station.", "station")
        self.station_spool_room_bytes = self._gauge(
            "station_spool_room_bytes", "How much more a station can keep before it loses sound.", "station"
        )
        self.station_spool_oldest = self._gauge(
            "station_spool_oldest_timestamp_seconds", "Capture time of the oldest unacknowledged audio.", "station"
        )
        self.station_disk_free_bytes = self._gauge("station_disk_free_bytes", "Free on a station's disk.", "station")
        self.station_clock_offset = self._gauge(
            "station_clock_offset_seconds", "A station's clock minus the server's, transport included.", "station"
        )
        self.station_clock_error = self._gauge(
            "station_clock_error_seconds", "How far a station says its clock may be off.", "station"
        )
        self.station_clock_synchronized = self._gauge(
            "station_clock_synchronized",
            "1 while a station says that something sets its clock, 0 otherwise.",
            "station",
        )
        self.station_sample_clock_offset = self._gauge(
            "station_sample_clock_offset_seconds",
            "A station's clock minus the time counted in samples since the session began.",
            "station",
        )
        self.station_supply_volts = self._gauge("station_supply_volts", "Supply of a station.", "station")
        self.station_temperature = self._gauge("station_temperature_celsius", "Temperature of a station.", "station")
        self.station_clipped_samples_total = self._counter(
            "station_clipped_samples", "Samples at full scale, as a station counted them.", "station"
        )

    def _define_songs(self) -> None:
        self.song_duration_seconds = self._histogram(
            "song_duration_seconds", "Length of stored songs.", (0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 4, 6, 8, 11, 30)
        )
        self.song_similarity = self._histogram(
            "song_similarity", "Cosine to the nearest prototype.", (0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1)
        )
        self.song_p_value = self._histogram(
            "song_p_value", "Conformal p-value of stored songs.", (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1)
        )
        self.song_latency_seconds = self._histogram(
            "song_latency_seconds", "From the chunk in which a song was decided to its event.", LATENCY_BUCKETS
        )

    def _define_inference(self) -> None:
        self.inference_executions_total = self._counter("inference_executions", "Batches named.")
        self.inference_songs_total = self._counter("inference_songs", "Songs named, repeats included.")
        self.inference_requests_total = self._counter("inference_requests", "Requests for names.", "outcome")
        for outcome in ("success", "failure"):
            self.inference_requests_total.labels(outcome)
        self.inference_failures_total = self._counter("inference_failures", "Requests that failed.", "reason")
        for reason in ("backend", "canceled"):
            self.inference_failures_total.labels(reason)
        self.inference_batch_size = self._histogram("inference_batch_size", "Songs in a batch.", BATCH_BUCKETS)
        self.inference_pending_songs = self._gauge("inference_pending_songs", "Songs waiting for a name.")
        self.inference_queue_seconds = self._histogram("inference_queue_seconds", "Wait for a batch.", SECONDS_BUCKETS)
        self.inference_compute_seconds = self._histogram(
            "inference_compute_seconds", "Naming a batch.", SECONDS_BUCKETS
        )
        self.db_commit_seconds = self._histogram("db_commit_seconds", "One transaction, flushed.", SECONDS_BUCKETS)
        self.db_commit_jobs = self._histogram("db_commit_jobs", "Sessions in a transaction.", BATCH_BUCKETS)
        self.db_size_bytes = self._gauge("db_size_bytes", "Database with its log.")
        self.disk_free_bytes = self._gauge("disk_free_bytes", "Free in the data directory.")
        self.event_loop_lag_seconds = self._histogram(
            "event_loop_lag_seconds", "How late the event loop wakes.", SECONDS_BUCKETS
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace="songstream", registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, namespace="songstream", registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, text, buckets=buckets, namespace="songstream", registry=self.registry)
