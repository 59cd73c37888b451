"""Which bundle a server begins with: the one it is given by hand, or the one that was active when it ended."""

import asyncio
import logging
from functools import partial

from songcore.bundle import Bundle
from songcore.errors import BundleError, ConfigError
from songserve.bundles.history import BundleEvent, History
from songserve.bundles.shelf import BundleShelf
from songserve.bundles.swaps import Swaps
from songserve.refusal import Refusal
from songserve.runtime import Runtime

__all__ = ["open_swaps"]

log = logging.getLogger(__name__)


async def open_swaps(runtime: Runtime, given: Bundle, *, server: str) -> Swaps:
    """Make the right bundle the runtime's and return what may be done with it; ``given`` is that of the settings.

    That one is taken when nothing was ever activated, when it is another one than at the start before, or when the settings
    say so; that is written down. Raises ConfigError ACTIVE_BUNDLE_MISSING or what the bundle cannot be loaded for.
    """
    settings = runtime.settings
    await runtime.read(lambda: settings.bundles_dir.mkdir(parents=True, exist_ok=True))
    shelf = BundleShelf(settings.bundles_dir, settings.bundle, given, device=settings.device)
    events = await runtime.read(runtime.queries.bundle_events, server)
    history = History(reversed(events))
    if not events:
        await _warn_of_others(runtime, given, server)
    if given.digest != history.started or (settings.activate_bundle and given.digest != history.active):
        history.add(await _written(runtime, BundleEvent(server, runtime.now_ms, "started", given.digest)))
    elif given.digest != history.active:
        runtime.bundle = await runtime.read(_load_active, shelf, history.active, settings.max_batch)
        log.info("bundle %s is active, as it was when the server ended", history.active)
    runtime.metrics.bundle_active(runtime.bundle, since_s=history.active_since_ms / 1000)
    return Swaps(runtime, shelf, history, server=server)


async def _warn_of_others(runtime: Runtime, given: Bundle, server: str) -> None:
    """Say that another bundle was active in the place that this server may have taken."""
    other = await runtime.read(partial(runtime.queries.latest_server, but=server))
    if other is None:
        return
    active = History(reversed(await runtime.read(runtime.queries.bundle_events, other))).active
    if active and active != given.digest:
        log.warning(
            "bundle %s begins, that of --bundle: nothing was done with bundles in this data directory yet, and in the data "
            "directory %s of the same store %s is active. If this one has taken that one's place, put that bundle into "
            "models_dir and call `songstream models activate %s`",
            given.digest,
            other,
            active,
            active,
        )


async def _written(runtime: Runtime, event: BundleEvent) -> BundleEvent:
    """Write an event down; where the store takes nothing the server starts all the same, and writes it at its next start."""
    try:
        return await asyncio.wrap_future(runtime.store.note_bundle_event(event))
    except Refusal as refusal:
        log.warning("that bundle %s serves is not written down: %s", event.bundle, refusal)
        return event


def _load_active(shelf: BundleShelf, digest: str, max_batch: int) -> Bundle:
    if not shelf.has(digest):
        raise ConfigError(
            f"bundle {digest} was active when the server ended and is not in models_dir any more; put it back, or start once "
            "with --activate-bundle to serve that of --bundle",
            reason="ACTIVE_BUNDLE_MISSING",
        )
    try:
        return shelf.load(digest, max_batch=max_batch)
    except BundleError as error:
        raise ConfigError(
            f"bundle {digest} was active when the server ended and cannot be served now: {error}; put it right, or start once "
            "with --activate-bundle to serve that of --bundle",
            reason=error.reason,
        ) from error
