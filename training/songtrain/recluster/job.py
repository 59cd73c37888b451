"""``songstream recluster``, stage by stage: snapshot → embedding → (training) → clustering → proposal → report → publishing.

The store is read once and never written, the service is never spoken to. Whatever happens to the process, the same run started
again goes on with the stages that are missing and proposes the same.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from songcore.arrays import FloatArray
from songcore.bundle import read_manifest, read_parts, read_training, read_types, write_bundle
from songcore.durable import sync
from songcore.embed import Embedder
from songcore.errors import ConfigError, SongError
from songcore.lineage import next_number, retired_ids
from songcore.manifest import Manifest
from songtrain.clusterers.density import smallest_cluster
from songtrain.export.training_state import chosen_songs, pack_training, stored_name, unpack_training, with_songs
from songtrain.recluster.full import FullResult, retrain
from songtrain.recluster.gate import check_gate
from songtrain.recluster.groups import Groups, group_pool, n_neighbours_of
from songtrain.recluster.intake import KeptFeatures, known_manifests, place_songs, read_facts, take_snapshot
from songtrain.recluster.neighbours import kept_neighbours
from songtrain.recluster.proposal import Proposal
from songtrain.recluster.quick import propose_quick, reference_songs
from songtrain.recluster.run_folder import (
    STAGES,
    CancelledError,
    Mode,
    Outcome,
    RunFolder,
    RunOrder,
    RunState,
    write_whole_file,
)
from songtrain.recluster.settings import ReclusterSettings
from songtrain.recluster.snapshot import read_features, read_snapshot, shown_url, store_folder
from songtrain.recluster.songs import RunInput, name_songs
from songtrain.report.changes import ChangesContent, change_scores, write_changes_report

__all__ = ["ReclusterJob", "recluster"]

REPORT = "report.html"


@dataclass(frozen=True)
class ReclusterJob:
    """What to retrain, from which store, where to, and how."""

    store: str
    bundle: Path
    models: Path
    """The service's folder of bundles, each called by its digest; the candidate appears in it."""
    work: Path
    """Runs, a folder each; kept."""
    run: str
    mode: Mode
    settings: ReclusterSettings
    created_by: str
    now: Callable[[], datetime]
    clips: Path | None = None
    """The service's folder of clips, with songs' features; beside the store if that is a SQLite file."""
    address: str | None = None
    """Of a Ray cluster; None for this machine alone."""
    started_with: Path | None = None
    """Bundle that the service was started with, which need not be among the models: the first songs are its."""


def recluster(job: ReclusterJob, on_state: Callable[[RunState], None] = lambda _: None) -> RunState:
    """Work on the run until it is done and return how it ended; a run that is done already is not done again.

    Raises ConfigError and BundleError for what it cannot begin with, CancelledError when it was told to stop, and whatever
    SongError a stage raises; the run's state then says so.
    """
    manifest = read_manifest(job.bundle)
    order = RunOrder(
        run=job.run,
        mode=job.mode,
        bundle=manifest.digest,
        store=shown_url(job.store),
        settings=job.settings,
        created_at=job.now(),
        created_by=job.created_by,
    )
    with RunFolder.hold(job.work, order, job.now) as folder:
        state = folder.state()
        if state is not None and state.state == "SUCCEEDED":
            return state
        try:
            return _worked(lambda: _Run(job, folder, manifest, on_state), folder, on_state)
        except (KeyboardInterrupt, SystemExit) as stop:
            # Ray makes one of these of what a signal's handler raises; while it starts or trains it has handlers of its own.
            error = stop if isinstance(stop, CancelledError) else CancelledError()
            last = folder.state()
            if last is None or last.state != "SUCCEEDED":
                on_state(folder.tell(state="CANCELLED", reason=error.reason, message=str(error)))
            raise error from None


def _worked(make: "Callable[[], _Run]", folder: RunFolder, on_state: Callable[[RunState], None]) -> RunState:
    try:
        on_state(folder.tell(state="RUNNING", reason=None, message=None))
        return make().work()
    except Exception as error:
        if stop := _stop_before(error):
            raise stop from None
        known = (error.reason, str(error)) if isinstance(error, SongError) else None
        reason, message = known or ("FAULT", f"a fault of songstream: {error!r}")
        on_state(folder.tell(state="FAILED", reason=reason, message=message))
        raise


def _stop_before(error: BaseException | None) -> BaseException | None:
    """Return what told the run to stop before the error: where Ray's processes are told, too, tidying up with them fails."""
    while error is not None and not isinstance(error, (KeyboardInterrupt, SystemExit)):
        error = error.__context__
    return error


