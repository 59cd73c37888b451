"""Looks at bundles and swaps them while the server runs: load, golden songs, warm up, write down, take up.

One at a time. Whatever fails before it is written down leaves the server as it was; what is written down is taken up at once,
and again after a restart.
"""

import asyncio
import logging
from collections.abc import Collection, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from songcore.bundle import Bundle
from songcore.errors import SongError
from songserve.bundles.gate import Finding, findings
from songserve.bundles.history import BundleEvent, EventKind, History, State
from songserve.bundles.shadow import Shadow
from songserve.bundles.shelf import BundleShelf, OnShelf
from songserve.refusal import Refusal
from songserve.runtime import Runtime

__all__ = ["BundleView", "Swaps"]

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class BundleView:
    """A bundle as it stands."""

    shelved: OnShelf
    state: State
    etag: str
    findings: tuple[Finding, ...]
    active: Bundle | None
    """The bundle itself when it is the active one."""
    active_since_ms: int
    same_songs: bool
    """It hears the same songs as the active one."""


class Swaps:
    """What may be done with the bundles of a running server; ``history`` is what the store has of it."""

    def __init__(self, runtime: Runtime, shelf: BundleShelf, history: History, *, server: str) -> None:
        self._runtime, self._shelf, self._history, self._server = runtime, shelf, history, server
        self._looking_at = ""

    @property
    def active(self) -> str:
        """Digest of the bundle that serves."""
        return self._runtime.bundle.digest

    async def view(self, digest: str) -> BundleView:
        """Return one bundle; raises Refusal BUNDLE_UNKNOWN."""
        return self._view(await self._find(digest))

    async def views(self) -> list[BundleView]:
        """Return every bundle that is there, the active one first, then the newest first."""
        found = [self._view(entry) for entry in (await self._runtime.read(self._shelf.found)).values()]

        def order(view: BundleView) -> tuple[bool, float]:
            manifest = view.shelved.manifest
            return view.active is None, -manifest.created_at.timestamp() if manifest else 0.0

        return sorted(found, key=order)

    async def validate(self, digest: str, *, who: str) -> BundleView:
        """Return a bundle after a look at all that an activation would look at.

        Raises Refusal BUNDLE_UNKNOWN or SWAP_RUNNING.
        """
        entry = await self._find(digest)
        with self._alone(digest):
            await _to_its_end(self._judge(digest, who))
        return self._view(entry)

    async def activate(
        self, digest: str, *, etag: str, accepted: Collection[str], validate_only: bool, who: str
    ) -> BundleView:
        """Return the bundle once it is active, or with ``validate_only`` once it might be.

        Raises Refusal BUNDLE_UNKNOWN, SWAP_RUNNING, ETAG_MISMATCH, ALREADY_ACTIVE, ACTIVATION_FAILED, BUNDLE_NOT_READY,
        DRAINING, or that of the store; then the bundle before serves on.
        """
        entry = await self._find(digest)
        with self._alone(digest):
            self._check_etag(digest, etag)
            if digest == self.active:
                raise Refusal(f"{digest} is active already", reason="ALREADY_ACTIVE")
            await _to_its_end(self._activate(digest, accepted, validate_only=validate_only, who=who))
        return self._view(entry)

    async def roll_back(self, *, etag: str, validate_only: bool, who: str) -> BundleView:
        """Return the bundle before the active one once it is active again.

        Raises Refusal NO_EARLIER_BUNDLE, and as `activate`.
        """
        digest = self._history.before
        with self._alone(digest):
            self._check_etag(self.active, etag)
            if not digest:
                raise Refusal(
                    f"no bundle was active before {self.active} on this server; activate one by its digest",
                    reason="NO_EARLIER_BUNDLE",
                )
            await _to_its_end(self._roll_back(digest, validate_only=validate_only, who=who))
        return self._view(await self._find(digest))

    async def start_shadow(self, digest: str, *, who: str) -> Shadow:
        """Return the comparison of a bundle with the active one, which begins now, in place of one that ran.

        Raises Refusal BUNDLE_UNKNOWN, SWAP_RUNNING, ALREADY_ACTIVE, FRONTEND_DIFFERS, ACTIVATION_FAILED.
        """
        entry = await self._find(digest)
        if digest == self.active:
            raise Refusal(f"{digest} is the active bundle; there is nothing to compare", reason="ALREADY_ACTIVE")
        if entry.manifest and not self._same_songs(entry):
            raise Refusal(
                f"{digest} has another front end, segmenter or features than the active bundle and hears other songs; compare "
                "them with `songstream retype`",
                reason="FRONTEND_DIFFERS",
            )
        runtime = self._runtime
        with self._alone(digest):
            bundle = await self._load(digest, who)
            if runtime.shadow:
                await self.stop_shadow(who=who)
            runtime.shadow = Shadow(runtime.batcher, bundle, runtime.bundle, runtime.metrics, start_ms=runtime.now_ms)
            return runtime.shadow

    @property
    def shadow(self) -> Shadow:
        """The comparison that runs; raises Refusal NO_SHADOW."""
        if self._runtime.shadow is None:
            raise Refusal("no bundle is compared with the active one; start that first", reason="NO_SHADOW")
        return self._runtime.shadow

    async def stop_shadow(self, *, who: str) -> Shadow:
        """Return the comparison after its end, written down; raises Refusal NO_SHADOW."""
        shadow, self._runtime.shadow = self.shadow, None
        await shadow.close()
        await self.note(
            "shadowed", shadow.candidate.digest, who, {"active": shadow.active.digest, **shadow.tally.row()}
        )
        return shadow

    async def note(self, kind: EventKind, digest: str, who: str, detail: dict[str, Any]) -> None:
        """Write down what was done; raises the store's Refusal."""
        event = BundleEvent(self._server, self._runtime.now_ms, kind, digest, who, detail)
        self._history.add(await asyncio.wrap_future(self._runtime.store.note_bundle_event(event)))

    async def _find(self, digest: str) -> OnShelf:
        if not await self._runtime.read(self._shelf.has, digest):
            raise Refusal(f"this server does not hold modelBundles/{digest}", reason="BUNDLE_UNKNOWN")
        return await self._runtime.read(self._shelf.look, digest)

    @contextmanager
    def _alone(self, digest: str) -> Iterator[None]:
        if self._looking_at:
            raise Refusal(
                f"bundle {self._looking_at} is being looked at; come back when that is over", reason="SWAP_RUNNING"
            )
        self._looking_at = digest or self.active
        try:
            yield
        finally:
            self._looking_at = ""

    def _check_etag(self, digest: str, etag: str) -> None:
        if etag and etag != self._history.etag(digest):
            raise Refusal(
                f"bundle {digest}, or which one is active, has changed since it was read; look again",
                reason="ETAG_MISMATCH",
                etag=self._history.etag(digest),
            )

    async def _activate(self, digest: str, accepted: Collection[str], *, validate_only: bool, who: str) -> None:
        began = asyncio.get_running_loop().time()
        bundle, found = await self._judge(digest, who)
        if bundle is None:
            raise self._failed(found[0])
        open_findings = [finding for finding in found if finding.reason not in accepted]
        if open_findings:
            self._runtime.metrics.swap_done("refused")
            raise Refusal(
                f"bundle {digest} is not ready: " + "; ".join(finding.message for finding in open_findings),
                reason="BUNDLE_NOT_READY",
                findings=",".join(finding.reason for finding in open_findings),
            )
        if not validate_only:
            detail = {"accepted": sorted(finding.reason for finding in found)}
            await self._take_up(bundle, "activated", who, detail, began)

    async def _roll_back(self, digest: str, *, validate_only: bool, who: str) -> None:
        began = asyncio.get_running_loop().time()
        bundle = await self._load(digest, who)
        if not validate_only:
            await self._take_up(bundle, "rolled_back", who, {"from": self.active}, began)

    async def _take_up(self, bundle: Bundle, kind: EventKind, who: str, detail: dict[str, Any], began: float) -> None:
        if self._runtime.draining:
            raise Refusal("the server is shutting down; come back", reason="DRAINING")
        await self.note(kind, bundle.digest, who, detail)
        # Nothing can fail from here on, and nothing else runs in between.
        self._runtime.bundle = bundle
        metrics = self._runtime.metrics
        metrics.bundle_active(bundle, since_s=self._history.active_since_ms / 1000)
        metrics.swap_done(kind, asyncio.get_running_loop().time() - began)
        log.info("bundle %s (%s) is active, %s", bundle.manifest.name, bundle.digest, kind)
        if self._runtime.shadow:  # it compared with the bundle before
            try:
                await self.stop_shadow(who=who)
            except Refusal as refusal:
                log.warning("what the shadow showed is not written down: %s", refusal)

    async def _judge(self, digest: str, who: str) -> tuple[Bundle | None, list[Finding]]:
        """Load a bundle and write down what stands in its way; None for one that cannot be loaded."""
        try:
            bundle = await self._loaded(digest)
        except SongError as error:
            found = [Finding(error.reason, str(error), acceptable=False)]
            await self.note("validated", digest, who, {"findings": [finding.row() for finding in found]})
            return None, found
        family = await self._runtime.read(self._shelf.family)
        found = findings(
            bundle.manifest,
            self._runtime.bundle.manifest,
            known={*family, *self._history.known},
            family=family,
            trusted=self._history.was_active(digest),
        )
        await self.note("validated", digest, who, {"findings": [finding.row() for finding in found]})
        return bundle, found

    async def _load(self, digest: str, who: str) -> Bundle:
        try:
            return await self._loaded(digest)
        except SongError as error:
            finding = Finding(error.reason, str(error), acceptable=False)
            await self.note("failed", digest, who, {"findings": [finding.row()]})
            raise self._failed(finding) from error

    async def _loaded(self, digest: str) -> Bundle:
        return await self._runtime.read(lambda: self._shelf.load(digest, max_batch=self._runtime.settings.max_batch))

    def _failed(self, finding: Finding) -> Refusal:
        self._runtime.metrics.swap_done("failed")
        log.warning("a bundle cannot be activated: %s", finding.message)
        return Refusal(
            f"{finding.message}; {self.active} stays active", reason="ACTIVATION_FAILED", cause=finding.reason
        )

    def _same_songs(self, entry: OnShelf) -> bool:
        return (
            entry.manifest is not None
            and entry.manifest.stream.fingerprint().hex() == self._runtime.bundle.songs_version
        )

    def _view(self, entry: OnShelf) -> BundleView:
        digest, history, bundle = entry.digest, self._history, self._runtime.bundle
        active = bundle if digest == bundle.digest else None
        return BundleView(
            entry,
            history.state(
                digest,
                validating=digest == self._looking_at,
                draining=history.was_served(digest) and self._shelf.is_loaded(digest),
            ),
            history.etag(digest),
            tuple(Finding(**row) for row in history.findings(digest)),
            active,
            history.active_since_ms if active else 0,
            self._same_songs(entry),
        )


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Run it to its end even when the caller goes away in the middle."""
    running = asyncio.create_task(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.gather(running, return_exceptions=True)
        raise
