"""The pictures of a training report, as matplotlib figures."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.image import imsave
from sklearn.manifold import TSNE

from songcore.arrays import FloatArray, IntArray
from songcore.figures import ACCENT, FAINT, INK, SECOND, new_figure
from songtrain.evaluation.novelty import NoveltyCheck

__all__ = [
    "N_COLOURED",
    "map_figure",
    "novelty_figure",
    "song_picture",
    "training_figure",
]

MAX_MAP_SONGS = 3000
PALETTE = [colour for number, colour in enumerate(colormaps["tab20"](np.arange(20))) if number not in {14, 15}]
"""Without its greys: the types that have no colour of their own are grey."""
N_COLOURED = len(PALETTE)
"""Types with a colour on the map, the largest."""


def song_picture(features: FloatArray, ceiling: float) -> bytes:
    """Return a song (n_frames, n_mels) as a PNG, one pixel per value, low bands at the bottom."""
    buffer = BytesIO()
    heard = np.flatnonzero(features.max(axis=1) > 0)
    last = int(heard[-1]) + 1 if len(heard) else len(features)
    imsave(buffer, features[:last].T[::-1], cmap="magma", vmin=0, vmax=ceiling, format="png")
    return buffer.getvalue()


def map_figure(embeddings: FloatArray, labels: IntArray, core: IntArray, type_ids: Sequence[str], seed: int) -> Figure:
    """Return the songs in two dimensions (t-SNE), the largest types coloured and named."""
    figure, (ax,) = new_figure(7.2, 6.0)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(embeddings))[:MAX_MAP_SONGS])
    perplexity = float(min(30, max(2, (len(chosen) - 1) // 4)))
    places = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(embeddings[chosen])
    labels, is_core = labels[chosen], core[chosen] >= 0
    for label in np.unique(labels)[::-1]:
        own = labels == label
        colour = [PALETTE[label]] if label < N_COLOURED else [FAINT]
        ax.scatter(*places[own & is_core].T, s=9, c=colour, linewidths=0)
        ax.scatter(*places[own & ~is_core].T, s=9, facecolors="none", edgecolors=colour, linewidths=0.7)
        if label < N_COLOURED:
            # Above the group, which may be smaller than its name.
            above = np.median(places[own, 0]), np.quantile(places[own, 1], 0.97)
            ax.annotate(
                type_ids[label], above, xytext=(0, 5), textcoords="offset points", fontsize=8, ha="center", color=INK
            )
    ax.set_axis_off()
    return figure


def training_figure(history: Sequence[dict[str, Any]]) -> Figure:
    """Return the loss per epoch, stages shaded, and what every round found."""
    figure, (left, right) = new_figure(9.0, 3.2, 2)
    losses = [row["loss"] for row in history]
    stages = [row["round"] for row in history]
    epochs = np.arange(1, len(losses) + 1)
    for number in sorted(set(stages)):
        own = np.flatnonzero(np.asarray(stages) == number)
        left.plot(
            epochs[own],
            [losses[i] for i in own],
            "o-",
            color=INK if number == 0 else ACCENT,
            markersize=3,
            linewidth=1.2,
        )
        if number % 2:
            left.axvspan(own[0] + 0.5, own[-1] + 1.5, color=FAINT, alpha=0.25, linewidth=0)
        top = left.get_xaxis_transform()
        left.text(
            (own[0] + own[-1]) / 2 + 1,
            1.0,
            "warm-up" if number == 0 else f"round {number}",
            ha="center",
            va="bottom",
            fontsize=7.5,
            transform=top,
        )
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set_xlabel("epoch")
    left.set_ylabel("loss")
    rounds = [row for row in history if row["core_share"] is not None]
    numbers = [row["round"] for row in rounds]
    right.plot(numbers, [row["core_share"] for row in rounds], "o-", color=ACCENT, label="songs in dense cores")
    kept = [(row["round"], row["kept_share"]) for row in rounds if row["kept_share"] is not None]
    if kept:
        right.plot(*zip(*kept, strict=True), "s--", color=SECOND, label="of these, kept their cluster")
    for row in rounds:
        right.annotate(
            f"{row['n_clusters']} clusters",
            (row["round"], row["core_share"]),
            xytext=(0, -14),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    right.set_ylim(0, 1.05)
    right.set_xticks(numbers)
    right.margins(x=0.15)
    right.set_xlabel("round")
    right.set_ylabel("share")
    if rounds:
        right.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def novelty_figure(check: NoveltyCheck, alpha: float) -> Figure:
    """Return the scores of known songs and of songs of types left out, and the trade-off between them."""
    figure, (left, right) = new_figure(9.0, 3.2, 2)
    top = float(max(check.known.max(), check.novel.max()))
    bins = np.linspace(0, top, 40)
    left.hist(check.known, bins, density=True, color=ACCENT, alpha=0.75, label="held-out songs")
    left.hist(check.novel, bins, density=True, color=SECOND, alpha=0.55, label="songs of a type left out")
    # Conformal: novel from here on, p = (1 + how many are as strange) / (1 + n) <= alpha.
    n_allowed = int(np.floor(alpha * (len(check.known) + 1))) - 1
    if n_allowed >= 0:
        threshold = float(np.sort(check.known)[::-1][n_allowed])
        left.axvline(threshold, color=INK, linewidth=1, linestyle="--")
        left.text(
            threshold,
            1.0,
            f" novel from {threshold:.2f}",
            fontsize=8,
            va="bottom",
            ha="center",
            transform=left.get_xaxis_transform(),
        )
    left.set_xlabel("novelty score")
    left.set_yticks([])
    left.spines["left"].set_visible(False)
    left.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, 1.28), ncols=2)
    cuts = np.sort(np.concatenate([check.known, check.novel, [-1.0]]))[::-1]
    false = [(check.known > cut).mean() for cut in cuts]
    right.plot(false, [(check.novel > cut).mean() for cut in cuts], color=ACCENT, linewidth=1.5)
    right.axvline(alpha, color=INK, linewidth=1, linestyle="--")
    right.set_xlabel("known songs called novel")
    right.set_ylabel("songs of a type left out, caught")
    right.set_title(f"area under the curve {check.auroc:.3f}", fontsize=9, color=INK)
    return figure
