"""What deploy/ starts does start, its commands as plain processes; and nothing of it has more rights than it needs."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml

from bundles import soundscape
from serving import ServerThread, serve_and_drain
from songcore.bundle import Bundle

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SERVICES = sorted((DEPLOY / "systemd").glob("*.service"))
DOCKERFILES = sorted((DEPLOY / "docker").glob("Dockerfile.*"))
COMPOSED: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yml").read_text())["services"]
BIN = Path(sys.executable).parent
RATE = 24_000
CLOCK_LOOKS = {"adjtimex", "clock_adjtime", "clock_adjtime64"}
"""The calls that tell how good the clock is; to set it by them takes CAP_SYS_TIME."""
SWITCHES = ["DynamicUser", "NoNewPrivileges", "PrivateTmp", "LockPersonality", "RestrictNamespaces", "RestrictSUIDSGID"]
SWITCHES += ["ProtectHome", "ProtectHostname", "ProtectControlGroups"]
SWITCHES += ["ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables"]


def unit_values(path: Path, key: str) -> list[str]:
    """Return what a unit sets a key to, in order."""
    return re.findall(rf"^{key}=(.*)$", path.read_text(), re.MULTILINE)


def started(unit: str, places: Mapping[str, str], environment: Mapping[str, str]) -> list[str]:
    """Return the command of a unit as systemd makes it, for the instance north and with other places for files.

    ``${NAME}`` is a word, or part of one; ``$NAME`` alone is as many words as it holds.
    """
    (line,) = unit_values(DEPLOY / "systemd" / unit, "ExecStart")
    line = line.replace("%i", "north").replace("/opt/songstream/bin", str(BIN))
    for theirs, ours in places.items():
        assert theirs in line
        line = line.replace(theirs, ours)
    words: list[str] = []
    for word in shlex.split(line):
        if whole := re.fullmatch(r"\$(\w+)", word):
            words += shlex.split(environment[whole[1]])
        else:
            words.append(re.sub(r"\$\{(\w+)\}", lambda found: environment[found[1]], word))
    return words


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recording of two songs."""
    path = tmp_path_factory.mktemp("recordings") / "north.wav"
    soundfile.write(path, soundscape([0, 1], 51)[0], RATE)
    return path


