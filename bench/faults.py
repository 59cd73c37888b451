"""Break everything between a station and its server, again and again, and count what was lost, doubled or made up.

Real `songstream serve` and `songstream station` processes, with a bad network between them; each seed draws its own faults.
Afterwards the store is compared, row for row, with that of a server that heard the same sound in peace. While it goes on, and
after each SIGKILL, what the station believes, what the store has and what lies in the spool are compared as well.

The last line is JSON. What its fields mean:

lost                        songs of the fault-free run that the store does not have; only songs that touch a gap which had to
                            be declared (a record that was destroyed, a disk that was full) may be missing
duplicated, unexpected      songs beyond those of the fault-free run: at the time of one of them, or where there is none
rows_equal_fault_free_run   in every seed all rows of songs and of what is counted from them are the same, in each column
conservation_holds          at each check: captured = committed + declared gaps + spooled, nothing acknowledged that is not
                            stored, nothing declared lost without need, each session at its time; what a station had read
                            when it was killed is there for the next one; and in the end all arrived
faults                      how many of each kind were played
skipped                     kinds that cannot be played on this machine, and why

A seed that fails is named, with its problems, on standard error; --seed N plays it again, --keep DIR keeps its files and logs.
"""

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from faults_plan import KINDS, Plan, draw
from faults_programs import Program, songstream, why_no_clock, why_no_disk
from faults_reference import Reference, Verdict, judge
from faults_run import Run
from faults_world import Tools

ROOT = Path(__file__).resolve().parent.parent
MAX_WORDS = 600
"""Of a line about what differs: rows have vectors."""


@dataclass
class Total:
    """All seeds together."""

    ok: int = 0
    lost: int = 0
    duplicated: int = 0
    unexpected: int = 0
    rows_equal: bool = True
    conserved: bool = True
    n_checks: int = 0
    n_sessions: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    failed: list[int] = field(default_factory=list)


