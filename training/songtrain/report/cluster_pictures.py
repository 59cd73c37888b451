"""Pictures of points and the clusters among them: maps, distances, and scores over the number of clusters."""

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from songcore.arrays import FloatArray, IntArray
from songcore.errors import InputError
from songcore.figures import ACCENT, FAINT, INK, SECOND, new_figure
from songtrain.evaluation.distances import PairDistances
from songtrain.evaluation.over_k import AtK
from songtrain.evaluation.types import TypeScore
from songtrain.reducers.projections import Components, DiscriminantMap, NeighbourMap, UniformMap
from songtrain.report.figures import N_COLOURED

__all__ = ["distances_figure", "maps", "maps_figure", "over_k_figure", "types_figure"]


def maps(points: FloatArray, found: IntArray, seed: int) -> dict[str, FloatArray]:
    """Return the points (n, d) in two dimensions by each method that there is, (n, 2) each.

    LDA is given the clusters found (n,), and is left out where there are fewer than three of them.
    """
    flat = points if points.shape[1] >= 2 else np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    places = {"PCA": Components(2, unit=False, random_state=seed).fit_transform(flat)}
    places["t-SNE"] = NeighbourMap(random_state=seed).fit_transform(flat)
    if find_spec("umap") is not None:
        places["UMAP"] = UniformMap(2, random_state=seed).fit_transform(flat)
    inside = found >= 0
    try:
        lda = DiscriminantMap(random_state=seed).fit(flat[inside], found[inside])
        places["LDA of the clusters found"] = lda.transform(flat)
    except (InputError, ValueError):
        pass  # fewer than two clusters to part: the other maps stand alone
    return {name: place for name, place in places.items() if place.shape[1] == 2}


def maps_figure(places: dict[str, FloatArray], found: IntArray, truth: IntArray) -> Figure:
    """Return every map coloured by clusters found, and below, where songs have any, by annotated types (-1: none)."""
    colourings = [("clusters found", found)] + ([("annotated types", truth)] if (truth >= 0).any() else [])
    figure, _ = new_figure(3.4 * len(places), 3.2 * len(colourings), 0)
    palette = colormaps["tab20"](np.arange(N_COLOURED))
    for row, (words, numbers) in enumerate(colourings):
        names, counts = np.unique(numbers[numbers >= 0], return_counts=True)
        largest = {int(name): rank for rank, name in enumerate(names[np.argsort(-counts, kind="stable")][:N_COLOURED])}
        colours = [palette[largest[n]] if n in largest else FAINT for n in numbers.tolist()]
        for column, (name, place) in enumerate(places.items()):
            ax = figure.add_subplot(len(colourings), len(places), row * len(places) + column + 1)
            ax.scatter(place[:, 0], place[:, 1], s=5, c=colours, linewidths=0)
            ax.set_title(f"{name}: {words}" if column == 0 else name, fontsize=8, color=INK)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_color(FAINT)
    return figure


def over_k_figure(curve: Sequence[AtK]) -> Figure:
    """Return inertia, silhouette, Calinski-Harabasz and, where songs have labels, NMI and ARI over the number of clusters."""
    has_labels = any(at.ari is not None for at in curve)
    figure, axes = new_figure(11.0, 2.8, 4 if has_labels else 3)
    numbers = [at.k for at in curve]
    for ax, name in zip(axes, ("inertia", "silhouette", "calinski_harabasz"), strict=False):
        ax.plot(numbers, [getattr(at, name) for at in curve], "o-", color=SECOND, markersize=3)
        ax.set_title(name.replace("_", "-").title() if "_" in name else name, fontsize=9, color=INK)
    if has_labels:
        for name, colour in (("ari", ACCENT), ("nmi", INK)):
            known = [(at.k, getattr(at, name)) for at in curve if getattr(at, name) is not None]
            axes[3].plot(*zip(*known, strict=True), "o-", color=colour, markersize=3, label=name.upper())
        axes[3].legend(frameon=False, fontsize=8, loc="lower center")
        axes[3].set_title("what labels say", fontsize=9, color=INK)
    for ax in axes:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(lambda k, _: f"{k:g}")
        ax.set_xlabel("clusters", fontsize=8)
    return figure


def distances_figure(distances: PairDistances, words: str) -> Figure:
    """Return how far pairs of one ``words`` (type or cluster) lie apart, beside pairs of two."""
    figure, (ax,) = new_figure(6.4, 3.0)
    top = float(max(distances.same.max(), distances.other.max()))
    bins = np.linspace(0, top, 60)
    ax.hist(distances.other, bins, density=True, color=FAINT, label=f"pairs of two {words}s")
    ax.hist(distances.same, bins, density=True, color=ACCENT, alpha=0.7, label=f"pairs of one {words}")
    every = np.concatenate([distances.same, distances.other])
    ax.hist(every, bins, density=True, histtype="step", color=INK, label="all pairs")
    ax.set_xlabel("distance")
    ax.set_yticks([])
    ax.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 0.98), ncols=3)
    return figure


def types_figure(scores: Sequence[TypeScore]) -> Figure:
    """Return recall against precision, a point per type, larger when sung more."""
    figure, (ax,) = new_figure(4.6, 3.8)
    sizes = np.asarray([score.n_songs for score in scores])
    ax.scatter(
        [score.precision for score in scores],
        [score.recall for score in scores],
        s=10 + 120 * sizes / sizes.max(),
        color=ACCENT,
        alpha=0.5,
        linewidths=0,
    )
    ax.set_xlim(-0.03, 1.03)
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlabel("precision")
    ax.set_ylabel("recall")
    return figure