def test_the_station_unit_s_command_keeps_and_sends(bundle: Bundle, songs: Path, tmp_path: Path) -> None:
    """With a settings file where the unit has it, sound goes through a spool in its folder, and systemd hears how it is."""
    settings, state, notify = tmp_path / "station-north.toml", tmp_path / "state", tmp_path / "notify"
    places = {"/etc/songstream/station-north.toml": str(settings)}
    command = started("songstream-station@.service", places, {"STATE_DIRECTORY": str(state)})
    with (
        ServerThread(bundle, tmp_path / "data") as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(str(notify))
        manager.settimeout(10)
        settings.write_text(f'server = "{server.addresses.grpc}"\nplay = "{songs}"\nmetrics_port = 0\n')
        environment = os.environ | {"NOTIFY_SOCKET": str(notify)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        assert manager.recv(4096) == b"READY=1"
        assert manager.recv(4096).startswith(b"WATCHDOG=1\nSTATUS=")
    picture = json.loads((state / "state.json").read_text())
    assert (picture["station"], picture["account"]["n_songs"]) == ("north", 2)
    assert picture["captured_samples"] == picture["committed_samples"] == soundfile.info(songs).frames
    assert list(state.glob("*.spool"))


def test_the_listen_unit_s_command_streams(bundle: Bundle, songs: Path, tmp_path: Path) -> None:
    """With the two lines of its environment file, a recording in the microphone's place, all is committed."""
    unit = "songstream-listen@.service"
    assert unit_values(DEPLOY / "systemd" / unit, "EnvironmentFile") == ["/etc/songstream/listen-%i.env"]
    with ServerThread(bundle, tmp_path / "data") as server:
        command = started(unit, {}, {"SERVER": server.addresses.grpc, "OPTIONS": f"{songs} --speed max"})
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    *heard, last = map(json.loads, done.stdout.splitlines())
    assert [song["name"].startswith("songs/") for song in heard] == [True, True]
    assert last["account"]["committed_s"] == pytest.approx(soundfile.info(songs).duration)


def test_compose_s_server_serves_and_drains(bundle_dir: Path, tmp_path: Path) -> None:
    """Its command, on a free port of all addresses as in the containers' network, gets ready and ends well on SIGTERM."""
    serve = COMPOSED["serve"]
    places = {"/bundle": str(bundle_dir), "/var/lib/songstream": str(tmp_path / "data"), "0.0.0.0:50051": "0.0.0.0:0"}
    assert set(places) < set(serve["command"])
    command = [str(BIN / "songstream"), *(places.get(word, word) for word in serve["command"])]
    environment = os.environ | serve["environment"] | {"SONGSTREAM_SERVE_METRICS_PORT": "0"}
    serve_and_drain(command, environment)
    assert (tmp_path / "data" / "songs.sqlite").is_file()


@pytest.mark.parametrize("unit", SERVICES, ids=lambda path: path.stem)
def test_no_unit_has_more_rights_than_it_needs(unit: Path) -> None:
    """Each is of a user that only exists while it runs, sees a read-only system, gets no privilege and has its limits."""
    wanted = dict.fromkeys(SWITCHES, "yes") | {
        "ProtectSystem": "strict",
        "CapabilityBoundingSet": "",
        "AmbientCapabilities": "",
        "SystemCallArchitectures": "native",
    }
    assert {key: unit_values(unit, key) for key in wanted} == {key: [value] for key, value in wanted.items()}
    # Devices: none, or the sound cards alone.
    devices = ["char-alsa rw"] if unit_values(unit, "DevicePolicy") == ["closed"] else []
    assert unit_values(unit, "DeviceAllow") == devices
    assert devices or unit_values(unit, "PrivateDevices") == ["yes"]
    first, *further = unit_values(unit, "SystemCallFilter")
    assert first == "@system-service"
    assert all(line.startswith("~") or set(line.split()) <= CLOCK_LOOKS for line in further)
    (families,) = unit_values(unit, "RestrictAddressFamilies")
    assert set(families.split()) <= {"AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"}
    assert unit_values(unit, "UMask") in (["0027"], ["0077"])
    assert all(unit_values(unit, key) for key in ("MemoryMax", "TasksMax"))
    assert not unit_values(unit, "ReadWritePaths")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="only systemd knows its groups of calls")
@pytest.mark.parametrize("unit", SERVICES, ids=lambda path: path.stem)
def test_a_unit_may_look_at_the_clock_at_most(unit: Path) -> None:
    """The station asks the kernel how good its clock is; no unit may set it, or do what else takes privileges."""
    allowed = calls_allowed(unit)
    assert {"read", "openat", "sendmsg"} <= allowed
    assert not allowed & {
        "clock_settime",
        "clock_settime64",
        "settimeofday",
        "stime",
        "chroot",
        "bpf",
        "reboot",
        "init_module",
    }
    assert allowed & CLOCK_LOOKS == (CLOCK_LOOKS if unit.name == "songstream-station@.service" else set())


def calls_allowed(unit: Path) -> set[str]:
    """Return the system calls that a unit's filter lets pass, as systemd.exec(5) says: the last word on a call counts."""
    allowed: set[str] = set()
    for line in unit_values(unit, "SystemCallFilter"):
        calls = {call for name in line.removeprefix("~").split() for call in calls_of(name)}
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


def calls_of(name: str) -> set[str]:
    """Return the calls of a group, those of its groups included, or the one call that it is."""
    if not name.startswith("@"):
        return {name}
    command = ["systemd-analyze", "syscall-filter", name]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    members = [
        line.strip() for line in listed.splitlines() if line.startswith("    ") and not line.strip().startswith("#")
    ]
    return {call for member in members for call in calls_of(member)}


@pytest.mark.parametrize("name", COMPOSED)
def test_no_container_has_more_rights_than_it_needs(name: str) -> None:
    """Each has a read-only root, no capability and no way to one; ours are of a user without a name, and have their limit."""
    service = COMPOSED[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "cap_add", "devices", "network_mode", "pid", "ipc", "userns_mode"}
    assert not any(volume.startswith("/") for volume in service.get("volumes", []))
    if service["image"].startswith("songstream:"):
        assert service["user"] == "10001:10001"
        assert service["mem_limit"]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.suffix[1:])
def test_no_image_runs_as_root(dockerfile: Path) -> None:
    """The last user of the last stage is the one that compose names, and nothing is made for all to write."""
    last = dockerfile.read_text().rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.*)$", last, re.MULTILINE)[-1:] == ["10001:10001"]
    assert not re.search(r"chmod .*(777|[ao+]+w)|-m 0?777", last)
