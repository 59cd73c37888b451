"""How reclusterings are scheduled: cron expressions, the systemd timer, and the manifests for KubeRay."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from postgres import PostgresServer
from songcore.errors import ConfigError
from songcore.names import is_name
from songserve.bundles.history import BundleEvent, EventKind
from songserve.database import DATABASE_NAME
from songtrain.commands.recluster import recluster
from songtrain.recluster.run_folder import CancelledError
from songtrain.recluster.scheduling import keep_schedule, next_time, until_stopped
from songtrain.recluster.snapshot import active_bundle
from stores import Opened

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
MIDNIGHT = datetime(2026, 6, 1, tzinfo=UTC)


def options(command: str) -> set[str]:
    """Return the options of a command line, after it was checked that there is such a command with all of them."""
    words = shlex.split(command)
    assert words[1] == "recluster"
    app = typer.Typer()
    app.command()(recluster)
    known = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    used = {word for word in words if word.startswith("--")}
    assert {option for option in used if option not in known} == set()
    return used


def test_times_of_a_schedule() -> None:
    """The next time is the first one after now, in the clock's zone."""
    assert next_time("30 2 * * *", MIDNIGHT) == MIDNIGHT + timedelta(hours=2, minutes=30)
    assert next_time("0 3 * * 0", MIDNIGHT) == datetime(2026, 6, 7, 3, tzinfo=UTC)


@pytest.mark.parametrize("schedule", ["every night", "61 2 * * *", "30 2 * *", "0 0 30 2 *"])
def test_bad_schedules(schedule: str) -> None:
    """What is no cron expression, or has no time to come, is refused with its reason."""
    with pytest.raises(ConfigError) as caught:
        next_time(schedule, MIDNIGHT)
    assert caught.value.reason == "SCHEDULE_INVALID"


def test_a_schedule_goes_on_after_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    """Work is done at each time; whatever fails is told, and the next time comes all the same until it is told to stop."""
    clock, done = [MIDNIGHT], list[datetime]()

    def wait(seconds: float) -> bool:
        clock[0] += timedelta(seconds=seconds)
        return len(done) == 4

    def work() -> None:
        done.append(clock[0])
        if len(done) == 2:
            raise ConfigError("no store", reason="STORE_UNREACHABLE")
        if len(done) == 3:
            raise ZeroDivisionError

    keep_schedule("30 2 * * *", work, lambda: clock[0], wait)
    assert [(at - MIDNIGHT) / timedelta(hours=1) for at in done] == [2.5, 26.5, 50.5, 74.5]
    output, errors = capsys.readouterr()
    assert output == "songstream: no store [STORE_UNREACHABLE]\n"
    assert "Traceback" in errors
    assert errors.endswith("songstream: a fault of songstream: ZeroDivisionError() [FAULT]\n")


def test_a_schedule_ends_when_it_is_told() -> None:
    """SIGTERM ends it while it waits, and after work that lost what the signal raised; what it raises in work ends it, too."""
    done = list[str]()

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def losing() -> None:
        done.append("losing")
        with suppress(CancelledError):
            kill()

    def killed() -> None:
        done.append("killed")
        kill()

    with until_stopped() as stopped:
        Timer(0.2, kill).start()
        keep_schedule("30 2 * * *", losing, lambda: MIDNIGHT, stopped.wait)
    assert (stopped.signal, done) == ("SIGTERM", [])
    for work in (losing, killed):
        minutes = iter([0, *[1] * 9])
        with until_stopped() as stopped:
            keep_schedule("* * * * *", work, lambda m=minutes: MIDNIGHT + timedelta(minutes=next(m)), stopped.wait)  # type: ignore[misc]
        assert (stopped.signal, done[-1]) == ("SIGTERM", work.__name__)
    assert done == ["losing", "killed"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_timer_and_unit_are_valid(tmp_path: Path) -> None:
    """Systemd knows every setting of both and finds no fault, and the unit's command exists with its options."""
    for name in ("songstream-recluster.service", "songstream-recluster.timer"):
        text = (DEPLOY / "systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/songstream/bin", str(BIN)))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "songstream-recluster.timer"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stderr
    assert [line for line in verified.stderr.splitlines() if "songstream" in line] == []
    unit = (DEPLOY / "systemd" / "songstream-recluster.service").read_text()
    (start,) = [line.removeprefix("ExecStart=") for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert {"--store", "--bundle", "--active"} <= options(start)


def manifests(name: str) -> list[dict[str, Any]]:
    """Return the documents of a manifest."""
    return list(yaml.safe_load_all((DEPLOY / "kuberay" / name).read_text()))


def submitted(entrypoint: str, folder: Path, day: str) -> list[str]:
    """Return the arguments that songstream gets when the entrypoint is submitted on a day, UTC.

    The submitting pod's bash takes the words apart, `ray job submit` quotes them again, and a shell of the head runs them.
    """
    programs = {"date": f'exec {shutil.which("date")} -d {day} "$@"', "songstream": "printf '%s\\n' \"$@\""}
    for name, does in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / name).chmod(0o755)
    command = shlex.join(shlex.split(entrypoint))
    path = f"{folder}:/usr/bin:/bin"
    ran = subprocess.run(["sh", "-c", command], env={"PATH": path}, capture_output=True, text=True, check=True)
    return ran.stdout.splitlines()


