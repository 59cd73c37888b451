"""Name songs: the nearest prototype gives the type, the distance to the reference bank says whether to believe it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import faiss
import numpy as np

from songcore.arrays import FloatArray, IntArray
from songcore.errors import BundleError
from songcore.novelty import Calibration, Novelty, NoveltyConfig

__all__ = ["Assignment", "Catalogue", "TypeKind"]

TypeKind = Literal["song", "noise"]

MAX_NORM_ERROR = 1e-3


@dataclass(frozen=True)
class Assignment:
    """What a song was named, and how sure that is."""

    type_id: str
    """Id of the nearest type, also when the song is novel."""
    kind: TypeKind
    similarity: float
    """Cosine to the nearest prototype, in [-1, 1]."""
    novelty_score: float
    """Mean distance to the nearest songs of the reference bank; larger is stranger."""
    p_value: float
    """Share of held-out songs of known types that are at least as strange (conformal)."""
    novelty: Novelty
    """What is recognised as noise is known, however far from any song."""
    embedding: FloatArray = field(default_factory=lambda: np.empty(0, np.float32), repr=False, compare=False)
    """(d,) float32, unit length."""

    @property
    def is_novel(self) -> bool:
        """Whether it is like nothing known."""
        return self.novelty == "novel"


class Catalogue:
    """The song types of a bundle, ready to name embeddings.

    ``prototypes`` (p, d) and ``bank`` (r, d) are float32 unit vectors, ``type_index`` (p,) int64 points into ``type_ids``
    and ``kinds``, ``calibration`` (c,) float32 holds the novelty scores of held-out songs of known types, which were named
    ``calibration_type`` (c,), numbers into ``type_ids``; None calibrates all types together.
    """

    def __init__(  # noqa: PLR0913 - one argument per part of the bundle
        self,
        *,
        prototypes: FloatArray,
        type_index: IntArray,
        type_ids: Sequence[str],
        kinds: Sequence[TypeKind],
        bank: FloatArray,
        calibration: FloatArray,
        novelty: NoveltyConfig,
        calibration_type: IntArray | None = None,
    ) -> None:
        _check(prototypes, type_index, type_ids, bank, calibration)
        _check_calibration_type(calibration_type, len(calibration), len(type_ids))
        self.type_ids, self.kinds, self.novelty = tuple(type_ids), tuple(kinds), novelty
        self.dimension = prototypes.shape[1]
        self._type_index = type_index
        self._calibration = Calibration(
            calibration, calibration_type, len(type_ids), min_type_songs=novelty.min_type_songs
        )
        self._n_neighbours = min(novelty.n_neighbours, len(bank))
        # Exact inner-product search; rebuilt from the arrays, since reading an index file would run untrusted bytes.
        self._prototypes = faiss.IndexFlatIP(prototypes.shape[1])
        self._prototypes.add(np.ascontiguousarray(prototypes, np.float32))
        self._bank = faiss.IndexFlatIP(bank.shape[1])
        self._bank.add(np.ascontiguousarray(bank, np.float32))

    def scores(self, embeddings: FloatArray) -> FloatArray:
        """Return novelty scores (n,) float32: the mean Euclidean distance to the nearest songs of the bank."""
        return mean_neighbour_distance(self._bank, embeddings, self._n_neighbours)

    def assign(self, embeddings: FloatArray) -> list[Assignment]:
        """Name each of the unit embeddings (n, d) float32."""
        if len(embeddings) == 0:
            return []
        cosines, types = self._nearest(embeddings)
        scores = self.scores(embeddings)
        p_values = self._calibration.p_values(scores, types)
        assignments = []
        for embedding, index, cosine, score, p_value in zip(
            embeddings, types.tolist(), cosines.tolist(), scores.tolist(), p_values.tolist(), strict=True
        ):
            kind = self.kinds[index]
            novelty = "known" if kind == "noise" else self.novelty.state(p_value)
            assignments.append(Assignment(self.type_ids[index], kind, cosine, score, p_value, novelty, embedding))
        return assignments

    def type_numbers(self, embeddings: FloatArray) -> IntArray:
        """Return (n,) int64: what each of the unit embeddings (n, d) is named, as numbers into ``type_ids``."""
        return self._nearest(embeddings)[1]

    def _nearest(self, embeddings: FloatArray) -> tuple[FloatArray, IntArray]:
        cosines, nearest = self._prototypes.search(np.ascontiguousarray(embeddings, np.float32), 1)
        return cosines[:, 0], self._type_index[nearest[:, 0]]


def mean_neighbour_distance(bank: faiss.IndexFlatIP, embeddings: FloatArray, n_neighbours: int) -> FloatArray:
    """Return (n,) float32 mean distances of unit vectors to their nearest in the bank: |a - b|² = 2 - 2 a·b."""
    cosines, _ = bank.search(np.ascontiguousarray(embeddings, np.float32), n_neighbours)
    return np.asarray(np.sqrt(np.maximum(0, 2 - 2 * cosines)).mean(axis=1), np.float32)


def _check(
    prototypes: FloatArray, type_index: IntArray, type_ids: Sequence[str], bank: FloatArray, calibration: FloatArray
) -> None:
    forms = {"f": "floats", "i": "integers"}
    problems = [
        f"{name} is {array.dtype} {array.shape}, expected {forms[kind]} along {n_axes} axes, at least one"
        for name, array, kind, n_axes in (
            ("prototypes", prototypes, "f", 2),
            ("type_index", type_index, "i", 1),
            ("bank", bank, "f", 2),
            ("calibration", calibration, "f", 1),
        )
        if array.dtype.kind != kind or array.ndim != n_axes or array.size == 0
    ]
    if not problems:
        problems = _disagreements(prototypes, type_index, type_ids, bank, calibration)
    if problems:
        raise BundleError(f"types.npz cannot be used: {'; '.join(problems)}", reason="TYPES_INVALID")


def _disagreements(
    prototypes: FloatArray, type_index: IntArray, type_ids: Sequence[str], bank: FloatArray, calibration: FloatArray
) -> list[str]:
    problems = []
    if prototypes.shape[1] != bank.shape[1]:
        problems.append(f"prototypes have {prototypes.shape[1]} dimensions, the bank {bank.shape[1]}")
    if len(type_index) != len(prototypes):
        problems.append(f"{len(type_index)} type indices for {len(prototypes)} prototypes")
    if type_index.min() < 0 or type_index.max() >= len(type_ids):
        problems.append(f"type indices {type_index.min()} to {type_index.max()} for {len(type_ids)} types")
    if not np.isfinite(calibration).all():
        problems.append("a calibration score is NaN or infinite")
    # Also false for NaN and infinity.
    if not all((np.abs(np.linalg.norm(vectors, axis=1) - 1) < MAX_NORM_ERROR).all() for vectors in (prototypes, bank)):
        problems.append("prototypes and bank must be vectors of length 1")
    return problems


def _check_calibration_type(calibration_type: IntArray | None, n_scores: int, n_types: int) -> None:
    if calibration_type is None:
        return
    found = f"calibration_type is {calibration_type.dtype} {calibration_type.shape}"
    if calibration_type.dtype.kind != "i" or calibration_type.shape != (n_scores,):
        problem = f"{found}, expected integers, one for each of {n_scores} calibration scores"
    elif calibration_type.min() < 0 or calibration_type.max() >= n_types:
        problem = f"{found} of {calibration_type.min()} to {calibration_type.max()} for {n_types} types"
    else:
        return
    raise BundleError(f"types.npz cannot be used: {problem}", reason="TYPES_INVALID")
