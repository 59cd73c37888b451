"""The bundles that are there: the one that the server was given, and those in `models_dir`, each under its digest."""

import re
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from songcore.bundle import Bundle, load_bundle, read_manifest, read_types
from songcore.embed import Device
from songcore.errors import BundleError
from songcore.manifest import Manifest
from songcore.stream import Song

__all__ = ["BundleShelf", "OnShelf", "is_digest"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
WARM_S = (0.5, 2.0, 6.0)
"""Lengths of songs that a bundle is tried with before it serves."""


def is_digest(text: str) -> bool:
    """Whether this can be the digest of a bundle, and so the name of a directory."""
    return _DIGEST.fullmatch(text) is not None


@dataclass(frozen=True)
class OnShelf:
    """A bundle that is there; ``manifest`` None with ``error`` when it cannot be read."""

    digest: str
    path: Path
    manifest: Manifest | None = None
    n_types: int = 0
    error: BundleError | None = None


class BundleShelf:
    """Finds and loads bundles by digest; ``first`` is the one that the server was given, at ``first_path``."""

    def __init__(self, folder: Path, first_path: Path, first: Bundle, *, device: Device) -> None:
        self._folder, self._device = folder, device
        given = OnShelf(first.digest, first_path, first.manifest, len(first.types))
        self._first, self._read = given, {given.digest: given}
        self._loaded = weakref.WeakSet[Bundle]([first])

    def found(self) -> dict[str, OnShelf]:
        """Return all bundles that are there, by digest; a directory of another name is none."""
        folders = self._folder.iterdir() if self._folder.is_dir() else ()
        digests = [path.name for path in folders if is_digest(path.name) and path.is_dir()]
        return {digest: self.look(digest) for digest in dict.fromkeys((self._first.digest, *digests))}

    def look(self, digest: str) -> OnShelf:
        """Return what is there under a digest, read or not."""
        if digest in self._read:  # what a digest stands for does not change
            return self._read[digest]
        path = self._folder / digest
        try:
            manifest, types = read_manifest(path), read_types(path)
        except BundleError as error:
            return OnShelf(digest, path, error=error)
        if manifest.digest != digest:
            told = f"the bundle in {path} has the digest {manifest.digest}; name its directory so"
            return OnShelf(digest, path, error=BundleError(told, reason="HASH_MISMATCH"))
        self._read[digest] = OnShelf(digest, path, manifest, len(types))
        return self._read[digest]

    def family(self) -> Mapping[str, Manifest]:
        """Return the manifests of all bundles that are there."""
        return {digest: entry.manifest for digest, entry in self.found().items() if entry.manifest}

    def has(self, digest: str) -> bool:
        """Whether a directory of that name is there."""
        return digest == self._first.digest or (is_digest(digest) and (self._folder / digest).is_dir())

    def load(self, digest: str, *, max_batch: int) -> Bundle:
        """Return a bundle after its golden songs came out right and it has named songs of several lengths.

        Raises BundleError or ConfigError as `load_bundle` does.
        """
        entry = self.look(digest)
        if entry.error:
            raise entry.error
        bundle = load_bundle(entry.path, device=self._device)
        if bundle.digest != digest:
            raise BundleError(f"{entry.path} holds another bundle than {digest} now", reason="HASH_MISMATCH")
        _warm(bundle, max_batch)
        self._loaded.add(bundle)
        return bundle

    def is_loaded(self, digest: str) -> bool:
        """Whether anybody holds the bundle still: a stream, a recording or the server itself."""
        return any(bundle.digest == digest for bundle in self._loaded)


def _warm(bundle: Bundle, max_batch: int) -> None:
    """Run it on batches of several shapes, so that nobody waits for what it makes at its first songs."""
    frontend = bundle.manifest.frontend
    for seconds in WARM_S:
        shape = (frontend.n_frames(seconds), frontend.n_mels)
        frames = np.linspace(-1, 1, shape[0] * shape[1], dtype=np.float32).reshape(shape)
        song = Song(0, 1, forced_cut=False, snr_db=0.0, features=frames)
        for n in (1, max_batch):
            bundle.classify([song] * n)
