"""Whether novelty keeps its promise: known types sung by others, and types that were withheld; prints one JSON line last.

Types are held out in turn, in folds that together withhold every type once. For each fold an encoder is trained on songs of
the other types alone, with clustering and calibration as in `songstream train`, and names what a stream hears in recordings
that it never heard before:

    python bench/novelty.py                                        simulated: the field is sung by others, at 0 to 30 dB
    python bench/novelty.py --data FOLDER --preset syllable        a folder with recordings and songs.csv, cut in two

``false_novel`` is the share of known types' songs that are called novel, promised to be alpha; ``auroc`` says how well
p-values part withheld types from known ones, in the simulation at a ratio to the noise of 10 dB or more. A type is known when
five of its songs were learned from; fewer are no type to anybody, and such songs are left out.
"""

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from sklearn.metrics import roc_auc_score

from songcore.annotations import Annotation
from songcore.audio import open_recording
from songcore.presets import STREAMS
from songcore.stream import Song, SongStream, StreamConfig
from songtrain.augment.store import FrameStore
from songtrain.datasets.extract import extract_songs
from songtrain.datasets.folder import RecordingFile, scan_folder
from songtrain.datasets.screening import screen_songs
from songtrain.datasets.songs import RecordingSongs, SongSet, join_recordings
from songtrain.datasets.split import hold_out
from songtrain.discovery import Discovery, discover_types
from songtrain.encoders.network import SteadyEncoder
from songtrain.export.served import serve_encoder
from songtrain.methods.self_labelled import SelfLabelledEncoder
from songtrain.settings import PRESETS, TrainSettings
from songtrain.synth.config import season_config
from songtrain.synth.write import simulate

LEAST_SNR_DB = 10.0
SNR_EDGES_DB = (0, 5, 10, 15, 20, 31)
"""The simulation ends at 30 dB."""
MIN_KNOWN = 5
MIN_OVERLAP = 0.5
FIELD_SHARE = 0.3
"""Part of a folder's recordings that are only judged."""

console = Console(stderr=True)


@dataclass(frozen=True)
class Heard:
    """A song that a stream gave, with the truth about it."""

    song: Song
    label: str
    snr_db: float
    """As simulated; infinite where nobody knows."""


@dataclass(frozen=True)
class Judged:
    """What one fold says of a song."""

    label: str
    snr_db: float
    withheld: bool
    p_value: float
    novelty: str
    quality: str


def folds_of(labels: Iterable[str], n_folds: int) -> list[set[str]]:
    """Return the labels in sets of about equal size, each label in one; common and rare types are in every set."""
    ordered = [label for label, _ in Counter(labels).most_common()]
    return [set(ordered[first::n_folds]) for first in range(n_folds)]


def simulated(work: Path, n_types: int, n_songs: int, n_field: int, seed: int) -> tuple[Path, Path]:
    """Simulate the season to learn from and the field, with the same types and nothing else in common."""
    common: dict[str, Any] = {"n_types": n_types, "type_seed": seed, "snr_db": (0.0, 30.0), "n_stations": 6}
    learn = season_config("easy", seed=seed, n_songs=n_songs, n_singers=8, **common)
    # In the field rare types are sung nearly as often: they are as well worth knowing.
    field = season_config("easy", seed=seed + 1, n_songs=n_field, n_singers=8, zipf_exponent=0.3, **common)
    for config, name in ((learn, "learn"), (field, "field")):
        if not (work / name / "season.json").exists():
            simulate(config, work / name, n_cores())
    return work / "learn", work / "field"


def cut_in_two(data: Path, segmenting: str) -> tuple[list[RecordingFile], list[RecordingFile]]:
    """Return the recordings to learn from and those to judge, of every subfolder alike."""
    files = scan_folder(data, "annotated" if segmenting == "annotated" else "auto").recordings
    rng = np.random.default_rng(0)
    field: set[str] = set()
    for folder in sorted({Path(file.name).parent for file in files}):
        names = [file.name for file in files if Path(file.name).parent == folder]
        field |= set(rng.permutation(names)[: round(FIELD_SHARE * len(names))].tolist())
    return [file for file in files if file.name not in field], [file for file in files if file.name in field]


def learned(files: Sequence[RecordingFile], stream: StreamConfig) -> SongSet:
    """Return the annotated songs with the borders that the segmenter gives them."""
    return join_recordings(in_processes(partial(_learned_recording, stream=stream), files), stream.frontend.n_mels)


