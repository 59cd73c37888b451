"""From what somebody typed to a job: defaults that follow from the store, and which bundle is served."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import cast

from songcore.bundle import read_manifest
from songcore.errors import ConfigError
from songtrain.recluster.job import ReclusterJob, recluster
from songtrain.recluster.run_folder import Mode, RunState
from songtrain.recluster.settings import load_recluster_settings
from songtrain.recluster.snapshot import active_bundle, store_folder

__all__ = ["Request", "run_request"]


@dataclass(frozen=True)
class Request:
    """The options of the command."""

    store: str
    bundle: Path
    active: bool
    models: Path | None
    mode: str
    run: str
    work: Path | None
    clips: Path | None
    config: Path | None
    address: str | None


def run_request(request: Request, now: Callable[[], datetime], on_state: Callable[[RunState], None]) -> RunState:
    """Do one run; ConfigError for options that do not fit."""
    if request.mode not in {"quick", "full"}:
        raise ConfigError(f"--mode {request.mode}: expected quick or full")
    models = request.models or _beside(request.store, "models")
    bundle = _served(request, models) if request.active else request.bundle
    job = ReclusterJob(
        store=request.store,
        bundle=bundle,
        models=models,
        work=request.work or _beside(request.store, "reclusterings"),
        run=request.run or f"{now():%Y%m%d-%H%M%S}-{request.mode}",
        mode=cast("Mode", request.mode),
        settings=load_recluster_settings(request.config),
        created_by=f"songstream {version('songstream')}",
        now=lambda: now().replace(microsecond=0),
        clips=request.clips,
        address=request.address,
        started_with=request.bundle,
    )
    return recluster(job, on_state)


def _served(request: Request, models: Path) -> Path:
    """Return where the bundle is that the store says is served: the given one, or one among the models."""
    digest = active_bundle(request.store, request.work, models)
    if read_manifest(request.bundle).digest == digest:
        return request.bundle
    if not (models / digest).is_dir():
        raise ConfigError(
            f"the bundle that is served, {digest}, is neither {request.bundle} nor in {models}; give the right --models, or "
            "leave out --active",
            reason="ACTIVE_UNKNOWN",
        )
    return models / digest


def _beside(store: str, name: str) -> Path:
    folder = store_folder(store)
    if folder is None:
        raise ConfigError(f"--{'work' if name == 'reclusterings' else name}: needed where the store is no SQLite file")
    return folder / name
