"""Reclustering that is killed, cancelled, or loses a node proposes what it would have proposed."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from reclusterings import job
from seasons import Season
from songtrain.cluster import ray_session
from songtrain.recluster.job import recluster
from songtrain.recluster.run_folder import STAGES, RunState
from songtrain.recluster.settings import ReclusterSettings

pytestmark = [
    pytest.mark.timeout(600),
    # Ray leaves sockets, log files and subprocesses to the interpreter's end, and deprecates parts of itself.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SONGSTREAM = Path(sys.executable).with_name("songstream")
SHARDED = ReclusterSettings(shard_songs=15)
"""Small shards, so that a small pool makes several tasks."""


class GoneError(BaseException):
    """The process ends here: nothing of the program may catch this."""


def state_of(folder: Path, run: str = "night-1") -> RunState:
    """Return what the run's folder says."""
    return RunState.model_validate_json((folder / "reclusterings" / run / "state.json").read_bytes())


def test_a_run_that_ends_at_every_stage_goes_on(season: Season, known_bundle: Path, tmp_path: Path) -> None:
    """Ended at the beginning of each stage in turn and started again, a run proposes what an undisturbed one does."""
    undisturbed = recluster(job(season.folder, known_bundle, models=tmp_path / "m", work=tmp_path / "w"))
    for stage in STAGES:

        def end(state: RunState, stage: str = stage) -> None:
            if state.stage == stage and state.state == "RUNNING":
                raise GoneError

        with pytest.raises(GoneError):
            recluster(job(season.folder, known_bundle), end)
        assert (state_of(season.folder).state, state_of(season.folder).stage) == ("RUNNING", stage)
        assert not list(season.folder.glob("models/[0-9a-f]*"))
    assert recluster(job(season.folder, known_bundle)).candidate == undisturbed.candidate


def started(season: Season, bundle: Path, *options: str) -> "subprocess.Popen[str]":
    """Start the command on the season."""
    command = [
        SONGSTREAM,
        "recluster",
        "--store",
        season.url,
        "--bundle",
        bundle,
        "--run",
        "night-1",
        "--json",
        *options,
    ]
    return subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_killed_and_cancelled(season: Season, known_bundle: Path) -> None:
    """SIGKILL leaves a run that goes on, SIGTERM one that says so; the next start ends it, with one bundle published."""
    before = (season.folder / "songs.sqlite").read_bytes()
    # The second time the first word comes from the stage that the first one did not finish, and others follow.
    for number, stage, state in ((signal.SIGKILL, "clustering", "RUNNING"), (signal.SIGTERM, "", "CANCELLED")):
        process = started(season, known_bundle)
        assert process.stdout is not None
        for line in process.stdout:
            if stage in ("", json.loads(line)["stage"]):
                process.send_signal(number)
                break
        _, errors = process.communicate(timeout=60)
        assert process.returncode != 0
        assert state_of(season.folder).state == state
        assert ("RUN_CANCELLED" in errors) == (state == "CANCELLED")
    output, _ = started(season, known_bundle).communicate(timeout=120)
    last = RunState.model_validate_json(output.splitlines()[-1])
    assert (last.state, last.outcome) == ("SUCCEEDED", "proposed")
    assert [path.name for path in (season.folder / "models").iterdir()] == [last.candidate]
    assert (season.folder / "songs.sqlite").read_bytes() == before


def test_on_one_two_and_three_nodes_one_of_which_is_killed(season: Season, known_bundle: Path, tmp_path: Path) -> None:
    """However many Ray nodes do the work, and though one is killed after its first shard, the proposal is the same."""
    alone = recluster(job(season.folder, known_bundle, models=tmp_path / "m", work=tmp_path / "w", settings=SHARDED))
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    head = {
        **node,
        "num_cpus": 0,
        "include_dashboard": False,
        "_system_config": {"health_check_period_ms": 1000, "health_check_failure_threshold": 5},
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    found = {}
    try:
        for n_nodes in (1, 2, 3):
            cluster.add_node(**node)  # type: ignore[arg-type]  # its keywords are a node's
            cluster.wait_for_nodes()
            killed: list[int] = []

            def kill(_: RunState, n_nodes: int = n_nodes, killed: list[int] = killed) -> None:
                run = season.folder / "reclusterings" / f"nodes-{n_nodes}"
                if n_nodes == 3 and not killed and list(run.glob("neighbours/neighbours-*.npz")):
                    killed.append(n_nodes)
                    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

            with ray_session(cluster.address):
                there = job(
                    season.folder,
                    known_bundle,
                    run=f"nodes-{n_nodes}",
                    settings=SHARDED,
                    address=cluster.address,
                    models=tmp_path / f"models-{n_nodes}",
                )
                found[n_nodes] = recluster(there, kill).candidate
        assert killed == [3]
        assert len(cluster.worker_nodes) == 2
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]  # Ray has none here
    assert found == dict.fromkeys((1, 2, 3), alone.candidate)
