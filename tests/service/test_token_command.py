"""`songstream token` for programs: what was done, as one JSON object."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from songserve.commands.token import token


def run(*arguments: str) -> Any:
    """Run a sub-command and return its JSON."""
    done = CliRunner().invoke(token, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_programs_are_told_what_was_done(tmp_path: Path) -> None:
    """A holder is shut out, let in, loses one token and then all."""
    file = ("--file", str(tmp_path / "tokens.json"))
    made = run("add", "north", *file)
    assert run("disable", "north", *file) == {"name": "north", "disabled": True}
    assert run("list", *file)["holders"][0]["disabled"]
    assert run("enable", "north", *file) == {"name": "north", "disabled": False}
    assert not run("list", *file)["holders"][0]["disabled"]
    run("rotate", "north", *file)
    for name, reason in (("north", "TOKEN_UNKNOWN"), ("south", "TOKEN_HOLDER_UNKNOWN")):
        refused = CliRunner().invoke(token, ["revoke", name, "--id", "nope", *file]).exception
        assert (getattr(refused, "reason", ""), "token list" in str(refused)) == (reason, True)
    assert run("revoke", "north", "--id", made["id"], *file) == {"name": "north", "id": made["id"], "revoked": True}
    assert len(run("list", *file)["holders"][0]["tokens"]) == 1
    assert run("revoke", "north", *file) == {"name": "north", "id": None, "revoked": True}
    assert run("list", *file)["holders"] == []
