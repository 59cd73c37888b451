"""The command line: instant help, one line per known error, a hint for a missing extra, commands from any package."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from songcore.cli import GROUP, app

HEAVY = ["faiss", "grpc", "librosa", "matplotlib", "numpy", "onnxruntime", "pyarrow", "ray", "scipy", "sklearn"]
HEAVY += ["sounddevice", "soundfile", "soxr", "sqlalchemy", "torch", "transformers"]

# What only the extras bring: a field station has none of it.
EXTRAS = [
    "faiss",
    "google.rpc",
    "grpc_health",
    "grpc_reflection",
    "grpc_status",
    "jinja2",
    "librosa",
    "matplotlib",
    "onnx",
]
EXTRAS += ["onnxruntime", "onnxscript", "pyarrow", "pytorch_metric_learning", "ray", "sklearn"]
EXTRAS += ["sqlalchemy", "torch", "transformers"]

REPORT_HEAVY = f"""
import sys
from songcore.cli import main
try:
    main()
finally:
    print("HEAVY", [name for name in {HEAVY} if name in sys.modules])
"""

REPORT_GRPC = """
import os
from songcore.cli import main
try:
    main()
finally:
    print(os.environ["GRPC_VERBOSITY"], os.environ["GRPC_ENABLE_FORK_SUPPORT"])
"""

WITHOUT_EXTRAS = f"""
import sys
for name in {EXTRAS}:
    sys.modules[name] = None
from songcore.cli import main
main()
"""

COMMANDS = '''
import typer
from songcore.errors import ConfigError

app = typer.Typer(help="A group of two.")

@app.command()
def first() -> None:
    """Say first."""
    print("first")

@app.command()
def second() -> None:
    """Say second."""
    print("second")

def fail() -> None:
    """Fail as an operator's mistake does."""
    raise ConfigError("the port 7 is in use:\\n  choose another", reason="PORT_IN_USE")

def lack() -> None:
    """Need a package that is not there."""
    import no_such_package

def crash() -> None:
    """Fail as a defect does."""
    raise ZeroDivisionError("a defect")
