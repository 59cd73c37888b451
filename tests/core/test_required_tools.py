"""What is skipped for want of a tool is no success where tools are required."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.mark.skipif(True, reason="nothing here; deploy/install-test-tools.sh installs it")
def test_marked(): ...

def test_said():
    pytest.skip("nothing here; deploy/install-test-tools.sh installs it")

def test_other():
    pytest.skip("for root alone")
"""


@pytest.mark.parametrize(("switch", "counts"), [("", "3 skipped"), ("1", "1 failed, 1 skipped, 1 error")])
def test_a_missing_tool_fails_where_tools_are_required(tmp_path: Path, switch: str, counts: str) -> None:
    """With the switch the two tests that name the installer fail, and one that skips for another reason still skips."""
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "required_tools", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {**os.environ, "SONGSTREAM_REQUIRE_TOOLS": switch, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert counts in done.stdout, done.stdout + done.stderr
    assert done.returncode == bool(switch)
