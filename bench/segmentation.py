"""How well the segmenter finds annotated songs, syllables and their borders; prints one JSON line last.

A found song counts when it overlaps an annotated one by half or more (intersection over union), one to one. Where the
table has a ``loud_onset_s``, the first clear note after soft ticks, an onset between ``onset_s`` and that is exact.
``song_f1`` is over all annotated songs; where the table has a ``condition`` column, it is the mean over the conditions
of natural noise. Every group (condition, bird or recording) is reported.

Run as ``python bench/segmentation.py --data DIR --preset song|syllable [--reference] [--sensitivity] [--plot OUT.png]``.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from songcore.annotations import Annotation, read_songs_csv
from songcore.arrays import FloatArray
from songcore.audio import open_recording
from songcore.frontend import DB_PER_UNIT, FrontendConfig, LogMel
from songcore.presets import PRESETS
from songcore.resample import Resampler
from songcore.segment import Segmenter, SegmenterConfig

MIN_OVERLAP = 0.5
SHIFTS = (0.8, 1.2)
REFERENCE_FRAMES = (512, 2048)
REFERENCE_TOP_DB = range(10, 61, 5)
AUDIO = {".wav", ".flac", ".ogg", ".mp3"}

Intervals = list[tuple[float, float]]
console = Console(stderr=True)


@dataclass
class Tally:
    """Counts and border errors of one group of recordings."""

    n_true: int = 0
    n_found: int = 0
    n_matched: int = 0
    errors_s: list[float] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Add another tally to this one."""
        self.n_true += other.n_true
        self.n_found += other.n_found
        self.n_matched += other.n_matched
        self.errors_s += other.errors_s

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.n_matched / max(1, self.n_true + self.n_found)

    def report(self) -> dict[str, float | int | None]:
        """Return the scores under their published names."""
        return {
            "f1": round(self.f1, 4),
            "precision": round(self.n_matched / max(1, self.n_found), 4),
            "recall": round(self.n_matched / max(1, self.n_true), 4),
            "n_songs": self.n_true,
            "median_boundary_error_ms": round(1e3 * float(np.median(self.errors_s)), 1) if self.errors_s else None,
        }


def tally(found: Intervals, truth: Iterable[Annotation]) -> Tally:
    """Match found songs to annotated ones, best overlap first."""
    songs = list(truth)
    pairs = []
    for i, (begin, end) in enumerate(found):
        for j, song in enumerate(songs):
            loud = float(song.more.get("loud_onset_s") or song.onset_s)
            onset = min(max(begin, song.onset_s), loud)
            overlap = min(end, song.offset_s) - max(begin, onset)
            union = max(end, song.offset_s) - min(begin, onset)
            if overlap >= MIN_OVERLAP * union:
                errors = [abs(begin - onset), abs(end - song.offset_s)]
                pairs.append((overlap / union, i, j, errors))
    result = Tally(len(songs), len(found))
    used_found: set[int] = set()
    used_songs: set[int] = set()
    for _, i, j, errors in sorted(pairs, reverse=True):
        if i not in used_found and j not in used_songs:
            used_found.add(i)
            used_songs.add(j)
            result.n_matched += 1
            result.errors_s += errors
    return result


def log_mel(path: Path, config: FrontendConfig) -> FloatArray:
    """Return the log-mel frames of a recording."""
    frames = []
    with open_recording(path) as recording:
        resampler, mel = Resampler(recording.sample_rate_hz, config.sample_rate_hz), LogMel(config)
        frames += [mel.push(resampler.push(block)) for block in recording.blocks()]
    return np.concatenate([*frames, mel.push(resampler.finish()), mel.finish()])


def songs_in(frames: FloatArray, frontend: FrontendConfig, config: SegmenterConfig) -> Intervals:
    """Return the songs that the segmenter finds, in seconds."""
    segmenter = Segmenter(config, frontend)
    rate = frontend.sample_rate_hz
    return [(song.onset / rate, song.offset / rate) for song in segmenter.push(frames) + segmenter.finish()]


