"""Reclustering that is killed, cancelled, or loses a node proposes what it would have proposed."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from select import select
from threading import Thread
from time import monotonic, sleep

import numpy as np
import pytest
from ray.cluster_utils import Cluster

from ray_marks import ray_marks
from reclusterings import job
from seasons import Season
from songtrain.cluster import ray_session
from songtrain.recluster.job import recluster
from songtrain.recluster.run_folder import STAGES, CancelledError, RunState, read_order
from songtrain.recluster.scheduling import until_stopped
from songtrain.recluster.settings import ReclusterSettings

pytestmark = ray_marks(600)

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


def command(season: Season, bundle: Path, *options: str) -> list[str]:
    """Return the arguments that recluster the season."""
    fixed = ["recluster", "--store", season.url, "--bundle", str(bundle), "--run", "night-1", "--json"]
    return [*fixed, *options]


def started(season: Season, bundle: Path) -> "subprocess.Popen[str]":
    """Start the command on the season."""
    line = [str(SONGSTREAM), *command(season, bundle)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_cancelled(season: Season, known_bundle: Path) -> None:
    """SIGTERM leaves a run that says so, and one line with a reason; the next start ends it, with one bundle published."""
    before = (season.folder / "songs.sqlite").read_bytes()
    process = started(season, known_bundle)
    assert process.stdout
    process.stdout.readline()
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.count("\n"), errors.count("[RUN_CANCELLED]")) == (1, 1, 1)
    assert state_of(season.folder).state == "CANCELLED"
    output, _ = started(season, known_bundle).communicate(timeout=120)
    last = RunState.model_validate_json(output.splitlines()[-1])
    assert (last.state, last.outcome) == ("SUCCEEDED", "proposed")
    assert [path.name for path in (season.folder / "models").iterdir()] == [last.candidate]
    assert (season.folder / "songs.sqlite").read_bytes() == before


COMMANDS = """
import json, os, sys
import ray.train.torch, sklearn.cluster, torch
from songcore.cli import main
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        sys.argv[1:] = json.loads(line)
        sys.exit(main())
    print(child, file=sys.stderr, flush=True)
    print(os.waitpid(child, 0)[1], file=sys.stderr, flush=True)
"""
"""Runs the command lines that it reads, each in a process of its own, and says its number and how it ended. What takes seconds
is imported once; but not onnxruntime, which has threads from the start."""


def test_the_command_killed_at_every_stage(season: Season, known_bundle: Path, tmp_path: Path) -> None:
    """SIGKILL in each stage in turn, some milliseconds into it, and the run ends with what an undisturbed one proposes."""
    rng = np.random.default_rng(0)
    # One word fits in: until the word before is taken, the process stands still at that of the stage.
    out, into = os.pipe2(os.O_DIRECT)
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 4096)
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", COMMANDS],
        stdin=subprocess.PIPE,
        stdout=into,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        env=plain,
    ) as commands:
        os.close(into)
        assert commands.stdin
        assert commands.stderr
        for number, stage in enumerate(STAGES):
            print(json.dumps(command(season, known_bundle)), file=commands.stdin)
            child = int(commands.stderr.readline())
            for _ in range(number):
                assert json.loads(os.read(out, 4096))["state"] == "RUNNING"
            assert select([out], [], [], 60)[0]
            until_at(season, stage)
            assert not list(season.folder.glob("models/[0-9a-f]*"))
            os.read(out, 4096)
            sleep(rng.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
            assert int(commands.stderr.readline()) == signal.SIGKILL
            while select([out], [], [], 0)[0]:
                os.read(out, 4096)
            # In a short stage that was at the word of the next one.
            assert state_of(season.folder).stage in STAGES[number : number + 2]
        print(json.dumps(command(season, known_bundle)), file=commands.stdin)
        commands.stdin.close()
        while os.read(out, 4096):
            pass
        assert commands.stderr.read().splitlines()[1:] == ["0"]
    os.close(out)
    last = state_of(season.folder)
    assert (last.state, last.outcome) == ("SUCCEEDED", "proposed")
    assert [path.name for path in season.folder.glob("models/[0-9a-f]*")] == [last.candidate]
    order = read_order(season.folder / "reclusterings/night-1/run.json")
    undisturbed = job(
        season.folder,
        known_bundle,
        models=tmp_path / "m",
        work=tmp_path / "w",
        now=lambda: order.created_at,
        created_by=order.created_by,
    )
    assert recluster(undisturbed).candidate == last.candidate


def until_at(season: Season, stage: str) -> None:
    """Wait until the run's state names the stage."""
    last = monotonic() + 60
    while not (season.folder / "reclusterings/night-1/state.json").exists() or state_of(season.folder).stage != stage:
        assert monotonic() < last
        sleep(0.005)


def test_cancelled_in_the_middle_of_a_file(season: Season, known_bundle: Path) -> None:
    """SIGTERM while features are read is no file that cannot be read: the run is cancelled, not one song short."""
    pipe = sorted(season.folder.glob("clips/*/*/*.npz"))[9]
    whole = pipe.read_bytes()
    pipe.unlink()
    os.mkfifo(pipe)

    def stop() -> None:
        with pipe.open("wb"):  # as soon as somebody reads it
            sleep(0.1)
            os.kill(os.getpid(), signal.SIGTERM)
            sleep(0.5)

    thread = Thread(target=stop)
    thread.start()
    with until_stopped(), pytest.raises(CancelledError):
        recluster(job(season.folder, known_bundle, mode="full"))
    thread.join()
    state = state_of(season.folder)
    assert (state.state, state.stage, state.reason) == ("CANCELLED", "snapshot", "RUN_CANCELLED")
    pipe.unlink()
    pipe.write_bytes(whole)


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
                run = tmp_path / f"work-{n_nodes}" / f"nodes-{n_nodes}"
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
                    # What another run proposed in the same folder would have used up the ids.
                    work=tmp_path / f"work-{n_nodes}",
                    models=tmp_path / f"models-{n_nodes}",
                )
                found[n_nodes] = recluster(there, kill).candidate
        assert killed == [3]
        assert len(cluster.worker_nodes) == 2
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]  # Ray has none here
    assert found == dict.fromkeys((1, 2, 3), alone.candidate)