def test_a_night_s_run_has_one_name(tmp_path: Path) -> None:
    """What is started again in a night goes on with the night's run, and the next night's is another."""
    (job,) = manifests("rayjob.yaml")
    hours = ["2026-06-01T02:30Z", "2026-06-01T20:29Z", "2026-06-02T02:30Z"]
    given = [submitted(job["spec"]["entrypoint"], tmp_path, hour) for hour in hours]
    names = [words[words.index("--run") + 1] for words in given]
    assert names == ["nightly-20260601", "nightly-20260601", "nightly-20260602"]
    assert all(is_name(name) for name in names)
    # All that a night's job may try, begun as late as the schedule allows, is over before the day is.
    (*_, cron) = manifests("cronjob.yaml")
    begin = next_time(cron["spec"]["schedule"], MIDNIGHT) + timedelta(seconds=cron["spec"]["startingDeadlineSeconds"])
    tries = 1 + job["spec"]["backoffLimit"]
    assert begin + timedelta(seconds=tries * job["spec"]["activeDeadlineSeconds"]) < MIDNIGHT + timedelta(days=1)


def test_nodes_manifest_and_environment_have_one_ray() -> None:
    """The image takes the version that pyproject.toml pins, with what jobs are submitted to; the manifest names the same."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pins = dict(re.findall(r"^([\w-]+)(?:\[.*\])?==(\S+)$", "\n".join(extras["training"]), re.MULTILINE))
    (job,) = manifests("rayjob.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == pins["ray"] == version("ray")
    dockerfile = (DEPLOY / "docker" / "Dockerfile.training").read_text()
    assert 'pip install ".[training]" "ray[default]"' in dockerfile
    assert f'"torch=={pins["torch"]}"' in dockerfile
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert f"-t {group['template']['spec']['containers'][0]['image']} .\n" in dockerfile


def test_the_ray_job_has_the_shape_of_one(tmp_path: Path) -> None:
    """Its command exists, joins the cluster it is on, and every node has the store's URL and the folder all nodes must see."""
    (job,) = manifests("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    words = submitted(job["spec"]["entrypoint"], tmp_path, "2026-06-01")
    assert {"--address", "--work", "--models", "--clips", "--bundle"} <= options(shlex.join(["songstream", *words]))
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert len(groups) == 2
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert [variable["name"] for variable in container["env"]] == ["SONGSTREAM_STORE"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert pod["securityContext"]["runAsNonRoot"] is True
    paths = {word for word in words if word.startswith("/")}
    assert all(path.startswith("/data/") for path in paths)


def test_the_cron_job_creates_ray_jobs() -> None:
    """It may create Ray jobs and nothing else, under an account of its own, from a config map, at a time that there is."""
    account, role, binding, cron = manifests("cronjob.yaml")
    assert [one["kind"] for one in (account, role, binding, cron)] == [
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "CronJob",
    ]
    assert role["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}]
    assert next_time(cron["spec"]["schedule"], MIDNIGHT) == MIDNIGHT + timedelta(hours=2, minutes=30)
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    pod = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account["metadata"]["name"] == binding["subjects"][0]["name"]
    (container,) = pod["containers"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert container["args"][-1] == f"{mounted['manifests']}/rayjob.yaml"


def note(opened: Opened, kind: EventKind, bundle: str, shelf: str = "") -> None:
    """Have a server, or another one, write down what was done with a bundle."""
    event = BundleEvent(shelf or opened.directory.shelf, 1, kind, bundle)
    assert opened.store.note_bundle_event(event).result(10).seq > 0


def test_servers_of_one_postgresql_are_told_apart(tmp_path: Path, postgres: PostgresServer) -> None:
    """The bundle is that of the server whose models are meant; where servers disagree and none is meant there is none."""
    url = postgres.new_database()
    with Opened(tmp_path / "a", database_url=url) as a, Opened(tmp_path / "b", database_url=url) as b:
        note(a, "started", "first")
        note(a, "activated", "second")
        note(a, "validated", "third")
        assert active_bundle(url) == "second"
        note(b, "started", "first")
        for place, bundle in (("a", "second"), ("b", "first")):
            assert active_bundle(url, tmp_path / place / "models") == bundle
        with pytest.raises(ConfigError, match="first and second") as unclear:
            active_bundle(url, tmp_path / "elsewhere" / "models")
        assert unclear.value.reason == "ACTIVE_UNKNOWN"
        note(a, "rolled_back", "first")
        assert active_bundle(url) == "first"
        assert [event.kind for event in a.queries.bundle_events(a.directory.shelf)] == [
            "rolled_back",
            "validated",
            "activated",
            "started",
        ]
        assert [event.bundle for event in b.queries.bundle_events(b.directory.shelf)] == ["first"]


def test_a_sqlite_file_is_of_the_server_beside_it(tmp_path: Path) -> None:
    """What another data directory did with bundles, as a restored backup tells it, is not what is served."""
    with Opened(tmp_path) as opened:
        note(opened, "shadowed", "second")
        with pytest.raises(ConfigError, match="start the service once"):
            active_bundle(f"sqlite:///{tmp_path / DATABASE_NAME}")
        note(opened, "started", "first")
        note(opened, "activated", "second", shelf="another")
        assert active_bundle(f"sqlite:///{tmp_path / DATABASE_NAME}") == "first"