def group_of(song: Annotation) -> str:
    """Return the group under which a song is reported: condition, else bird, else recording."""
    return song.more.get("condition") or song.more.get("bird") or song.recording


def scores(truth: dict[str, list[Annotation]], find: Callable[[str], Intervals]) -> dict[str, Any]:
    """Return song_f1, median_boundary_error_ms and the groups of all annotated recordings."""
    groups: dict[str, Tally] = {}
    for name, songs in truth.items():
        groups.setdefault(group_of(songs[0]), Tally()).add(tally(find(name), songs))
    total = Tally()
    for group in groups.values():
        total.add(group)
    natural = [group.f1 for name, group in groups.items() if "NaturalNoise" in name]
    report = total.report()
    return {
        "song_f1": round(float(np.mean(natural)), 4) if natural else report["f1"],
        "median_boundary_error_ms": report["median_boundary_error_ms"],
        "groups": {name: group.report() for name, group in groups.items()},
    }


def changed(config: SegmenterConfig, name: str, factor: float) -> SegmenterConfig:
    """Return the configuration with one number, ``noise.`` before it for the noise's, times ``factor``."""
    values = config.model_dump()
    place = values["noise"] if name.startswith("noise.") else values
    place[name.removeprefix("noise.")] *= factor
    return SegmenterConfig(**values)


def sensitivity(
    truth: dict[str, list[Annotation]],
    frames: dict[str, FloatArray],
    frontend: FrontendConfig,
    config: SegmenterConfig,
) -> dict[str, list[float]]:
    """Return song_f1 with every number of the configuration moved down and up by a fifth."""
    values = config.model_dump()
    names = [name for name, value in values.items() if isinstance(value, float) and not name.endswith("_roll_s")]
    names += [f"noise.{name}" for name in values["noise"]]
    table: dict[str, list[float]] = {}
    for name in track(names, description="sensitivity", console=console):
        table[name] = []
        for factor in SHIFTS:
            variant = changed(config, name, factor)
            found = {key: songs_in(frames[key], frontend, variant) for key in truth}
            table[name].append(scores(truth, found.__getitem__)["song_f1"])
    return table


