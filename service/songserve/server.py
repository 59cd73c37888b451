"""Puts the service together, runs it, and takes it down so that nothing is lost."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from songcore.assign import Assignment
from songcore.bundle import Bundle
from songcore.errors import ConfigError
from songcore.stream import Song
from songserve.batching import Batcher, BatchLimits, Unobserved
from songserve.bundles.starting import open_swaps
from songserve.bundles.swaps import Swaps
from songserve.clips_shelf import WantedClip
from songserve.clips_tending import open_shelf, tend_clips
from songserve.database import DataDirectory
from songserve.engines import sqlite_has_wal_reset_bug
from songserve.freed_memory import tend_memory
from songserve.gathering import Gatherer
from songserve.metrics import Metrics
from songserve.queries import SongQueries
from songserve.recluster_metrics import ReclusterMetrics
from songserve.reclusterings import Reclusterings
from songserve.records import StoredClip
from songserve.refusal import Refusal
from songserve.repertoire_metrics import RepertoireMetrics
from songserve.rpc_metrics import RpcMetrics
from songserve.runtime import Runtime
from songserve.security.channel import channel_options
from songserve.security.gate import Gate
from songserve.security.guard import Guard
from songserve.security.stations import StationLimits, StationShares
from songserve.security.tls import TlsFiles, server_credentials
from songserve.security.token_file import TokenFile
from songserve.servicers.catalogue import CatalogueServicer
from songserve.servicers.classification import ClassificationServicer
from songserve.servicers.ingest import IngestServicer
from songserve.servicers.models import ModelBundleServicer
from songserve.servicers.recluster import ReclusterServicer
from songserve.servicers.songs import SongServicer
from songserve.settings import ServeSettings
from songserve.store import Store
from songserve.v1 import (
    catalogue_pb2,
    catalogue_pb2_grpc,
    classification_pb2,
    classification_pb2_grpc,
    ingest_pb2,
    ingest_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    recluster_pb2,
    recluster_pb2_grpc,
    songs_pb2,
    songs_pb2_grpc,
)

__all__ = ["Addresses", "Server", "serving"]

log = logging.getLogger(__name__)

SERVICES = tuple(
    descriptor.services_by_name[name].full_name
    for descriptor, name in (
        (ingest_pb2.DESCRIPTOR, "IngestService"),
        (classification_pb2.DESCRIPTOR, "ClassificationService"),
        (songs_pb2.DESCRIPTOR, "SongService"),
        (catalogue_pb2.DESCRIPTOR, "CatalogueService"),
        (models_pb2.DESCRIPTOR, "ModelBundleService"),
        (recluster_pb2.DESCRIPTOR, "ReclusterService"),
    )
)
LAG_INTERVAL_S = 0.5
CLIP_LIMITS = BatchLimits(max_batch=32, max_delay_s=0.05, max_pending=512)
"""Of the one thread that writes clips: several take Python's lock from each other, which costs more than the disk does."""
N_ASIDE_THREADS = 2


@dataclass(frozen=True)
class Addresses:
    """Where the server can be reached."""

    grpc: str
    metrics: str


class Server:
    """A server that runs; `drain` takes it down."""

    def __init__(self, server: grpc.aio.Server, runtime: Runtime, health: HealthServicer, addresses: Addresses) -> None:
        self._server, self._runtime, self._health = server, runtime, health
        self.addresses = addresses

    @property
    def bundle(self) -> Bundle:
        """The active bundle."""
        return self._runtime.bundle

    async def drain(self) -> None:
        """Stop taking calls, let every stream commit what it has, then close all connections."""
        runtime = self._runtime
        runtime.draining = True
        await self._health.enter_graceful_shutdown()
        for stream in list(runtime.streams.values()):
            stream.drain()
        # Ends every call that lasts longer; returns as soon as none is left.
        await self._server.stop(runtime.settings.drain_grace_s)


