"""docs/promises.md names only what exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")


def test_every_promise_names_what_would_fail() -> None:
    """Each row has a test or a program, and each of those is there."""
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`(tests/[^`]+?\.py)::(\w+)`|`(bench/\w+\.py)[^`]*`", row[2])
        assert named, row[1]
        for test_file, name, program in named:
            if program:
                assert (ROOT / program).is_file(), program
                continue
            text = (ROOT / test_file).read_text(encoding="utf-8")
            assert re.search(rf"^(def {name}\(|class {name}\b|{name}\b.* = )", text, re.MULTILINE), (
                f"{test_file}::{name}"
            )


def test_every_promise_says_what_came_out() -> None:
    """A test alone is run each time; of a program the result is told."""
    for row in (line.split("|") for line in PAGE.splitlines() if line.startswith("| ")):
        assert row[3].strip(), row[1]
        if row[3].strip() == "each run of `make test`":
            assert "bench/" not in row[2], row[1]


def test_programs_of_the_page_are_those_of_make_chaos() -> None:
    """Both programs run with `make chaos`, the faults with as many seeds as the page says."""
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\nchaos:")[1].split("\n\n")[0]
    assert set(re.findall(r"bench/\w+\.py", PAGE)) == set(re.findall(r"bench/\w+\.py", recipe))
    assert "bench/faults.py --seeds 200" in recipe