def reference(truth: dict[str, list[Annotation]], data: Path) -> dict[str, Any]:
    """Return song_f1 of librosa.effects.split at its best frames and threshold, and each group's f1 at that group's."""
    import librosa
    import soundfile

    audio = {}
    for name in truth:
        samples, rate = soundfile.read(data / name, dtype="float32", always_2d=True)
        audio[name] = samples.mean(axis=1), rate
    best: dict[str, Any] = {"song_f1": -1.0}
    groups: dict[str, float] = {}
    for frame, top_db in track(list(product(REFERENCE_FRAMES, REFERENCE_TOP_DB)), "librosa", console=console):
        found = {}
        for name, (samples, rate) in audio.items():
            parts = librosa.effects.split(samples, top_db=top_db, frame_length=frame, hop_length=frame // 4)
            found[name] = [(begin / rate, end / rate) for begin, end in parts]
        result = scores(truth, found.__getitem__)
        for name, group in result["groups"].items():
            groups[name] = max(group["f1"], groups.get(name, 0.0))
        if result["song_f1"] > best["song_f1"]:
            best = {"frame_length": frame, "top_db": top_db, "song_f1": result["song_f1"]}
    return {"method": "librosa.effects.split", **best, "best_f1_of_group": groups}


def plot(
    out: Path,
    frames: dict[str, FloatArray],
    truth: dict[str, list[Annotation]],
    find: Callable[[str], Intervals],
    frontend: FrontendConfig,
    row_s: float,
) -> None:
    """Draw spectrograms with found songs (green) and annotated ones (cyan), ``row_s`` seconds to a row."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = [
        (name, begin)
        for name, part in frames.items()
        for begin in range(0, len(part), max(1, round(row_s / frontend.hop_s)))
    ]
    figure, axes = plt.subplots(len(rows), 1, figsize=(22, 2.6 * len(rows)), squeeze=False)
    for axis, (name, begin) in zip(axes[:, 0], rows, strict=True):
        part = frames[name][begin : begin + round(row_s / frontend.hop_s)] * DB_PER_UNIT
        first, top = begin * frontend.hop_s, part.shape[1]
        low, high = np.percentile(part, [10, 99.7])
        extent = (first, first + len(part) * frontend.hop_s, 0, top)
        axis.imshow(part.T, aspect="auto", origin="lower", extent=extent, vmin=low - 5, vmax=high, cmap="magma")
        axis.hlines([top - 1] * len(truth.get(name, [])), *_times(truth.get(name, [])), color="cyan", linewidth=4)
        for onset, offset in find(name):
            axis.hlines(top - 4, onset, offset, color="lime", linewidth=4)
            axis.vlines([onset, offset], 0, top, color=["lime", "red"], linewidth=0.7)
        axis.set(xlim=(first, first + row_s), title=name)
    figure.tight_layout()
    figure.savefig(out, dpi=50)


def _times(songs: list[Annotation]) -> tuple[list[float], list[float]]:
    return [song.onset_s for song in songs], [song.offset_s for song in songs]


def main(  # noqa: PLR0917  typer passes every option by its name
    data: Annotated[Path, typer.Option(help="Folder with recordings and songs.csv.")],
    preset: Annotated[str, typer.Option(help="song or syllable.")] = "song",
    with_reference: Annotated[
        bool, typer.Option("--reference", help="Score librosa.effects.split, too, at its best threshold.")
    ] = False,
    with_sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Score with every parameter moved by a fifth.")
    ] = False,
    every: Annotated[int, typer.Option(min=1, help="Take only every so manieth annotated recording.")] = 1,
    per_file: Annotated[bool, typer.Option("--per-file", help="Report every recording on stderr.")] = False,
    picture: Annotated[Path | None, typer.Option("--plot", help="Draw recordings and songs into this PNG.")] = None,
    plot_recordings: Annotated[int, typer.Option(help="How many recordings to draw, those not annotated too.")] = 10,
    row_s: Annotated[float, typer.Option(help="Seconds per row of the picture.")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print nothing but the JSON line.")] = False,
) -> None:
    """Score the segmenter against annotated recordings; the last line is JSON."""
    console.quiet = as_json
    frontend, config = PRESETS[preset]
    with (data / "songs.csv").open(encoding="utf-8", newline="") as file:
        table = read_songs_csv(file)
    truth: dict[str, list[Annotation]] = {}
    for song in table:
        truth.setdefault(song.recording, []).append(song)
    truth = dict(list(truth.items())[::every])
    frames = {name: log_mel(data / name, frontend) for name in track(truth, description="log-mel", console=console)}
    found = {name: songs_in(part, frontend, config) for name, part in frames.items()}
    result: dict[str, Any] = {"preset": preset, **scores(truth, found.__getitem__)}
    if per_file:
        for name, songs in truth.items():
            console.print(name, tally(found[name], songs).report())
    if with_reference:
        result["reference"] = reference(truth, data)
    if with_sensitivity:
        result["sensitivity"] = sensitivity(truth, frames, frontend, config)
    if picture:
        others = sorted(str(path.relative_to(data)) for path in data.rglob("*") if path.suffix in AUDIO)
        names = list(dict.fromkeys([*others, *truth]))[:plot_recordings]
        drawn = {name: frames[name] if name in frames else log_mel(data / name, frontend) for name in names}
        plot(picture, drawn, truth, lambda name: songs_in(drawn[name], frontend, config), frontend, row_s)
    print(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