@asynccontextmanager
async def serving(
    settings: ServeSettings,
    bundle: Bundle,
    *,
    version: str,
    now: Callable[[], float] = time.time,
    make_store: Callable[..., Store] = Store,
) -> AsyncIterator[Server]:
    """Run a server inside the block; on the way out it is drained.

    ``bundle`` is the one of the settings; ``make_store`` is called as `Store` is. Raises ConfigError: those of
    `DataDirectory` and `open_swaps`, and PORT_IN_USE.
    """
    async with AsyncExitStack() as stack:
        url = settings.database_url
        directory = DataDirectory(
            settings.data_dir,
            database_url=url.get_secret_value() if url else None,
            beside_server="stop it or choose another directory",
        )
        stack.callback(directory.close)
        metrics = Metrics(version=version)
        runtime = await stack.enter_async_context(_runtime(settings, bundle, directory, metrics, now, make_store))
        swaps = await open_swaps(runtime, bundle, server=directory.shelf)
        del bundle  # whoever uses one holds it
        _start_collection(metrics, directory)
        metrics.registry.register(
            RepertoireMetrics(runtime.queries, bundle=lambda: runtime.bundle, now_ms=lambda: runtime.now_ms)
        )
        metrics_address = _serve_metrics(stack, settings, metrics)
        health = HealthServicer()
        gate = _gate(settings, now)
        # Names that anybody may give prove nothing, so there is no use in counting by them.
        if gate.asks:
            runtime.stations = StationLimits(_shares(settings))
        guard = Guard(gate, recheck_s=settings.recheck_s)
        server = grpc.aio.server(options=channel_options(settings), interceptors=[RpcMetrics(metrics.registry), guard])
        reclusterings = Reclusterings(settings)
        stack.push_async_callback(reclusterings.close)
        _register(server, runtime, swaps, health)
        recluster_pb2_grpc.add_ReclusterServiceServicer_to_server(ReclusterServicer(runtime, reclusterings), server)
        address = _bind(server, settings)
        await server.start()
        stack.push_async_callback(server.stop, 0)
        recluster_metrics = ReclusterMetrics(metrics.registry, reclusterings)
        for forever in (_watch_lag(metrics), tend_clips(runtime), tend_memory(), recluster_metrics.tend()):
            stack.push_async_callback(_end, asyncio.create_task(forever))
        for service in ("", *SERVICES):
            await health.set(service, health_pb2.HealthCheckResponse.SERVING)
        running = Server(server, runtime, health, Addresses(address, metrics_address))
        stack.push_async_callback(running.drain)
        yield running


@asynccontextmanager
async def _runtime(
    settings: ServeSettings,
    bundle: Bundle,
    directory: DataDirectory,
    metrics: Metrics,
    now: Callable[[], float],
    make_store: Callable[..., Store],
) -> AsyncIterator[Runtime]:
    queries = SongQueries(directory.readers)
    metrics.count_in_store(queries.totals, queries.declared_gaps, queries.types_in_order)
    with suppress(Refusal):  # a store that cannot be read is told to whoever asks, and not in metrics
        metrics.stations_known(await asyncio.to_thread(queries.stations_in_order))
    metrics.novelty.count_pool(queries.pool)
    store = make_store(
        directory,
        group_window_s=settings.group_window_ms / 1000,
        min_free_bytes=settings.min_free_disk_mb * 2**20,
        observe=metrics.transaction_done,
    )
    limits = BatchLimits(settings.max_batch, settings.max_batch_delay_ms / 1000, settings.max_pending_songs)
    shelf = await asyncio.to_thread(open_shelf, settings, directory, queries, metrics)
    with (
        ThreadPoolExecutor(1, "clips") as writing,
        ThreadPoolExecutor(settings.listen_threads, "listen") as listening,
        ThreadPoolExecutor(N_ASIDE_THREADS, "aside") as aside,
        ThreadPoolExecutor(1, "name") as naming,
        ThreadPoolExecutor(4, "read") as reading,
    ):
        try:
            async with (
                Batcher[Song, Assignment](naming, limits, metrics) as batcher,
                Batcher[WantedClip, StoredClip | None](writing, CLIP_LIMITS, Unobserved()) as clip_writing,
            ):
                runtime = Runtime(
                    settings=settings,
                    bundle=bundle,
                    store=store,
                    queries=queries,
                    batcher=batcher,
                    metrics=metrics,
                    aside=aside,
                    gatherer=Gatherer(
                        listening, n_threads=settings.listen_threads, window_s=settings.listen_window_ms / 1000
                    ),
                    reading=reading,
                    clips=shelf,
                    clip_writing=clip_writing,
                    upload_dir=directory.path,
                    now=now,
                )
                del bundle
                yield runtime
        finally:
            await asyncio.to_thread(store.close)