def sound_of(plan: Plan) -> bytes:
    """Return the songs of a seed as 16-bit samples; whole chunks, as the station waits for the rest of one."""
    from bundles import soundscape

    samples, _ = soundscape(plan.songs, plan.seed, rate_hz=plan.rate_hz, gap_s=1.1)
    whole = samples[: len(samples) - len(samples) % (plan.rate_hz // 2)]
    return np.clip(np.round(whole * 32768), -32768, 32767).astype("<i2").tobytes()


async def play(plan: Plan, tools: Tools, reference: Reference, total: Total, *, keep: bool) -> None:
    """Play one seed and add it up."""
    run = Run(plan, tools, sound_of(plan))
    try:
        ended = await run.play()
        books = ended.books
        verdict = await asyncio.to_thread(
            judge, reference, books.data_dir, plan.station_name, books.sessions, ended.sound, plan.rate_hz
        )
    finally:
        if not keep:
            run.remove()
    total.ok += verdict.ok
    total.lost += verdict.lost
    total.duplicated += verdict.duplicated
    total.unexpected += verdict.unexpected
    total.rows_equal = total.rows_equal and verdict.rows_equal
    total.conserved = total.conserved and not ended.problems
    total.n_checks += books.n_checks
    total.n_sessions += len(books.sessions)
    total.faults += ended.faults
    total.seconds += ended.seconds
    losses = [
        f"{kept.uuid}: {place} was lost: {reason}"
        for kept in books.sessions.values()
        for place, reason in kept.losses.items()
    ]
    _tell(plan, verdict, ended.problems, losses, ended.seconds, total)


def _tell(plan: Plan, verdict: Verdict, problems: list[str], losses: list[str], seconds: float, total: Total) -> None:
    is_well = verdict.rows_equal and not problems and not (verdict.lost or verdict.duplicated or verdict.unexpected)
    kinds = ", ".join(f"{fault.kind}@{fault.at_s:.1f}" for fault in plan.faults)
    print(
        f"seed {plan.seed}: {'ok' if is_well else 'FAILED'}, {verdict}, {seconds:.1f} s, {kinds}",
        file=sys.stderr,
        flush=True,
    )
    if not is_well:
        total.failed.append(plan.seed)
        for words in [*problems, *verdict.differences, *losses]:
            print(f"  {words[:MAX_WORDS]}", file=sys.stderr)
        print(f"  again: python bench/faults.py --seed {plan.seed} --keep DIR", file=sys.stderr, flush=True)


async def play_all(seeds: list[int], kinds: list[str], tools: Tools, *, jobs: int, keep: bool) -> Total:
    """Play seeds, some at once, beside one server for the fault-free runs."""
    data_dir = tools.folder / "fault-free"
    options = ["--bundle", str(tools.bundle), "--data-dir", str(data_dir), "--listen", "127.0.0.1:0", "--json"]
    command = [*songstream(), "serve", *options, "--metrics-port", "0", "--device", "cpu"]
    server = Program(command, tools.folder / "fault-free.log", {"SONGSTREAM_SERVE_CLIPS": "none"})
    total, waiting = Total(), list(reversed(seeds))
    server.start()
    try:
        reference = Reference((await server.ready())["address"], data_dir)

        async def work() -> None:
            while waiting:
                await play(draw(waiting.pop(), kinds), tools, reference, total, keep=keep)

        async with asyncio.TaskGroup() as group:
            for _ in range(jobs):
                group.create_task(work())
    finally:
        await server.kill()
    return total


def result_of(total: Total, seeds: list[int], skipped: dict[str, str]) -> dict[str, Any]:
    """Return the fields of the JSON line."""
    return {
        "seeds": len(seeds),
        "songs": total.ok + total.lost,
        "lost": total.lost,
        "duplicated": total.duplicated,
        "unexpected": total.unexpected,
        "rows_equal_fault_free_run": total.rows_equal,
        "conservation_holds": total.conserved,
        "checks": total.n_checks,
        "sessions": total.n_sessions,
        "faults": {kind: total.faults[kind] for kind in KINDS},
        "skipped": skipped,
        "seconds_per_seed": round(total.seconds / len(seeds), 1),
        "failed_seeds": sorted(total.failed),
    }


def why_not(folder: Path) -> dict[str, str]:
    """Return the kinds of faults that cannot be played here, with the reasons."""
    reasons = {"clock_step": why_no_clock(folder / "clock.so")}
    reasons |= dict.fromkeys(("server_disk_full", "station_disk_full", "disk_full_kill"), why_no_disk(folder))
    return {kind: reason for kind, reason in reasons.items() if reason}


def main() -> None:
    """Parse the command line, play, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="play the seeds 0, 1, ...")
    parser.add_argument("--first", type=int, default=0, help="begin with this seed")
    parser.add_argument("--seed", type=int, help="play this one alone")
    parser.add_argument("--jobs", type=int, default=2, help="seeds at once")
    parser.add_argument("--kinds", help=f"only these, separated by commas, of {', '.join(KINDS)}")
    parser.add_argument("--serve", nargs="+", help="program of the server [default: songstream serve]")
    parser.add_argument("--record", nargs="+", help="program of the station [default: songstream station run]")
    parser.add_argument("--keep", type=Path, help="keep all files in this new directory")
    given = parser.parse_args()
    sys.path.append(str(ROOT / "tests"))
    from bundles import make_test_bundle

    # Ends what was started, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = given.keep or Path(tempfile.mkdtemp(prefix="songstream-faults-"))
    folder.mkdir(exist_ok=True, parents=True)
    try:
        make_test_bundle(folder / "bundle")
        wanted = given.kinds.split(",") if given.kinds else list(KINDS)
        impossible = why_not(folder)
        skipped = {kind: reason for kind, reason in impossible.items() if kind in wanted}
        kinds = [kind for kind in wanted if kind not in skipped]
        clock = None if "clock_step" in skipped else folder / "clock.so"
        serve = given.serve or [*songstream(), "serve"]
        record = given.record or [*songstream(), "station", "run"]
        small_disks = "station_disk_full" not in impossible
        tools = Tools(folder, folder / "bundle", serve, record, clock, small_disks=small_disks)
        seeds = [given.seed] if given.seed is not None else list(range(given.first, given.first + given.seeds))
        total = asyncio.run(play_all(seeds, kinds, tools, jobs=given.jobs, keep=given.keep is not None))
    finally:
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result_of(total, seeds, skipped)))
    if total.failed or not total.ok:
        sys.exit("a promise was broken, or nothing was heard")


if __name__ == "__main__":
    main()