def _learned_recording(file: RecordingFile, stream: StreamConfig) -> RecordingSongs:
    return extract_songs(file.path, file.name, file.annotations, stream, keep_borders=file.keep_borders)


def heard(files: Sequence[RecordingFile], stream: StreamConfig) -> list[Heard]:
    """Return the songs that a stream finds and that are annotated."""
    return [one for part in in_processes(partial(_heard_recording, stream=stream), files) for one in part]


def _heard_recording(file: RecordingFile, stream: StreamConfig) -> list[Heard]:
    with open_recording(file.path) as recording:
        listening = SongStream(stream, recording.sample_rate_hz)
        songs = [song for block in recording.blocks() for song in listening.push(block)] + listening.finish()
    rate = stream.frontend.sample_rate_hz
    found = []
    for song in songs:
        true = max(file.annotations or (), key=lambda a: _overlap(song, a, rate), default=None)
        if true and _overlap(song, true, rate) >= MIN_OVERLAP:
            found.append(Heard(song, true.label, float(true.more.get("snr_db", "inf"))))
    return found


def _overlap(song: Song, true: Annotation, rate_hz: int) -> float:
    """Intersection over union."""
    onset, offset = song.onset / rate_hz, song.offset / rate_hz
    both = min(offset, true.offset_s) - max(onset, true.onset_s)
    return max(0.0, both / (max(offset, true.offset_s) - min(onset, true.onset_s)))


def discover(songs: SongSet, stream: StreamConfig, settings: TrainSettings) -> tuple[Discovery, Callable[..., Any]]:
    """Train, find types and calibrate as `songstream train` does; return the types and what embeds songs."""
    songs, _ = screen_songs(songs, min_songs=settings.data.min_songs)
    held = hold_out(songs.recordings, settings.novelty.held_out_share, np.random.default_rng([settings.seed, 1]))
    train, held_out = songs.parted(held)
    fitted = SelfLabelledEncoder(settings, stream, settings.seed).fit(train)
    steady: SteadyEncoder = fitted.encoder_.cpu()
    embedder = serve_encoder(steady, FrameStore(train, torch.device("cpu")), settings, stream).embedder
    rng = np.random.default_rng([settings.seed, 2])
    return discover_types(train, held_out, embedder, settings, stream, rng), embedder.embed


def judge(
    learn: SongSet, field: Sequence[Heard], withheld: set[str], stream: StreamConfig, settings: TrainSettings
) -> list[Judged]:
    """Return what a model that never met the withheld types says of the field."""
    songs = learn.subset([i for i, label in enumerate(learn.labels) if label not in withheld])
    found, embed = discover(songs, stream, settings)
    known = {label for label, n in Counter(songs.labels).items() if n >= MIN_KNOWN}
    met = [one for one in field if one.label in known | withheld]
    names = found.catalogue.assign(embed([one.song.features for one in met]))
    return [
        Judged(one.label, one.snr_db, one.label in withheld, name.p_value, name.novelty, one.song.quality)
        for one, name in zip(met, names, strict=True)
    ]


def scores(songs: Sequence[Judged]) -> dict[str, float | int | None]:
    """Return the scores of some songs; None where there are no songs to score."""
    known, new = [s for s in songs if not s.withheld], [s for s in songs if s.withheld]
    truth, strangeness = [s.withheld for s in songs], [-s.p_value for s in songs]
    return {
        "n_known": len(known),
        "n_withheld": len(new),
        "false_novel": _share(known, "novel"),
        "false_uncertain": _share(known, "uncertain"),
        "withheld_novel": _share(new, "novel"),
        "withheld_uncertain": _share(new, "uncertain"),
        "auroc": round(float(roc_auc_score(truth, strangeness)), 4) if known and new else None,
    }


def _share(songs: Sequence[Judged], novelty: str) -> float | None:
    return round(sum(s.novelty == novelty for s in songs) / len(songs), 4) if songs else None


