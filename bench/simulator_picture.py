"""Draw spectrograms of simulated song for the documentation: clean renditions, then the same season in the field.

Run as ``python bench/simulator_picture.py docs/images/simulated-songs.png``.
"""

import json
from io import BytesIO
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import typer
from matplotlib.axes import Axes
from PIL import Image
from scipy.signal import spectrogram

from songcore.arrays import FloatArray
from songtrain.synth.config import season_config
from songtrain.synth.season import open_season, render_recording
from songtrain.synth.singer import render_songs

ROW_S = 14.0


def draw(axes: Axes, samples: FloatArray, sample_rate_hz: int, title: str, range_db: float) -> None:
    """Draw samples (n,) as a spectrogram up to 12 kHz."""
    hz, time_s, power = spectrogram(samples, sample_rate_hz, nperseg=1024, noverlap=640)
    level = 10 * np.log10(power[hz < 12_000] + 1e-14)
    top = float(np.percentile(level, 99.8))
    extent = (0.0, float(time_s[-1]), 0.0, 12.0)
    axes.imshow(level, origin="lower", aspect="auto", extent=extent, vmin=top - range_db, vmax=top, cmap="magma")
    axes.set_xlim(0, ROW_S)
    axes.set_ylabel("kHz", fontsize=7)
    axes.set_title(title, fontsize=7, loc="left", pad=2)
    axes.tick_params(labelsize=6)


def main(
    out: Annotated[Path, typer.Argument(help="PNG file to write.")],
    preset: Annotated[str, typer.Option(help="demo, easy or hard.")] = "hard",
) -> None:
    """Draw twelve song types and fourteen seconds of three recordings."""
    mpl.use("Agg")
    config = season_config(preset)
    rate, season = config.sample_rate_hz, open_season(config)
    songs = render_songs(config, season.types, list(range(12)))
    figure, rows = plt.subplots(6, 1, figsize=(9, 8))
    gap = np.zeros(rate // 2, np.float32)
    for row in range(3):
        four = songs[4 * row : 4 * row + 4]
        samples = np.concatenate([part for _, song in four for part in (song, gap)])
        faint = 1e-4 * np.random.default_rng(0).standard_normal(len(samples), dtype=np.float32)
        draw(rows[row], samples + faint, rate, "clean: " + ", ".join(label for label, _ in four), 75)
    rendered = [render_recording(config, index) for index in range(12)]
    rendered.sort(key=lambda made: -made[1][3].snr_db)
    for row, (samples, truth) in enumerate((rendered[1], rendered[6], rendered[10]), start=3):
        begin = max(0, truth[3].onset - rate)
        shown = [s for s in truth if s.onset < begin + ROW_S * rate and s.offset > begin]
        named = ", ".join(f"{s.label} by {s.singer} at {round(s.snr_db)} dB" for s in shown)
        draw(rows[row], samples[begin : begin + int(ROW_S * rate)], rate, named, 60)
        for song in shown:
            rows[row].plot([(t - begin) / rate for t in (song.onset, song.offset)], [11.5, 11.5], "c", lw=1.5)
    rows[-1].set_xlabel("s", fontsize=7)
    figure.tight_layout(pad=0.4)
    out.parent.mkdir(parents=True, exist_ok=True)
    canvas = BytesIO()
    figure.savefig(canvas, dpi=75)
    # 64 colours halve the file and are not seen.
    Image.open(canvas).convert("RGB").quantize(64).save(out, optimize=True)
    print(json.dumps({"out": str(out), "bytes": out.stat().st_size}))


if __name__ == "__main__":
    typer.run(main)
