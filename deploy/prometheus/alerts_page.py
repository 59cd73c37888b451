"""Writes docs/alerts.md from alerts.yml, which is the one place where an alert is described."""

# ruff: noqa: INP001 - a program, not a package

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES, PAGE = ROOT / "deploy" / "prometheus" / "alerts.yml", ROOT / "docs" / "alerts.md"
HEAD = """# Alerts

What `deploy/prometheus/alerts.yml` asks somebody to look at, when, and what to do then. Written by
`python deploy/prometheus/alerts_page.py` from the rules themselves; how to give them to Prometheus is in
[deploy/README.md](../deploy/README.md), what the metrics mean in [operating.md](operating.md#metrics). The numbers are
starting points.

| alert | severity | when | what to do |
|---|---|---|---|
"""


def page(rules: dict[str, Any]) -> str:
    """Return the page in Markdown."""
    rows = [
        f"| `{rule['alert']}` | {rule['labels']['severity']} | {_when(rule)} | {_cell(rule['annotations']['action'])} |\n"
        for group in rules["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    return HEAD + "".join(rows)


def _when(rule: dict[str, Any]) -> str:
    """Return the summary without its values, and for how long that has to be so."""
    summary = re.sub(r"\{\{ *\$value[^}]*\}\}", "…", rule["annotations"]["summary"])
    summary = re.sub(r"\{\{ *\$labels\.(\w+) *\}\}", r"*\1*", summary)
    return _cell(f"{summary} For {rule['for']}." if "for" in rule else summary)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> int:
    """Write the page, or compare it with ``--check``; return the exit status."""
    parser = argparse.ArgumentParser(description="Write docs/alerts.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the committed page differs")
    wanted = page(yaml.safe_load(RULES.read_text(encoding="utf-8")))
    if parser.parse_args().check:
        return int(PAGE.read_text(encoding="utf-8") != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
