"""The units, images and compose file in deploy/ are valid, and what they start does start."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from ipaddress import ip_address
from pathlib import Path

import pytest
import soundfile
import yaml

from bundles import soundscape
from serving import ServerThread, serve_and_drain
from songserve.settings import ServeSettings
from songstation.station_settings import ENVIRONMENT_PREFIX, StationSettings, load_settings

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "deploy" / "systemd"
COMPOSE = ROOT / "deploy" / "compose.yml"
DOCKERFILES = sorted((ROOT / "deploy" / "docker").glob("Dockerfile.*"))
BIN = Path(sys.executable).parent
RATE = 24_000


def unit_values(name: str, key: str) -> list[str]:
    """Return what a unit sets a key to, in order."""
    return re.findall(rf"^{key}=(.*)$", (UNITS / name).read_text(), re.MULTILINE)


def compose() -> list[str]:
    """Return the command of Compose, or skip: Docker's plugin, or the program of its own that Debian has."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            version = subprocess.run([*command, "version"], capture_output=True, check=False, timeout=60)
            if version.returncode == 0:
                return command
    pytest.skip("no docker compose here; deploy/install-test-tools.sh installs it")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize(
    "name", ["songstream-serve.service", "songstream-listen@.service", "songstream-station@.service"]
)
def test_units_are_valid(name: str, tmp_path: Path) -> None:
    """Systemd knows every setting and finds no fault, once the program is where the unit says."""
    unit = tmp_path / name.replace("@.", "@north.")
    unit.write_text((UNITS / name).read_text().replace("/opt/songstream/bin", str(BIN)))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert verified.returncode == 0, verified.stderr
    assert [line for line in verified.stderr.splitlines() if "songstream" in line] == []


def test_the_server_has_time_to_drain_before_it_is_killed() -> None:
    """Unit and compose wait longer than the server takes at most, and ask with the signal that it drains on."""
    drain_s = ServeSettings.model_fields["drain_grace_s"].default
    assert unit_values("songstream-serve.service", "KillSignal") == ["SIGTERM"]
    (unit_stop,) = unit_values("songstream-serve.service", "TimeoutStopSec")
    assert int(unit_stop.removesuffix("s")) > drain_s
    compose_stop = yaml.safe_load(COMPOSE.read_text())["services"]["serve"]["stop_grace_period"]
    assert int(compose_stop.removesuffix("s")) > drain_s


def test_the_unit_s_command_serves_and_drains(bundle_dir: Path, tmp_path: Path) -> None:
    """ExecStart with a settings file as the unit shows it gets ready, and ends well on SIGTERM."""
    config = tmp_path / "serve.toml"
    config.write_text(f'bundle = "{bundle_dir}"\nlisten = "127.0.0.1:0"\nmetrics_port = 0\ndevice = "cpu"\n')
    (line,) = unit_values("songstream-serve.service", "ExecStart")
    line = line.replace("/etc/songstream/serve.toml", str(config)).replace("/opt/songstream/bin", str(BIN))
    serve_and_drain(shlex.split(line.replace("${STATE_DIRECTORY}", str(tmp_path / "state"))))
    assert (tmp_path / "state" / "songs.sqlite").is_file()


def test_compose_s_stations_play_a_recording_to_the_end(server: ServerThread, tmp_path: Path) -> None:
    """The command of a station, with folders and server of this test, streams the file and ends with 0."""
    soundfile.write(tmp_path / "north.wav", soundscape([0, 1], 51)[0], RATE)
    north = yaml.safe_load(COMPOSE.read_text())["services"]["north"]
    spool = tmp_path / "spools" / "north"
    places = {"/recordings/north.wav": str(tmp_path / "north.wav"), "/var/lib/songstream/north": str(spool)}
    command = [str(BIN / "songstream"), *(places.get(word, word) for word in north["command"])]
    own = {"SERVER": server.addresses.grpc, "METRICS_HOST": "127.0.0.1", "METRICS_PORT": "0"}
    named = north["environment"] | {f"{ENVIRONMENT_PREFIX}{name}": value for name, value in own.items()}
    played = subprocess.run(command, env=os.environ | named, capture_output=True, text=True, check=False, timeout=120)
    assert played.returncode == 0, played.stderr
    assert len(played.stdout.splitlines()) == 2
    assert (spool / "state.json").is_file()


