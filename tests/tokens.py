"""`songstream token`, run inside a test."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from songserve.commands.token import token

__all__ = ["add_token", "run_token"]


def run_token(*arguments: str) -> Any:
    """Run the command and return what it prints, its JSON when asked for."""
    result = CliRunner().invoke(token, list(arguments))
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout) if "--json" in arguments else result.stdout


def add_token(file: Path, name: str, role: str = "ingest") -> str:
    """Return the token of a new holder."""
    text: str = run_token("add", name, "--role", role, "--file", str(file)).strip()
    return text
