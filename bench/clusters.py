"""How well clusters agree with labels, on several sets of labelled recordings; prints one JSON line of scores last.

Each set is a folder with recordings and songs.csv, or with segments.csv (idx, sprite, start_s, dur_s, species) naming
stretches of long files, and says how its songs are cut:

    python bench/clusters.py --data finch=FOLDER,segmenter=syllable,songs=4000 --data clips=FOLDER,segmenter=general

Labels only score; scores are means over the seeds, ``seeds`` has those of each. ``without_labels`` are scores that look at
no label, by which systems can be chosen; of them ``stability_seeds`` is the mean ARI between the clusters of two seeds. A
system that is given a number of clusters is given the true one, and one that finds it says by ``type_ratio`` how far off it
was. The segmenter says what kind of sound it is, and so which preset of training the recipe takes; nothing else is chosen.
"""

import csv
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import mean
from typing import Annotated, Any, Literal, get_args, get_type_hints

import numpy as np
import typer

from songcore.errors import InputError
from songtrain.commands.lab_run import warn_of_left_out
from songtrain.datasets.songs import SongSet
from songtrain.lab.results import LABEL_FREE, Row
from songtrain.lab.run import LabJob, lab_songs, run_systems
from songtrain.lab.scoring import stability
from songtrain.lab.systems import System, choose_systems

SHOWN = ("nmi", "v_measure", "ami", "ari")


@dataclass(frozen=True)
class LabelledSet:
    """One set as it was asked for on the command line."""

    name: str
    folder: Path
    segmenter: Literal["song", "syllable", "general"] = "song"
    segmentation: Literal["auto", "annotated", "automatic"] = "auto"
    songs: int | None = None
    """At most so many, drawn at random with a fixed seed."""
    channel: int | None = None


CHOICES = {name: get_args(get_type_hints(LabelledSet)[name]) for name in ("segmenter", "segmentation")}
"""Words that options of a set take; the others take whole numbers."""


def parse_set(text: str) -> LabelledSet:
    """Return the set that ``NAME=FOLDER[,option=value...]`` describes; BadParameter says what is wrong with it."""
    first, *options = text.split(",")
    name, _, folder = first.partition("=")
    known = {field.name for field in fields(LabelledSet)} - {"name", "folder"}
    values: dict[str, Any] = {}
    for option in options:
        key, _, value = option.partition("=")
        if key not in known or not value:
            raise typer.BadParameter(f"{option!r}: expected one of {', '.join(sorted(known))}, as option=value")
        if key in CHOICES and value not in CHOICES[key]:
            raise typer.BadParameter(f"{option!r}: expected one of {', '.join(CHOICES[key])}")
        if key not in CHOICES and not (value.isdecimal() and int(value)):
            raise typer.BadParameter(f"{option!r}: expected a whole number from 1")
        values[key] = value if key in CHOICES else int(value)
    if not name or not folder:
        raise typer.BadParameter(f"{text!r}: expected NAME=FOLDER, and options after commas")
    return LabelledSet(name, Path(folder), **values)