def test_compose_s_server_is_reached_from_its_own_network_only() -> None:
    """It says that it does not encrypt, and every published port is on loopback."""
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    assert {"serve", "prometheus", "grafana", "north", "south", "west"} == set(services)
    assert "--insecure" in services["serve"]["command"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    (target,) = yaml.safe_load((ROOT / "deploy" / "prometheus" / "targets.compose.yml").read_text())
    assert target["targets"] == [f"serve:{ServeSettings.model_fields['metrics_port'].default}"]
    (stations,) = yaml.safe_load((ROOT / "deploy" / "prometheus" / "stations.compose.yml").read_text())
    port = StationSettings.model_fields["metrics_port"].default
    assert stations["targets"] == [f"{name}:{port}" for name in ("north", "south", "west")]


def test_compose_s_stations_let_prometheus_in_and_keep_their_sound() -> None:
    """Each shows its metrics to its network, and has a spool of its own in a volume."""
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    settings = load_settings({}, environment=services["north"]["environment"])
    assert ip_address(settings.metrics_host).is_unspecified
    assert settings.server.startswith("serve:")
    for name in ("north", "south", "west"):
        command = services[name]["command"]
        assert command[command.index("--spool") + 1] == f"/var/lib/songstream/{name}"
        assert "spools:/var/lib/songstream" in services[name]["volumes"]


def test_what_compose_mounts_is_there() -> None:
    """Every file and folder that is mounted from the repository exists."""
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    volumes = [volume for service in services.values() for volume in service.get("volumes", [])]
    sources = [source for volume in volumes for source in re.findall(r"^(?:\$\{\w+:-)?(\.[^}:]*)", volume)]
    assert len(sources) == 7
    assert [source for source in sources if not (COMPOSE.parent / source).exists()] == []


def test_compose_file_is_valid(tmp_path: Path) -> None:
    """Compose takes the file once recordings and a password are named, and asks for them otherwise."""
    # Version 1 of Compose knows all of it but the name.
    file = tmp_path / "compose.yml"
    file.write_text(re.sub(r"^name: .*$", "", COMPOSE.read_text(), flags=re.MULTILINE))
    command = [*compose(), "-f", str(file), "--project-directory", str(COMPOSE.parent), "config", "--quiet"]
    given = {"RECORDINGS": "/recordings", "GRAFANA_PASSWORD": "secret"}
    plain = {name: value for name, value in os.environ.items() if name not in given}
    taken = subprocess.run(command, env=plain | given, capture_output=True, text=True, check=False, timeout=60)
    assert taken.returncode == 0, taken.stderr
    for name in given:
        rest = {other: value for other, value in given.items() if other != name}
        refused = subprocess.run(command, env=plain | rest, capture_output=True, text=True, check=False, timeout=60)
        assert refused.returncode != 0
        assert name in refused.stderr


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.suffix[1:])
def test_images_copy_what_the_build_sees_and_run_as_nobody(dockerfile: Path) -> None:
    """Sources exist and .dockerignore lets them in, the last stage is of an unprivileged user and has no build tools."""
    text = dockerfile.read_text()
    sources = [word for words in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.MULTILINE) for word in words.split()]
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert any(fnmatch(source, pattern) for pattern in allowed)
    last = text[text.rindex("\nFROM ") :]
    assert "\nUSER 10001:10001\n" in last
    assert "pip install" not in last
    assert re.search(r"^STOPSIGNAL SIGTERM$", last, re.MULTILINE)