def summary(folds: Sequence[Sequence[Judged]]) -> dict[str, Any]:
    """Return the scores of all folds: shares over all songs, the AUROC a mean over folds, as each has p-values of its own."""
    everything = [song for fold in folds for song in fold]
    clear = [[song for song in fold if song.snr_db >= LEAST_SNR_DB] for fold in folds]
    aurocs = [float(auroc) for fold in clear if (auroc := scores(fold)["auroc"]) is not None]
    by_type = [_share([s for s in everything if s.label == t and not s.withheld], "novel") for t in _labels(everything)]
    rates = [rate for rate in by_type if rate is not None]
    intervals = pairwise(SNR_EDGES_DB)
    bins = {f"from {low} dB": [s for s in everything if low <= s.snr_db < high] for low, high in intervals}
    return {
        "false_novel": scores(everything)["false_novel"],
        "auroc": round(float(np.mean(aurocs)), 4) if aurocs else None,
        "withheld_novel": scores([s for fold in clear for s in fold])["withheld_novel"],
        "good": scores([s for s in everything if s.quality == "good"]),
        "false_novel_of_types": np.quantile(rates, [0.1, 0.5, 0.9]).round(4).tolist() if rates else None,
        "folds": [scores(fold) for fold in folds],
        "by_snr": {name: scores(songs) for name, songs in bins.items() if songs},
    }


def _kept(path: Path | None, make: Callable[[], list[Judged]]) -> list[Judged]:
    """Return what ``path`` holds; where it holds nothing, what is made, and keep that there."""
    if path and path.exists():
        return [Judged(**row) for row in json.loads(path.read_text())]
    made = make()
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([asdict(song) for song in made]))
    return made


def _key(learn: SongSet, field: Sequence[Heard], withheld: set[str], settings: TrainSettings) -> str:
    parts = [learn.frames.tobytes(), repr([(one.label, one.song.onset) for one in field]).encode()]
    parts += [repr(sorted(withheld)).encode(), settings.model_dump_json().encode()]
    return blake2b(b"".join(parts), digest_size=12).hexdigest()


def _labels(songs: Sequence[Judged]) -> list[str]:
    return sorted({song.label for song in songs})


def in_processes(run: Callable[[RecordingFile], Any], files: Sequence[RecordingFile]) -> list[Any]:
    """Return what ``run`` gives for every file, in their order."""
    with ProcessPoolExecutor(n_cores(), mp_context=get_context("spawn")) as pool:
        return list(pool.map(run, files))


def n_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def main(  # noqa: PLR0917 - one argument per option
    data: Annotated[Path | None, typer.Option(help="Folder with songs.csv; simulated seasons if not given.")] = None,
    preset: Annotated[str, typer.Option(help="Settings of training.")] = "demo",
    folds: Annotated[int, typer.Option(min=2, help="Each withholds its part of the types.")] = 2,
    types: Annotated[int, typer.Option(help="Types of the simulation.")] = 24,
    songs: Annotated[int, typer.Option(help="Songs to learn from, at most.")] = 1800,
    field_songs: Annotated[int, typer.Option(help="Songs of the simulated field.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of simulation and training.")] = 1,
    work: Annotated[
        Path | None, typer.Option(help="Folder for seasons and what each fold said; kept, so that a run may go on.")
    ] = None,
) -> None:
    """Judge novelty and print the scores as one JSON line."""
    began = time.monotonic()
    settings = PRESETS[preset].model_copy(update={"seed": seed})
    stream = STREAMS[settings.data.segmenter]
    with tempfile.TemporaryDirectory() as temporary:
        if data is None:
            parts = simulated(work or Path(temporary), types, songs, field_songs, seed)
            learn_files, field_files = (list(scan_folder(part).recordings) for part in parts)
        else:
            learn_files, field_files = cut_in_two(data, settings.data.segmentation)
        learn, field = learned(learn_files, stream), heard(field_files, stream)
    if len(learn) > songs:
        learn = learn.subset(np.sort(np.random.default_rng(seed).permutation(len(learn))[:songs]))
    n_true = sum(len(file.annotations or ()) for file in field_files)
    console.print(f"{len(learn)} songs to learn from; in the field {len(field)} of {n_true} are heard")
    judged = []
    for number, withheld in enumerate(folds_of(learn.labels, folds), 1):
        kept = work / f"{_key(learn, field, withheld, settings)}.json" if work else None
        judged.append(_kept(kept, partial(judge, learn, field, withheld, stream, settings)))
        console.print(f"fold {number}: {len(withheld)} types withheld, {scores(judged[-1])}")
    facts = {"n_learn": len(learn), "n_field": len(field), "n_types": len(set(learn.labels))}
    print(json.dumps({**summary(judged), **facts, "seconds": round(time.monotonic() - began, 1)}))


if __name__ == "__main__":
    typer.run(main)