def folder_of_segments(data: Path, into: Path) -> Path:
    """Return ``into``, filled with songs.csv made of data/segments.csv and links to the recordings that it names.

    InputError when one of these is not there.
    """
    with (data / "segments.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for name in sorted({Path(row["sprite"]).name for row in rows}):
        source = next((path for path in (data / name, data / "audio" / name) if path.exists()), None)
        if source is None:
            raise InputError(
                f"{data / 'segments.csv'} names {name}, which is neither in {data} nor in {data / 'audio'}; add it, or take "
                "out its lines",
                reason="RECORDING_MISSING",
            )
        (into / name).symlink_to(source.absolute())
    with (into / "songs.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["recording", "onset_s", "offset_s", "label"])
        for row in rows:
            start, duration = float(row["start_s"]), float(row["dur_s"])
            table.writerow([Path(row["sprite"]).name, f"{start:.6f}", f"{start + duration:.6f}", row["species"]])
    return into


def some(songs: SongSet, n_songs: int | None) -> SongSet:
    """Return at most so many of the songs, in their order, the same ones every time."""
    if n_songs is None or n_songs >= len(songs):
        return songs
    return songs.subset(np.sort(np.random.default_rng(0).permutation(len(songs))[:n_songs]))


def summary(rows: Sequence[Row], songs: SongSet) -> dict[str, Any]:
    """Return facts of the set, and for every system its mean scores, or what went wrong."""
    n_types = len({label for label in songs.labels if label})
    of: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        of[row.system].append(row)
    systems: dict[str, dict[str, Any]] = {}
    for name, own in of.items():
        worked = [row for row in own if not row.error]
        if len(worked) < len(own):
            systems[name] = {"error": next(row.error for row in own if row.error)}
            continue
        line: dict[str, Any] = _means(worked, SHOWN)
        line["n_clusters"] = round(mean(row.n_clusters or 0 for row in worked), 1)
        line["without_labels"] = _means(worked, LABEL_FREE)
        for stable in stability(worked).values():  # none of a single seed
            line["without_labels"]["stability_seeds"] = round(stable, 4)
        line["seeds"] = [
            {name: round(row.scores[name], 4) for name in SHOWN if name in row.scores} | {"n_clusters": row.n_clusters}
            for row in worked
        ]
        if worked[0].n_clusters_given is None and n_types:
            line["type_ratio"] = round(line["n_clusters"] / n_types, 3)
        line["seconds"] = round(mean(row.seconds or 0 for row in worked), 1)
        line["peak_memory_mib"] = round(max(row.peak_memory_mib or 0 for row in worked))
        systems[name] = line
    return {"n_songs": len(songs), "n_types": n_types, "systems": systems}


def _means(rows: Sequence[Row], scores: Sequence[str]) -> dict[str, float]:
    """Return the mean of every score that all rows have."""
    shared = [score for score in scores if all(score in row.scores for row in rows)]
    return {score: round(mean(row.scores[score] for row in rows), 4) for score in shared}


def run_set(
    chosen: LabelledSet, systems: Sequence[System], seeds: int, max_minutes: float | None, out: Path
) -> dict[str, Any]:
    """Run the systems on one set, results kept in ``out``, and return the summary."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        data = chosen.folder
        if (data / "segments.csv").exists() and not (data / "songs.csv").exists():
            data = folder_of_segments(data, Path(folder))
        job = LabJob(
            data=data,
            out=out,
            systems=tuple(systems),
            n_seeds=seeds,
            max_minutes=max_minutes,
            segmenter=chosen.segmenter,
            segmentation=chosen.segmentation,
            channel=chosen.channel,
        )
        with lab_songs(job) as found:
            songs = some(found.songs, chosen.songs)
            n_types = len({label for label in songs.labels if label})
            run = run_systems(songs, job.stream, replace(job, n_clusters=n_types or None), sound=found.sound)
    warn_of_left_out(f"{chosen.name}: {found.left_out}" if found.left_out else "")
    return summary(run.rows, songs)


def main(
    data: Annotated[list[str], typer.Option(help="NAME=FOLDER[,segmenter=..][,segmentation=..][,songs=N][,channel=N]")],
    systems: Annotated[
        str, typer.Option(help="Names, with commas between; all for every system, of the file if one is given.")
    ] = "recipe,recipe-kmeans,recipe-average,classical-floor,modulation-kmeans,untrained,untrained-kmeans",
    file: Annotated[Path | None, typer.Option(help="TOML file that declares more systems.")] = None,
    seeds: Annotated[int, typer.Option(help="Runs of every system.")] = 3,
    max_minutes: Annotated[
        float | None, typer.Option(help="Training time of every network; each its own if not given.", min=0.01)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results, which are kept; none if not given.")] = None,
) -> None:
    """Score systems on sets of labelled recordings."""
    sets = [parse_set(text) for text in data]
    if len({chosen.name for chosen in sets}) < len(sets):
        # The second one's results would take the place of the first one's.
        raise typer.BadParameter("two sets have one name; give each its own")
    names = [] if systems == "all" else [name.strip() for name in systems.split(",") if name.strip()]
    chosen_systems = choose_systems(names, file)
    with tempfile.TemporaryDirectory() as folder:
        results = {
            chosen.name: run_set(chosen, chosen_systems, seeds, max_minutes, (out or Path(folder)) / chosen.name)
            for chosen in sets
        }
    print(json.dumps(results))


if __name__ == "__main__":
    typer.run(main)
