"""Sweeps over the parameters of one system by Ray Tune: rows like those of a run, kept and resumed like them.

Tune decides what runs when; the work itself is done by the tasks of `songtrain.lab.tasks`, so that settings which differ
in the clusterer alone share their points, whatever their encoder cost.
"""

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.search import Searcher

from songcore.errors import ConfigError
from songcore.stream import StreamConfig
from songtrain.cluster import posted_events
from songtrain.datasets.songs import SongSet
from songtrain.datasets.sound import SoundSource
from songtrain.lab.grid import BinarySearch, SearchRange
from songtrain.lab.ledger import Ledger, Trial, plan_trial, song_digest
from songtrain.lab.options import with_parameters, with_sound
from songtrain.lab.results import Row
from songtrain.lab.systems import System
from songtrain.lab.tasks import Bench, failed, finished, note_songs

__all__ = ["SEARCH_SCORE", "Sweep", "SweepRun", "run_sweep"]

SEARCH_SCORE = "silhouette"
"""What the source's binary search looks at."""
NO_SCORE = -np.inf
"""Of a run that failed."""
MAX_TRIALS = 32
"""Settings at once, however many cores there are: each is a process at the head that waits for what runs elsewhere."""
OnRow = Callable[[Row, int, int | None], None]
"""Gets each new row, how many are done and of how many, None while a search goes on."""


@dataclass(frozen=True)
class Sweep:
    """What to try on one system."""

    system: System
    settings: Sequence[dict[str, Any]]
    """Parameters by name, as in `with_parameters`."""
    n_seeds: int
    search: SearchRange | None = None
    """With every setting."""
    max_minutes: float | None = None
    """For every network, a clusterer that a setting names too; None lets each take its time."""

    def system_with(self, setting: Mapping[str, Any]) -> System:
        """Return the system with a setting; ConfigError when it takes none such."""
        return with_parameters(self.system, setting, self.max_minutes)

    def systems(self) -> list[System]:
        """Return the system with every setting, for a search with its least number; ConfigError when one cannot be."""
        if self.search is not None and any(self.search.parameter in setting for setting in self.settings):
            # The numbers of the search would take the place of the grid's, and every setting be tried as often as these are.
            raise ConfigError(
                f"--grid and --search both set {self.search.parameter}; name it in one of them", reason="GRID_INVALID"
            )
        least = {} if self.search is None else {self.search.parameter: self.search.low}
        systems = [self.system_with(setting | least) for setting in self.settings]
        if self.search is not None and any(system.clusterer.name == "argmax" for system in systems):
            raise ConfigError(
                f"--search asks the silhouette, which {self.system.name} has none of: its points are shares of clusters; "
                "use --grid",
                reason="GRID_INVALID",
            )
        return systems


@dataclass(frozen=True)
class SweepRun:
    """The rows of a sweep, and how many of them were there before."""

    rows: tuple[Row, ...]
    n_kept: int


@dataclass
class _Plan:
    """All trials asked for so far."""

    sweep: Sweep
    songs: SongSet
    stream: StreamConfig
    digest: str
    trials: list[Trial] = field(default_factory=list)
    problem: ConfigError | None = None
    """Why rows cannot be kept: nothing more is tried then."""

    def add(self, setting: dict[str, Any], seed: int) -> Trial:
        system = with_sound(self.sweep.system_with(setting), self.stream)
        trial = plan_trial(system, seed, self.songs, self.digest, self.stream, setting)
        self.trials.append(trial)
        return trial


