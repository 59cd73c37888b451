"""Write a simulated season: recordings, songs.csv, and season.json."""

import csv
import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from songcore.errors import ConfigError
from songtrain.synth.config import SeasonConfig
from songtrain.synth.repertoire import zipf_weights
from songtrain.synth.season import Season, TrueSong, open_season, render_recording

__all__ = ["AudioFormat", "simulate"]

AudioFormat = Literal["flac", "wav"]

COLUMNS = ("recording", "onset_s", "offset_s", "label", "singer", "station", "snr_db", "overlap", "loud_onset_s")


def simulate(
    config: SeasonConfig,
    out_dir: Path,
    n_workers: int = 1,
    *,
    audio_format: AudioFormat = "flac",
    on_recording: Callable[[int, int], None] | None = None,
) -> list[TrueSong]:
    """Write the season to ``out_dir`` and return its songs in the order of songs.csv.

    ``recordings/*.flac`` (16 bit), ``songs.csv`` and ``season.json`` are the same files for any number of workers.
    ``on_recording(n_done, n_all)`` is called as recordings are finished. Raises ConfigError where it cannot write.
    """
    season = open_season(config)
    folder = out_dir / "recordings"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {folder}: {error.strerror}; choose a writable folder") from error
    if any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty: give an empty folder, so that two seasons never mix")
    songs: list[TrueSong] = []
    n_all = len(season.recordings)
    write = partial(_write_recording, config, folder, audio_format)
    if n_workers == 1:
        for index in range(n_all):
            songs += write(index)
            if on_recording:
                on_recording(index + 1, n_all)
    else:
        # Spawned, not forked: the caller may hold threads and locks of any library.
        with ProcessPoolExecutor(n_workers, mp_context=get_context("spawn")) as pool:
            for index, truth in enumerate(pool.map(write, range(n_all))):
                songs += truth
                if on_recording:
                    on_recording(index + 1, n_all)
    _write_songs(songs, out_dir / "songs.csv", config.sample_rate_hz, audio_format)
    description = json.dumps(_describe(config, season, audio_format), indent=1, ensure_ascii=False)
    (out_dir / "season.json").write_text(description + "\n", encoding="utf-8")
    return songs


def _write_recording(config: SeasonConfig, folder: Path, audio_format: AudioFormat, index: int) -> list[TrueSong]:
    samples, truth = render_recording(config, index)
    path = folder / f"{open_season(config).recordings[index].name}.{audio_format}"
    whole = np.rint(samples * 32768).astype(np.int16)
    # The quickest FLAC is twice as quick as the default and 2 % larger: noise does not compress.
    options = {"compression_level": 0.0} if audio_format == "flac" else {}
    soundfile.write(path, whole, config.sample_rate_hz, subtype="PCM_16", format=audio_format.upper(), **options)
    return truth


def _write_songs(songs: list[TrueSong], path: Path, sample_rate_hz: int, audio_format: AudioFormat) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for song in songs:
            onset, offset, loud = (f"{t / sample_rate_hz:.6f}" for t in (song.onset, song.offset, song.loud_onset))
            writer.writerow(
                [
                    *(f"{song.recording}.{audio_format}", onset, offset, song.label, song.singer, song.station),
                    *(f"{song.snr_db:.2f}", int(song.overlap), loud),
                ]
            )


def _describe(config: SeasonConfig, season: Season, audio_format: AudioFormat) -> dict[str, object]:
    """Return the season in plain data: what was asked for, what there is, and what made it."""
    weights = zipf_weights(config)
    return {
        "config": config.model_dump(mode="json"),
        "types": [
            {
                "label": t.label,
                "words": t.in_words(),
                "duration_s": round(t.duration_s, 3),
                "variant_of": None if t.variant_of is None else season.types[t.variant_of].label,
                "share": round(float(weights[t.index]), 6),
            }
            for t in season.types
        ],
        "singers": [
            {
                "name": s.name,
                "site": s.site,
                "repertoire": [season.types[i].label for i in sorted(s.repertoire)],
                "pitch_octaves": round(s.octaves, 4),
                "log_pace": round(s.log_pace, 4),
                "timbre": asdict(s.timbre),
            }
            for s in season.singers
        ],
        "stations": [
            {"name": s.name, "site": s.site, "noise_db": round(s.noise_db, 2), "echo_s": round(s.echo_s, 3)}
            for s in season.stations
        ],
        "recordings": [f"{r.name}.{audio_format}" for r in season.recordings],
        "versions": {name: version(name) for name in ("songstream", "numpy", "scipy", "soundfile")},
    }
