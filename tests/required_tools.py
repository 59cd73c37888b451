"""Where the tools of deploy/install-test-tools.sh are required, a test that lacks one fails: skips are easily overlooked."""

import os
from collections.abc import Generator

import pytest

__all__ = ["pytest_runtest_makereport"]

SWITCH = "SONGSTREAM_REQUIRE_TOOLS"
INSTALLER = "deploy/install-test-tools.sh"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a failure of a skip whose reason names the installer, when the switch is set in the environment."""
    report = yield
    if os.environ.get(SWITCH) and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if INSTALLER in reason:
            report.outcome, report.longrepr = "failed", f"{reason}, and {SWITCH} is set"
    return report