def _register(server: grpc.aio.Server, runtime: Runtime, swaps: Swaps, health: HealthServicer) -> None:
    ingest_pb2_grpc.add_IngestServiceServicer_to_server(IngestServicer(runtime), server)
    classification_pb2_grpc.add_ClassificationServiceServicer_to_server(ClassificationServicer(runtime), server)
    songs_pb2_grpc.add_SongServiceServicer_to_server(SongServicer(runtime), server)
    catalogue_pb2_grpc.add_CatalogueServiceServicer_to_server(CatalogueServicer(runtime), server)
    models_pb2_grpc.add_ModelBundleServiceServicer_to_server(ModelBundleServicer(runtime, swaps), server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if runtime.settings.reflection:
        reflection.enable_server_reflection((*SERVICES, reflection.SERVICE_NAME, "grpc.health.v1.Health"), server)


def _gate(settings: ServeSettings, now: Callable[[], float]) -> Gate:
    tokens = TokenFile(settings.token_file) if settings.token_file else None
    return Gate(tokens, certificates=settings.tls_client_ca is not None, now=now)


def _shares(settings: ServeSettings) -> StationShares:
    return StationShares(
        n_streams=settings.max_streams_per_station,
        live_speed=settings.live_speed,
        backfill_speed=settings.backfill_speed,
        burst_s=settings.burst_s,
        n_sessions_per_day=settings.max_sessions_per_day,
    )


def _bind(server: grpc.aio.Server, settings: ServeSettings) -> str:
    host, port = settings.listen_address
    bracketed = f"[{host}]" if ":" in host else host
    address, certificate, key = f"{bracketed}:{port}", settings.tls_certificate, settings.tls_key
    credentials = (
        server_credentials(TlsFiles(certificate, key, settings.tls_client_ca)) if certificate and key else None
    )
    try:
        bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        bound = 0
        cause: Exception | None = error
    else:
        cause = None
    if bound == 0:
        raise ConfigError(
            f"cannot listen on {settings.listen}: the port is in use, or the address is not one of this machine; stop the "
            "other program or choose another with --listen",
            reason="PORT_IN_USE",
        ) from cause
    return f"{bracketed}:{bound}"


def _serve_metrics(stack: AsyncExitStack, settings: ServeSettings, metrics: Metrics) -> str:
    try:
        server, thread = start_http_server(settings.metrics_port, settings.metrics_host, registry=metrics.registry)
    except OSError as error:
        raise ConfigError(
            f"cannot serve metrics on {settings.metrics_host}:{settings.metrics_port} ({error.strerror}); stop the other "
            "program or choose another with --metrics-port",
            reason="PORT_IN_USE",
        ) from error
    stack.callback(thread.join)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    return f"http://{settings.metrics_host}:{server.server_port}/metrics"


def _start_collection(metrics: Metrics, directory: DataDirectory) -> None:
    metrics.db_size_bytes.set_function(lambda: directory.database_bytes)
    metrics.disk_free_bytes.set_function(lambda: directory.free_bytes)
    if directory.writer.dialect.name == "sqlite" and sqlite_has_wal_reset_bug():
        log.info(
            "this SQLite has the WAL-reset bug of versions before 3.51.3; the service is not exposed to it, as one connection "
            "does all that the bug needs two for"
        )


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait({task})


async def _watch_lag(metrics: Metrics) -> None:
    """Measure, for ever, how much later than asked the event loop wakes."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_INTERVAL_S
        await asyncio.sleep(LAG_INTERVAL_S)
        metrics.event_loop_lag_seconds.observe(max(0.0, loop.time() - due))