class _Run:
    """One run at work."""

    def __init__(
        self, job: ReclusterJob, folder: RunFolder, manifest: Manifest, on_state: Callable[[RunState], None]
    ) -> None:
        self._job, self._folder, self._manifest, self._on_state = job, folder, manifest, on_state
        self._parts = read_parts(job.bundle)

    def work(self) -> RunState:
        """Go through the stages."""
        self._stage("snapshot")
        self._snapshot()
        self._stage("embedding")
        run = self._input()
        self._stage("training")
        trained = self._retrain(run) if self._job.mode == "full" else None
        self._stage("clustering")
        groups = None if trained else self._group(run)
        self._stage("proposal")
        proposal = trained.proposal if trained else propose_quick(run, groups) if groups else None
        if proposal is None:
            return self._end(self._without_proposal(run), None, self._facts(run, None, groups))
        return self._propose(run, proposal, trained, groups)

    def _stage(self, name: str) -> None:
        self._on_state(self._folder.tell(stage=name, n_done=STAGES.index(name)))

    def _snapshot(self) -> None:
        job = self._job
        # Said before hours are spent, not after.
        _check_writable(job.models)
        if read_facts(self._folder) is not None:
            return
        known = known_manifests(job.models, job.bundle, *filter(None, [job.started_with]))
        beside = store_folder(job.store)
        clips = job.clips or (beside / "clips" if beside else None)
        snapshot = read_snapshot(job.store, clips=clips, max_known=job.settings.max_known)
        take_snapshot(self._folder, snapshot, self._manifest, known, self._ids_in_use(list(known)))

    def _ids_in_use(self, digests: list[str]) -> set[str]:
        """Return the ids of the types of all bundles there are, also of those that were never served."""
        used = {one.id for one in self._parts.types}
        if self._job.started_with is not None:
            used |= {one.id for one in read_types(self._job.started_with)}
        for digest in digests:
            path = self._job.models / digest
            if path.is_dir():
                used |= {one.id for one in read_types(path)}
        return used

    def _input(self) -> RunInput:
        stored = read_facts(self._folder)
        if stored is None:
            raise ConfigError(f"{self._folder.path} lost its snapshot; start a new run", reason="RUN_DIFFERS")
        songs = place_songs(self._folder, self._parts.encoder, self._job.address)
        names = {one.id: one.name for one in self._parts.types}
        retired = retired_ids(self._parts.lineage)
        named = name_songs(songs, self._parts.catalogue(), names, stored.view, retired)
        first_number = max(stored.first_number, self._first_number())
        return RunInput(self._parts, self._manifest.digest, songs, named, stored.view, self._job.settings, first_number)

    def _first_number(self) -> int:
        """Return the first number that no other run gave since this one took its snapshot."""
        job, own = self._job, self._folder.read_json("proposal.json")
        digests = [digest for digest in known_manifests(job.models) if digest != (own or {}).get("candidate")]
        others = [path for path in job.work.glob("*/proposal.json") if path.parent != self._folder.path]
        proposed = {name for path in others for name in json.loads(path.read_bytes())["types"]}
        return next_number(self._ids_in_use(digests) | proposed)

    def _group(self, run: RunInput) -> Groups:
        pool, settings = run.named.in_pool, run.settings.groups
        nothing = np.full(len(pool), -1, np.int64)
        if len(pool) < _smallest(run):
            return Groups(nothing, nothing, 0)
        reference = reference_songs(run)
        points = np.concatenate([run.songs.embeddings[pool], reference.embeddings])
        neighbours = kept_neighbours(
            points,
            n_neighbours_of(len(points), settings),
            self._folder.file("neighbours"),
            shard_songs=run.settings.shard_songs,
            address=self._job.address,
            on_shard=lambda: self._on_state(self._folder.tell()),
        )
        occasions = [run.songs.occasions[i] for i in pool.tolist()]
        return group_pool(
            points[: len(pool)], occasions, reference.embeddings, reference.type_index, settings, neighbours=neighbours
        )

    def _without_proposal(self, run: RunInput) -> Outcome:
        n_pool = len(run.named.in_pool)
        if n_pool == 0:
            return "pool_empty"
        return "pool_too_small" if n_pool < _smallest(run) else "nothing_new"

    def _retrain(self, run: RunInput) -> FullResult:
        features = KeptFeatures.read(self._folder.file("features.npz"))
        return retrain(run, features, read_training(self._job.bundle), self._folder.file("training"), self._job.address)

    def _propose(
        self, run: RunInput, proposal: Proposal, trained: FullResult | None, groups: Groups | None
    ) -> RunState:
        encoder = trained.encoder if trained else self._parts.encoder
        embedder = Embedder(encoder, device="cpu")
        embeddings = trained.embeddings if trained else run.songs.embeddings
        order = self._folder.order
        parts = proposal.parts(self._parts, self._manifest.digest, order.created_at, order.created_by)
        gate = check_gate(run, proposal, parts.catalogue(), embedder, embeddings)
        facts = self._facts(run, proposal, groups)
        report = {
            **facts,
            "gate": "passed" if all(check.passed for check in gate) else "failed",
            "mode": self._job.mode,
        }
        parts = replace(parts, gate=gate, report=report)
        if trained:
            parts = replace(parts, encoder=encoder, encoder_info=trained.info, training=trained.training)
        else:
            parts = replace(parts, training=self._grown_training(run, proposal))
        candidate = self._folder.file("candidate")
        bundle = write_bundle(candidate, parts, overwrite=True)
        self._stage("report")
        content = ChangesContent(
            order.run, run, proposal, gate, embeddings, facts, bundle.digest, lambda songs: self._features(run, songs)
        )
        write_changes_report(candidate / REPORT, content)
        write_whole_file(self._folder.file(REPORT), (candidate / REPORT).read_bytes())
        self._folder.write_json(
            "proposal.json",
            {
                "candidate": bundle.digest,
                "changes": [entry.model_dump() for entry in proposal.changes],
                "described_anew": {
                    now.id: {"name": [before.name, now.name], "kind": [before.kind, now.kind]}
                    for before, now in proposal.described_anew(self._parts.types)
                },
                "gate": [check.model_dump() for check in gate],
                "types": {
                    one.id: [run.songs.uids[i] for i in np.flatnonzero(proposal.labels == k)]
                    for k, one in enumerate(proposal.types)
                },
            },
        )
        self._stage("publishing")
        if self._first_number() > run.first_number:
            # A run in another folder published meanwhile, and may have given the same numbers to other types.
            return self.work()
        _publish(candidate, self._job.models / bundle.digest)
        return self._end("proposed", bundle.digest, report)

    def _grown_training(self, run: RunInput, proposal: Proposal) -> bytes | None:
        """Return the bundle's training.npz with songs of the types that it has none of, so that a full retraining keeps them.

        Kept in the run's folder, for the ids that it gives: features that are deleted later change nothing in a run taken up.
        """
        content = read_training(self._job.bundle)
        file = self._folder.file(f"training-{run.first_number}.npz")
        if content is None:
            return None
        if not file.exists():
            state = unpack_training(content)
            missing = [k for k, one in enumerate(proposal.types) if one.id not in state.type_ids]
            chosen = chosen_songs(np.where(np.isin(proposal.labels, missing), proposal.labels, -1), run.settings.seed)
            found = self._features(run, chosen.tolist())
            grown = with_songs(
                state,
                [stored_name(run.songs.uids[i]) for i in found],
                list(found.values()),
                [proposal.types[int(proposal.labels[i])].id for i in found],
            )
            write_whole_file(file, pack_training(grown) if found else content)
        return file.read_bytes()

    def _features(self, run: RunInput, songs: Sequence[int]) -> dict[int, FloatArray]:
        """Return features of songs, from the snapshot or where the service keeps them; those that are gone are left out."""
        found = KeptFeatures.read(self._folder.file("features.npz")).of(songs)
        for song in songs:
            path = run.songs.files[song]
            if song not in found and path and (features := read_features(Path(path))) is not None:
                found[song] = features
        return found

    def _facts(
        self, run: RunInput, proposal: Proposal | None, groups: Groups | None
    ) -> dict[str, float | int | str | None]:
        stored = read_facts(self._folder)
        facts: dict[str, float | int | str | None] = dict(stored.facts) if stored else {}
        facts |= {"n_pool": len(run.named.in_pool)}
        if groups is not None:
            facts |= {"n_waiting": groups.n_waiting, "n_extended": int((groups.extended >= 0).sum())}
        if proposal is not None:
            ids = [one.id for one in proposal.types]
            facts |= change_scores(run.named.type_index, run.named.type_ids, proposal.labels, ids)
            facts |= {"n_types": len(proposal.types)}
            facts |= {
                f"n_{kind}": sum(entry.change == kind for entry in proposal.changes)
                for kind in ("new", "split", "merged", "retired")
            }
        return facts

    def _end(self, outcome: Outcome, candidate: str | None, facts: dict[str, float | int | str | None]) -> RunState:
        state = self._folder.tell(
            state="SUCCEEDED", n_done=len(STAGES), outcome=outcome, candidate=candidate, facts=facts
        )
        self._on_state(state)
        return state


def _smallest(run: RunInput) -> int:
    return run.settings.groups.min_songs or smallest_cluster(len(run.named.in_pool))


def _publish(candidate: Path, target: Path) -> None:
    """Make the candidate appear among the models, whole or not at all; raises ConfigError OUTPUT_NOT_WRITABLE."""
    if target.exists():
        return
    partial = target.with_name(f".{target.name}-partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(candidate, partial)
        # The run is done once it is there, so nobody would write it again after the power failed.
        for path in (*partial.iterdir(), partial):
            sync(path)
        partial.rename(target)
        sync(target.parent)
    except (OSError, shutil.Error) as error:
        raise ConfigError(
            f"cannot write the bundle to {target} ({error}); make room, and give the same command again: all else is done",
            reason="OUTPUT_NOT_WRITABLE",
        ) from error


def _check_writable(folder: Path) -> None:
    """Make the folder of bundles; raises ConfigError OUTPUT_NOT_WRITABLE."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot write to {folder}, where the bundle shall go ({error.strerror}); choose another folder with --models",
            reason="OUTPUT_NOT_WRITABLE",
        ) from error
