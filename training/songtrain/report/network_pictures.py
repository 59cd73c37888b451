"""Pictures of how networks learned: losses, agreement of labels between epochs, and songs given back by autoencoders."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from songcore.arrays import FloatArray
from songcore.figures import INK, new_figure

__all__ = ["history_figure", "reconstructions_figure"]

History = Sequence[Mapping[str, float]]
N_INSIDE = 8
"""More names than these would cover the lines."""


def history_figure(histories: Mapping[str, History]) -> Figure:
    """Return the loss of every network by epoch, over that of its first, and the NMI of labels of consecutive epochs.

    Losses of different methods have different units: only their course can be compared.
    """
    has_nmi = any("nmi" in epoch for history in histories.values() for epoch in history)
    figure, axes = new_figure(10.0, 3.4, 2 if has_nmi else 1)
    colours = colormaps["tab20"](np.arange(20))
    for number, (name, history) in enumerate(histories.items()):
        # Beyond twenty networks colours come again, with other lines.
        line = ("-", "--", ":")[number // 20 % 3]
        style = {"color": colours[number % 20], "linestyle": line, "linewidth": 1.3, "marker": "o", "markersize": 3}
        losses = np.asarray([epoch.get("loss", np.nan) for epoch in history])
        axes[0].plot(np.arange(1, len(losses) + 1), losses / (abs(losses[0]) or 1.0), label=name, **style)
        nmi = [(epoch, row["nmi"]) for epoch, row in enumerate(history, 1) if "nmi" in row]
        if nmi:
            axes[-1].plot(*zip(*nmi, strict=True), **style)
    axes[0].set_ylabel("loss over the size of that of the first epoch")
    if has_nmi:
        axes[1].set_ylabel("NMI with the epoch before")
        axes[1].set_ylim(0, 1.02)
    for ax in axes:
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
    if len(histories) > N_INSIDE:
        figure.set_figheight(max(3.4, 0.16 * len(histories)))
        figure.legend(frameon=False, fontsize=7, loc="outside right upper")
    else:
        axes[0].legend(frameon=False, fontsize=7, loc="upper right")
    return figure


def reconstructions_figure(pairs: FloatArray) -> Figure:
    """Return songs (2, k, n_frames, d) as an autoencoder got them, above, and as it gave them back, below."""
    n = pairs.shape[1]
    figure, _ = new_figure(1.7 * n, 3.0, 0)
    for row, words in enumerate(("original", "given back")):
        for column in range(n):
            original = pairs[0, column]
            # Silence after the end of the longest song shown says nothing.
            heard = np.flatnonzero(np.ptp(pairs[0], axis=(0, 2)) > 0)
            last = int(heard[-1]) + 1 if len(heard) else len(original)
            ax = figure.add_subplot(2, n, row * n + column + 1)
            image = pairs[row, column, :last].T
            low, high = float(original.min()), float(original.max())
            ax.imshow(image, aspect="auto", origin="lower", cmap="magma", vmin=low, vmax=high)
            ax.set_xticks([])
            ax.set_yticks([])
            if column == 0:
                ax.set_ylabel(words, fontsize=8, color=INK)
    return figure
