"""How soon a song can be named while it is still being sung; prints a table, and one JSON line last.

Simulates two seasons by singers that the bundle never heard: one of the song types it learnt, one of others. Streams them
in chunks of half a second, as a station does, asks for a guess at the open song after each, and compares, by the share of the
song that was heard:

answered       songs with a guess at all by then (a guess needs a song that the segmenter would keep)
as_final       of these, guesses of the type that the whole song is given
accuracy       of these, guesses of the type that was sung; which type of the bundle stands for which simulated one is taken
               from whole songs of other recordings
novel_known    of these, guesses that say novel, of types that the bundle learnt: false alarms
novel_strange  the same, of types that it did not learn
novelty_auroc  of the novelty scores, strange against known

``songs_never_sung`` counts guesses, by onset, that no song followed.

Run as ``python bench/early.py [--songs 400] [--bundle models/demo-v1]``.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.metrics import roc_auc_score

from songcore.annotations import Annotation, read_songs_csv
from songcore.assign import Assignment
from songcore.audio import open_recording
from songcore.bundle import Bundle, load_bundle
from songcore.stream import Song

ROOT = Path(__file__).resolve().parent.parent
SONGSTREAM = str(Path(sys.executable).with_name("songstream"))
SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
LEARNT, STRANGE = 11, 12
"""Seeds of song types: those of models/demo-v1, and others."""
N_TYPES = 40
CHUNK_S = 0.5
MIN_OVERLAP = 0.5

console = Console(stderr=True)


@dataclass(frozen=True)
class Heard:
    """A song that was found, what was guessed before, and what was sung if that is known."""

    recording: str
    label: str
    strange: bool
    final: Assignment
    guesses: tuple[tuple[float, Assignment], ...]
    """Share of the song that was heard, and the guess."""

    def guess(self, share: float) -> Assignment | None:
        """Return the latest guess of one who has heard at most this share."""
        if share >= 1:
            return self.final
        known = [guess for heard, guess in self.guesses if heard <= share]
        return known[-1] if known else None


def main(
    songs: Annotated[int, typer.Option(help="Songs in each of the two seasons.")] = 400,
    bundle: Annotated[Path, typer.Option(help="Bundle that names them.")] = ROOT / "models" / "demo-v1",
) -> None:
    """Simulate, guess, compare."""
    model = load_bundle(bundle, device="cpu")
    heard: list[Heard] = []
    n_never = 0
    with tempfile.TemporaryDirectory() as folder:
        for type_seed in (LEARNT, STRANGE):
            season = Path(folder) / str(type_seed)
            simulate(season, type_seed, songs)
            found, never = hear_season(model, season, strange=type_seed == STRANGE)
            heard += found
            n_never += never
    result = {
        "songs": len(heard),
        "strange_songs": sum(song.strange for song in heard),
        "songs_never_sung": n_never,
        "shares": list(SHARES),
        **scores(heard),
    }
    show(result)
    print(json.dumps(result))


def simulate(season: Path, type_seed: int, n_songs: int) -> None:
    """Write a season by singers of its own."""
    command = [SONGSTREAM, "synth", "--preset", "easy", "--seed", "5", "--type-seed", str(type_seed)]
    command += ["--types", str(N_TYPES), "--songs", str(n_songs), "--workers", "1", "--out", str(season)]
    command += ["--set", "n_singers=4", "--set", "n_stations=4", "--set", "recording_s=300"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def hear_season(model: Bundle, season: Path, *, strange: bool) -> tuple[list[Heard], int]:
    """Return the songs found where one was sung, and the number of onsets guessed at that came to nothing."""
    with (season / "songs.csv").open() as file:
        truth = read_songs_csv(file)
    heard: list[Heard] = []
    n_never = 0
    for recording in track(sorted((season / "recordings").iterdir()), "listening", console=console):
        sung = [song for song in truth if song.recording == recording.name]
        guesses: defaultdict[int, list[Song]] = defaultdict(list)
        finals = list(songs_in(model, recording, guesses))
        n_never += len(set(guesses) - {song.onset for song in finals})
        names = model.classify(finals)
        for song, name in zip(finals, names, strict=True):
            label = label_of(song, sung, model)
            if label is None:
                continue
            before = guesses[song.onset]
            shares = [(guess.offset - guess.onset) / (song.offset - song.onset) for guess in before]
            made = tuple(zip(shares, model.classify(before), strict=True))
            heard.append(Heard(recording.name, label, strange, name, made))
    return heard, n_never


def songs_in(model: Bundle, recording: Path, guesses: dict[int, list[Song]]) -> Iterator[Song]:
    """Yield the songs of a recording; collect the open song after each chunk, by its onset."""
    with open_recording(recording) as sound:
        stream = model.new_stream(sound.sample_rate_hz)
        for block in sound.blocks(CHUNK_S):
            yield from stream.push(block)
            if song := stream.open_song():
                guesses[song.onset].append(song)
        yield from stream.finish()


def label_of(song: Song, sung: list[Annotation], model: Bundle) -> str | None:
    """Return the label of the simulated song that lies where this one was found."""
    rate = model.manifest.frontend.sample_rate_hz
    onset_s, offset_s = song.onset / rate, song.offset / rate
    for true in sung:
        common = min(offset_s, true.offset_s) - max(onset_s, true.onset_s)
        if common >= MIN_OVERLAP * (max(offset_s, true.offset_s) - min(onset_s, true.onset_s)):
            return true.label
    return None


def scores(heard: list[Heard]) -> dict[str, list[float]]:
    """Return one list for each column, by the share that was heard."""
    recordings = sorted({song.recording for song in heard})
    halves = [set(recordings[::2]), set(recordings[1::2])]
    meanings = [meaning(heard, half) for half in halves[::-1]]  # of each half, learnt from the other
    columns: defaultdict[str, list[float]] = defaultdict(list)
    for share in SHARES:
        guessed = [(song, guess) for song in heard if (guess := song.guess(share))]
        known = [(song, guess) for song, guess in guessed if not song.strange]
        strange = [guess for song, guess in guessed if song.strange]
        right = [meanings[song.recording in halves[1]].get(guess.type_id) == song.label for song, guess in known]
        columns["answered"].append(len(guessed) / len(heard))
        columns["as_final"].append(mean([guess.type_id == song.final.type_id for song, guess in known]))
        columns["accuracy"].append(mean(right))
        columns["novel_known"].append(mean([guess.is_novel for _, guess in known]))
        columns["novel_strange"].append(mean([guess.is_novel for guess in strange]))
        marks = [0] * len(known) + [1] * len(strange)
        values = [guess.novelty_score for _, guess in known] + [guess.novelty_score for guess in strange]
        columns["novelty_auroc"].append(float(roc_auc_score(marks, values)) if 0 < sum(marks) < len(marks) else 0.0)
    return {name: [round(value, 3) for value in column] for name, column in columns.items()}


def meaning(heard: list[Heard], recordings: set[str]) -> dict[str, str]:
    """Return what the bundle's types stand for, by the most frequent label of whole songs."""
    labels: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for song in heard:
        if song.recording in recordings and not song.strange:
            labels[song.final.type_id][song.label] += 1
    return {type_id: counts.most_common(1)[0][0] for type_id, counts in labels.items()}


def mean(values: list[bool]) -> float:
    """Return the share of true ones, 0 for none at all."""
    return float(np.mean(values)) if values else 0.0


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    names = ("answered", "as_final", "accuracy", "novel_known", "novel_strange", "novelty_auroc")
    table = Table("heard", *names, title="Guesses while songs are sung", title_justify="left")
    for index, share in enumerate(SHARES):
        table.add_row(f"{share:.0%}", *(f"{result[name][index]:.3f}" for name in names))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
