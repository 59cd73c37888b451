"""Where tools are required, a test that is skipped fails, but for what no tool can change: skips are easily overlooked."""

import os
import re
from collections.abc import Generator

import pytest

__all__ = ["pytest_runtest_makereport"]

SWITCH = "SONGSTREAM_REQUIRE_TOOLS"
INSTALLER = "deploy/install-test-tools.sh"
MAY_BE_SKIPPED = (
    # Recordings that are too large, or not ours, to be in the checkout.
    "recordings beside the checkout are absent",
    "recordings .*are not beside (the|this) checkout",
    # A GPU, or its absence.
    "need a GPU",
    "this machine may have a GPU",
    # What a container may forbid, or its file system not know.
    "a file system can be mounted by root alone, and not in every container",
    "only root can restore for somebody else",
    "only root can make a file immutable, and not on every file system",
    "this file system takes UTF-8 names only",
    # Another system than Debian.
    "reads Linux's /proc",
    "this C library does not give memory back",
)
"""Parts of reasons, as regular expressions. What the installer can bring has no place here."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a failure of a skip, when the switch is set in the environment, unless its reason is one of those above."""
    report = yield
    told = report.longrepr
    if os.environ.get(SWITCH) and report.skipped and not hasattr(report, "wasxfail") and isinstance(told, tuple):
        reason = told[2]
        if INSTALLER in reason or not any(re.search(part, reason) for part in MAY_BE_SKIPPED):
            report.outcome = "failed"
            report.longrepr = f"{reason}, and {SWITCH} is set; see {INSTALLER} and tests/required_tools.py"
    return report