def run_sweep(
    songs: SongSet,
    stream: StreamConfig,
    sweep: Sweep,
    out: Path,
    on_row: OnRow = lambda *_: None,
    sound: SoundSource | None = None,
) -> SweepRun:
    """Try everything that has not been tried yet; needs a Ray connection. A setting that fails is a row with its error.

    ConfigError when the disk takes no more rows: what is running then is the last that is tried.
    """
    digest = song_digest(songs)
    ledger, plan = Ledger(out, digest), _Plan(sweep, songs, stream, digest)
    proposals = _Proposals(plan, ledger)
    n_new = 0

    def take(event: dict[str, Any]) -> None:
        nonlocal n_new
        try:
            ledger.add(event["row"])
        except ConfigError as error:
            plan.problem = error
            return
        n_new += 1
        on_row(event["row"], n_new, None if sweep.search is not None else proposals.n_first)

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    # Where the cluster's own head is: with another node whatever waits there, and all references of the bench, could be lost.
    head = {"node:__internal_head__": 0.001}
    bench: Any = ray.remote(num_cpus=0, resources=head, max_restarts=3, max_task_retries=3)(Bench).remote(
        songs, stream, sound, []
    )
    # Tune tells of itself on standard output, which belongs to the command.
    quiet = redirect_stdout(StringIO())
    with posted_events(take) as board, tempfile.TemporaryDirectory() as folder, quiet:
        trainable = tune.with_parameters(_run_trial, bench=bench, board=board)
        tune.Tuner(
            # No core: the tasks that a trial waits for are what needs them.
            tune.with_resources(trainable, tune.PlacementGroupFactory([head])),
            tune_config=tune.TuneConfig(
                search_alg=proposals,
                num_samples=-1,
                max_concurrent_trials=min(_n_cores(), MAX_TRIALS),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
    ray.kill(bench)
    if plan.problem is not None:
        raise plan.problem
    lost = [trial for trial in plan.trials if not ledger.knows(trial)]
    for trial in lost:
        ledger.add(replace(trial.blank, error="the process that tried this setting was lost [WORKER_LOST]"))
    note_songs(out, songs, stream, sound, digest)
    return SweepRun(tuple(ledger[t.blank.key] for t in plan.trials), len(plan.trials) - n_new - len(lost))


def _n_cores() -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]  # Ray has none here


def _run_trial(config: dict[str, Any], *, bench: Any, board: Any) -> None:
    """Run one trial as tasks, post its row, and tell Tune the score that a search looks at."""
    trial: Trial = config["trial"]
    try:
        row = finished(trial.blank, ray.get(bench.clusters.remote(trial)))
    except RayError as error:
        row = failed(trial.blank, error)
    # Waited for, so that a sweep that is killed next has kept it.
    ray.get(board.post.remote({"row": row}))
    tune.report({SEARCH_SCORE: _search_score(row)})


def _search_score(row: Row) -> float:
    """Return what a search goes by, the lowest there is for a run that found nothing to tell apart."""
    return row.scores.get(SEARCH_SCORE, NO_SCORE if row.error else -1.0)


class _Proposals(Searcher):
    """Proposes trials to Tune: the missing ones of the grid, or what the searches of all settings ask for."""

    def __init__(self, plan: _Plan, ledger: Ledger) -> None:
        super().__init__(metric=SEARCH_SCORE, mode="max")
        self._plan, self._ledger = plan, ledger
        self._running: dict[str, tuple[int, Trial]] = {}
        self._scores: list[dict[int, list[float]]] = []
        self._searches: list[BinarySearch] = []
        self._waiting: list[tuple[int, Trial]] = []
        sweep = plan.sweep
        if sweep.search is not None:
            self._searches = [BinarySearch(sweep.search.low, sweep.search.high) for _ in sweep.settings]
            self._scores = [{} for _ in sweep.settings]
            for number in range(len(sweep.settings)):
                self._extend(number)
        else:
            for number, setting in enumerate(sweep.settings):
                self._want(number, setting)
        self.n_first = len(self._waiting)

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial, None while all depend on trials that are running."""
        if self._plan.problem is not None:
            return str(Searcher.FINISHED)
        if not self._waiting:
            return None if self._running else str(Searcher.FINISHED)
        number, trial = self._waiting.pop(0)
        self._running[trial_id] = number, trial
        return {"trial": trial}

    def on_trial_complete(
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,
        error: bool = False,
    ) -> None:
        """Take the score, and ask the setting's search for more when it was waiting for no other."""
        number, trial = self._running.pop(trial_id)
        self._tell(number, trial, NO_SCORE if error or result is None else float(result[SEARCH_SCORE]))

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the rows on disk are what a sweep goes on from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was kept."""

    def _want(self, number: int, setting: dict[str, Any]) -> None:
        for seed in range(self._plan.sweep.n_seeds):
            trial = self._plan.add(setting, seed)
            if self._ledger.has(trial):
                row = self._ledger[trial.blank.key]
                self._tell(number, trial, _search_score(row))
            else:
                self._waiting.append((number, trial))

    def _tell(self, number: int, trial: Trial, score: float) -> None:
        search = self._plan.sweep.search
        if search is None:
            return
        k = int(trial.blank.parameters[search.parameter])
        scores = self._scores[number][k]
        scores.append(score)
        if len(scores) == self._plan.sweep.n_seeds:
            # A seed whose process was lost says nothing of the number.
            worked = [one for one in scores if one != NO_SCORE]
            self._searches[number].tell(k, float(np.mean(worked)) if worked else NO_SCORE)
        # Not before all are told: what is asked next must not depend on which was ready first.
        if all(len(told) == self._plan.sweep.n_seeds for told in self._scores[number].values()):
            self._extend(number)

    def _extend(self, number: int) -> None:
        """Want what the search asks for and is not on its way."""
        search = self._plan.sweep.search
        assert search is not None  # noqa: S101 - for mypy
        asked = self._searches[number].ask()
        self._scores[number] |= {k: [] for k in asked}
        for k in asked:
            self._want(number, self._plan.sweep.settings[number] | {search.parameter: k})