'''


def run(
    *arguments: str, program: str = "from songcore.cli import main; main()", path: Path | None = None
) -> tuple[int, str, str]:
    """Run the command line in a new process and return its exit code, output and errors."""
    environment = {"PATH": "/usr/bin:/bin", "COLUMNS": "100", **({"PYTHONPATH": str(path)} if path else {})}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def other_package(tmp_path: Path) -> Path:
    """Install a package that contributes commands, as far as Python can tell, and return its directory."""
    (tmp_path / "othercommands.py").write_text(COMMANDS)
    info = tmp_path / "othercommands-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: othercommands\nVersion: 1.0\n")
    names = {"group": "app", "fail": "fail", "lack": "lack", "crash": "crash"}
    lines = [f"{name} = othercommands:{target}" for name, target in names.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, ""]))
    return tmp_path


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    """The help names all installed commands, and no numerical, network or learning library was imported for it."""
    code, out, err = run("--help", program=REPORT_HEAVY)
    assert (code, err) == (0, "")
    assert "HEAVY []" in out
    commands = {entry.name for entry in entry_points(group=GROUP)}
    assert {"classify", "listen", "serve", "synth", "train"} <= commands
    assert all(name in out for name in commands)


@pytest.mark.parametrize("command", ["classify", "listen", "serve", "synth", "train"])
def test_help_of_a_command_works_without_the_extras(command: str) -> None:
    """Each command explains itself on a machine with the base install only."""
    code, out, err = run(command, "--help", program=WITHOUT_EXTRAS)
    assert (code, err) == (0, "")
    assert f"songstream {command}" in out or f" {command} [OPTIONS]" in out


def test_a_missing_extra_is_an_install_hint(tmp_path: Path) -> None:
    """A service command on a station says in one line which package is missing and how to get it."""
    code, out, err = run(
        "serve", "--bundle", str(tmp_path), "--data-dir", str(tmp_path / "data"), program=WITHOUT_EXTRAS
    )
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "songstream[service]" in err


def test_a_known_error_is_one_line(other_package: Path) -> None:
    """An error that songstream raises on purpose is one line with its reason, exit code 1 and no traceback."""
    code, out, err = run("fail", path=other_package)
    assert (code, out) == (1, "")
    assert err == "songstream: the port 7 is in use: choose another [PORT_IN_USE]\n"


def test_a_missing_package_is_named(other_package: Path) -> None:
    """A command whose package is not installed says so in one line."""
    code, out, err = run("lack", path=other_package)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "'no_such_package'" in err


def test_a_defect_keeps_its_traceback(other_package: Path) -> None:
    """An error that nobody foresaw is not hidden."""
    code, _, err = run("crash", path=other_package)
    assert code == 1
    assert "Traceback" in err
    assert "ZeroDivisionError: a defect" in err


def test_other_packages_contribute_commands(other_package: Path) -> None:
    """Commands and groups of commands of any installed package are listed and run."""
    listed = run("--help", path=other_package)[1]
    assert "group" in listed
    assert "Fail as an operator's mistake does." in listed
    assert run("group", "second", path=other_package)[:2] == (0, "second\n")
    assert "A group of two." in run("group", "--help", path=other_package)[1]


@pytest.mark.parametrize("arguments", [["sing"], ["--loud"], ["serve", "--loud"]])
def test_wrong_usage(arguments: list[str]) -> None:
    """An unknown command or option is exit code 2 and names what is wrong."""
    code, _, err = run(*arguments)
    assert code == 2
    assert arguments[-1] in err


def test_a_misspelt_command_brings_the_name_that_was_meant() -> None:
    """Of commands as of sub-commands."""
    code, _, err = run("clasify")
    assert (code, "Did you mean 'classify'" in err) == (2, True), err
    assert "Did you mean 'list'" in run("models", "lst")[2]


def test_grpc_is_silent_and_survives_forks_unless_somebody_asks() -> None:
    """What it has to say is said in our words, a fork does not start its threads; who looks for a fault sets the two."""
    asked = "import os; os.environ['GRPC_VERBOSITY'] = 'INFO'; os.environ['GRPC_ENABLE_FORK_SUPPORT'] = '1'\n"
    assert run("--version", program=REPORT_GRPC)[1].endswith("NONE 0\n")
    assert run("--version", program=asked + REPORT_GRPC)[1].endswith("INFO 1\n")


def test_the_version() -> None:
    """It is printed for people and for programs, and nothing heavy is loaded for it."""
    code, out, err = run("--version", program=REPORT_HEAVY)
    assert (code, out, err) == (0, f"songstream {version('songstream')}\nHEAVY []\n", "")
    assert json.loads(run("--version", "--json")[1]) == {"version": version("songstream")}
    assert run("--json", "token")[0] == 2


def test_the_help_of_synth_names_every_preset() -> None:
    """The presets that the help lists are those that there are."""
    from songtrain.synth.config import PRESETS

    text = run("synth", "--help")[1].split(" --preset  ")[1].split("--seed")[0].split("[default:")[0]
    assert {name for name in PRESETS if re.search(rf"\b{name}\b", text)} == set(PRESETS)


def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, by the words that call it."""
    if not isinstance(command, TyperGroup):
        yield name, command
        return
    context = typer.Context(command)
    for word in command.list_commands(context):
        yield from walk(command.get_command(context, word), f"{name} {word}")


def test_every_command_prints_json() -> None:
    """As the README says; servers and watches print a line of it when they are ready or something comes."""
    found = dict(walk(typer.main.get_command(app), "songstream"))
    assert {"songstream serve", "songstream types list", "songstream station spool export"} <= set(found)
    without = {name for name, command in found.items() if not any("--json" in option.opts for option in command.params)}
    assert without == set()


def test_no_help_is_cut_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in the rows of options goes on in the next line, and no word of it is broken: shorter metavars do it."""
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    found = set()
    words = [name.split() for name, _ in walk(typer.main.get_command(app), "songstream")]
    # Groups of commands have options, too.
    for name in sorted({" ".join(one[:n]) for one in words for n in range(1, len(one) + 1)}):
        text = CliRunner().invoke(app, [*name.split()[1:], "--help"], env={"COLUMNS": "80"}).stdout
        rows = [line for line in text.splitlines() if line.startswith("│")]
        assert rows, name
        # A choice that begins in a row and does not end there was broken.
        if any("…" in row or re.search(r"<[a-z|]+ *(│|  )", row) for row in rows):
            found.add(name)
    assert found == set()


def test_nothing_asked_is_help() -> None:
    """Without arguments the commands are listed."""
    assert "serve" in "".join(run()[1:])
