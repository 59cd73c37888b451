"""The alert rules are valid, do what their own tests say, and every one of them is tested."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

RULES = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
TESTS = ("alerts_test.yml", "alerts_days_test.yml")
NAMES = (
    "ServerDown",
    "StationSilent",
    "CommitLagHigh",
    "SpoolNearFull",
    "SpoolFilling",
    "CaptureStopped",
    "StationRefused",
    "DeclaredLoss",
    "NoveltyHigh",
    "NoveltyDrift",
    "RetrainingDue",
    "ReclusterMissed",
    "NovelPoolStale",
    "EventLoopLag",
    "DiskLow",
    "GpuFallback",
    "SequenceReused",
    "IngestErrors",
)

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed; deploy/install-test-tools.sh installs it"
)


def promtool(*arguments: str, cwd: Path = RULES) -> subprocess.CompletedProcess[str]:
    """Run promtool in the folder of the rules."""
    return subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=60)


def rules() -> list[dict[str, Any]]:
    """Return the alert rules."""
    document = yaml.safe_load((RULES / "alerts.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    """The rules are these, in this order, each with a summary, an action and a severity."""
    assert tuple(rule["alert"] for rule in rules()) == NAMES
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "action"}
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}


def test_the_page_of_alerts_is_that_of_the_rules(tmp_path: Path) -> None:
    """docs/alerts.md has every alert as its rule describes it; a rule that differs fails the check."""
    folder = tmp_path / "deploy" / "prometheus"
    shutil.copytree(RULES, folder)
    (tmp_path / "docs").mkdir()
    page = shutil.copy(RULES.parents[1] / "docs" / "alerts.md", tmp_path / "docs" / "alerts.md")
    assert all(f"| `{name}` |" in Path(page).read_text() for name in NAMES)
    command = [sys.executable, str(folder / "alerts_page.py")]
    subprocess.run([*command, "--check"], check=True)
    rules = folder / "alerts.yml"
    rules.write_text(rules.read_text().replace("runs and hears nothing", "is deaf"))
    assert subprocess.run([*command, "--check"], check=False).returncode == 1
    subprocess.run(command, check=True)
    assert "is deaf" in Path(page).read_text()


@needs_promtool
def test_configuration_and_rules_are_valid() -> None:
    """Prometheus takes the configuration and the rules that it names."""
    checked = promtool("check", "config", "--lint=all", "--lint-fatal", "prometheus.yml")
    assert checked.returncode == 0, checked.stderr
    assert f"{len(NAMES)} rules found" in checked.stdout


@needs_promtool
def test_alerts_fire_when_they_must_and_only_then() -> None:
    """The rules pass their tests."""
    tested = promtool("test", "rules", *TESTS)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@needs_promtool
@pytest.mark.parametrize("broken", ["vector(0) > 1", "vector(1)"], ids=["never", "always"])
def test_rules_tests_notice_every_alert_that_is_broken(broken: str, tmp_path: Path) -> None:
    """With rules that never fire, or always do, the rules' tests fail for each of them."""
    document = yaml.safe_load((RULES / "alerts.yml").read_text())
    for group in document["groups"]:
        for rule in group["rules"]:
            rule["expr"] = broken
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(document))
    for name in TESTS:
        shutil.copy(RULES / name, tmp_path)
    tested = promtool("test", "rules", *TESTS, cwd=tmp_path)
    assert tested.returncode == 1
    assert [name for name in NAMES if name not in tested.stderr] == []
