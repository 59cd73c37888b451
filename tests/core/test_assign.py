"""Naming songs: scikit-learn and a naive loop agree, noise is never novel, and ill-formed catalogues are refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from songcore.arrays import FloatArray
from songcore.assign import Catalogue
from songcore.errors import BundleError
from songcore.novelty import NoveltyConfig


def unit(n: int, dimension: int, seed: int) -> FloatArray:
    """Return random unit vectors (n, dimension)."""
    vectors = np.random.default_rng(seed).standard_normal((n, dimension))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def parts(n_types: int = 5, per_type: int = 2, n_bank: int = 60, dimension: int = 12, seed: int = 0) -> dict[str, Any]:
    """Return the parts of a catalogue with several prototypes per type, the last type being noise."""
    rng = np.random.default_rng(seed)
    return {
        "prototypes": unit(n_types * per_type, dimension, seed),
        "type_index": rng.permutation(np.repeat(np.arange(n_types), per_type)),
        "type_ids": [f"T{i:04d}" for i in range(n_types)],
        "kinds": ["song"] * (n_types - 1) + ["noise"],
        "bank": unit(n_bank, dimension, seed + 1),
        "calibration": rng.uniform(0.3, 1.2, 50).astype(np.float32),
        "novelty": NoveltyConfig(),
    }


@settings(max_examples=30)
@given(n_types=st.integers(1, 8), per_type=st.integers(1, 3), n_bank=st.integers(1, 40), seed=st.integers(0, 999))
def test_agrees_with_a_naive_loop(n_types: int, per_type: int, n_bank: int, seed: int) -> None:
    """Type, similarity, score, p-value and novelty are those of loops over all vectors."""
    made = parts(n_types, per_type, n_bank, seed=seed)
    embeddings = unit(25, 12, seed + 2)
    for embedding, assignment in zip(embeddings, Catalogue(**made).assign(embeddings), strict=True):
        cosines = [float(np.dot(prototype, embedding)) for prototype in made["prototypes"]]
        index = int(made["type_index"][int(np.argmax(cosines))])
        assert assignment.type_id == made["type_ids"][index]
        assert assignment.kind == made["kinds"][index]
        assert assignment.similarity == pytest.approx(max(cosines), abs=1e-5)
        distances = sorted(float(np.linalg.norm(other - embedding)) for other in made["bank"])[:5]
        assert assignment.novelty_score == pytest.approx(np.mean(distances), abs=1e-4)
        n_as_strange = sum(score >= np.float32(assignment.novelty_score) for score in made["calibration"])
        assert assignment.p_value == pytest.approx((1 + n_as_strange) / 51)
        assert assignment.is_novel == (assignment.p_value <= 0.05 and assignment.kind == "song")


def test_agrees_with_scikit_learn() -> None:
    """Novelty scores are the mean distances that scikit-learn's nearest neighbours have, for one and for many songs."""
    made = parts(n_bank=500, dimension=64)
    catalogue, embeddings = Catalogue(**made), unit(300, 64, 9)
    distances, _ = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(made["bank"]).kneighbors(embeddings)
    np.testing.assert_allclose(catalogue.scores(embeddings), distances.mean(axis=1), atol=1e-4)
    alone = np.concatenate([catalogue.scores(embedding[None]) for embedding in embeddings])
    np.testing.assert_allclose(alone, distances.mean(axis=1), atol=1e-4)


def test_company_changes_no_name() -> None:
    """A song is named alike alone and among others, its numbers to rounding."""
    catalogue, embeddings = Catalogue(**parts()), unit(200, 12, 5)
    for together, embedding in zip(catalogue.assign(embeddings), embeddings, strict=True):
        (alone,) = catalogue.assign(embedding[None])
        assert (alone.type_id, alone.kind, alone.is_novel) == (together.type_id, together.kind, together.is_novel)
        assert alone.similarity == pytest.approx(together.similarity, abs=1e-5)
        assert alone.p_value == together.p_value


def test_a_prototype_is_its_own_type() -> None:
    """A prototype has similarity 1 to its own type, and a song of the bank has a small score."""
    made = parts()
    catalogue = Catalogue(**made)
    for index, assignment in enumerate(catalogue.assign(made["prototypes"])):
        assert assignment.type_id == made["type_ids"][made["type_index"][index]]
        assert assignment.similarity == pytest.approx(1, abs=1e-5)
    one = Catalogue(**{**made, "novelty": NoveltyConfig(n_neighbours=1)})
    np.testing.assert_allclose(one.scores(made["bank"]), 0, atol=2e-3)


def test_noise_is_never_novel() -> None:
    """The strangest sound that is nearest to a noise type is noise, and nearest to a song type it is novel."""
    prototypes = np.eye(4, dtype=np.float32)[:2]
    catalogue = Catalogue(
        prototypes=prototypes,
        type_index=np.arange(2),
        type_ids=["T0001", "N0001"],
        kinds=["song", "noise"],
        bank=prototypes,
        calibration=np.linspace(0, 0.1, 99, dtype=np.float32),
        novelty=NoveltyConfig(),
    )
    far = np.array([[0.3, 0, 0.95, 0], [0, 0.3, 0.95, 0]], np.float32)
    song, noise = catalogue.assign(far / np.linalg.norm(far, axis=1, keepdims=True))
    assert (song.kind, song.is_novel) == ("song", True)
    assert (noise.kind, noise.is_novel) == ("noise", False)
    assert song.p_value == noise.p_value == 0.01


def test_no_songs_have_no_names() -> None:
    """An empty batch is answered with an empty list."""
    assert Catalogue(**parts()).assign(np.empty((0, 12), np.float32)) == []


def test_false_alarms_on_songs_of_the_bank() -> None:
    """Songs like those of the bank are called novel for about alpha of them when calibration was held out."""
    rng, centres = np.random.default_rng(0), unit(6, 16, 0)

    def sing(n: int) -> FloatArray:
        songs = np.repeat(centres, n // 6, axis=0) + 0.1 * rng.standard_normal((n, 16))
        return np.asarray(songs / np.linalg.norm(songs, axis=1, keepdims=True), np.float32)

    bank, held_out = sing(300), sing(600)
    made = {**parts(6, 1), "prototypes": centres, "type_index": np.arange(6), "bank": bank, "kinds": ["song"] * 6}
    made["calibration"] = Catalogue(**made).scores(held_out)
    alarms = np.mean([assignment.is_novel for assignment in Catalogue(**made).assign(sing(3_000))])
    # Both the 3000 songs and the 600 calibration scores vary.
    assert abs(alarms - 0.05) < 3 * np.sqrt(0.05 * 0.95 * (1 / 3_000 + 1 / 600))


def test_each_type_is_promised_its_own_false_alarm_rate() -> None:
    """With a tight type and a loose one, each is called novel for about alpha of its songs; together only the loose one is."""
    rng, centres = np.random.default_rng(1), unit(2, 16, 0)

    def sing(n: int, number: int) -> FloatArray:
        songs = centres[number] + (0.05, 0.15)[number] * rng.standard_normal((n, 16))
        return np.asarray(songs / np.linalg.norm(songs, axis=1, keepdims=True), np.float32)

    bank, held_out = (np.concatenate([sing(n, 0), sing(n, 1)]) for n in (100, 400))
    made = {**parts(2, 1), "prototypes": centres, "type_index": np.arange(2), "bank": bank, "kinds": ["song"] * 2}
    made["calibration"] = Catalogue(**made).scores(held_out)
    rates = {}
    for name, types in (("together", None), ("apart", Catalogue(**made).type_numbers(held_out))):
        catalogue = Catalogue(**made, calibration_type=types)
        rates[name] = [np.mean([a.is_novel for a in catalogue.assign(sing(2_000, number))]) for number in (0, 1)]
    assert rates["together"][0] < 0.01
    assert rates["together"][1] > 0.07
    assert np.abs(np.asarray(rates["apart"]) - 0.05).max() < 3 * np.sqrt(0.05 * 0.95 * (1 / 2_000 + 1 / 400))


def test_assignments_carry_their_embeddings_and_states() -> None:
    """Every assignment holds the embedding that it was made from; between the two levels a song is uncertain."""
    made = {**parts(), "calibration": np.linspace(0, 2, 99, dtype=np.float32), "kinds": ["song"] * 10}
    made["novelty"] = NoveltyConfig(alpha=0.3, uncertain_alpha=0.6)
    songs = unit(200, 12, 3)
    named = Catalogue(**made).assign(songs)
    np.testing.assert_array_equal([a.embedding for a in named], songs)
    for a in named:
        assert a.novelty == ("novel" if a.p_value <= 0.3 else "uncertain" if a.p_value <= 0.6 else "known")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no prototypes": ({"prototypes": np.empty((0, 12), np.float32)}, "prototypes is"),
    "one axis": ({"prototypes": unit(1, 10, 0)[0]}, "prototypes is"),
    "words": ({"prototypes": np.full((10, 12), "a")}, "prototypes is <U1"),
    "complex": ({"bank": np.ones((5, 12), complex)}, "bank is complex"),
    "no bank": ({"bank": np.empty((0, 12), np.float32)}, "bank is"),
    "other dimension": ({"bank": unit(9, 11, 0)}, "11"),
    "not unit": ({"prototypes": 2 * unit(10, 12, 0)}, "length 1"),
    "zeros": ({"bank": np.zeros((5, 12), np.float32)}, "length 1"),
    "NaN": ({"bank": np.full((5, 12), np.nan, np.float32)}, "length 1"),
    "too few indices": ({"type_index": np.zeros(9, np.int64)}, "9 type indices for 10"),
    "index too large": ({"type_index": np.full(10, 5)}, "5 to 5 for 5 types"),
    "index negative": ({"type_index": np.full(10, -1)}, "-1"),
    "index of floats": ({"type_index": np.zeros(10)}, "type_index is float64"),
    "index of two axes": ({"type_index": np.zeros((10, 1), np.int64)}, "type_index is"),
    "no calibration": ({"calibration": np.empty(0, np.float32)}, "calibration is"),
    "calibration of two axes": ({"calibration": np.zeros((4, 2), np.float32)}, "calibration is"),
    "calibration NaN": ({"calibration": np.array([np.nan], np.float32)}, "calibration score"),
}


@pytest.mark.parametrize(("change", "word"), BAD.values(), ids=BAD)
def test_bad_arrays_are_refused(change: dict[str, Any], word: str) -> None:
    """Arrays of another kind, size, length or range are a BundleError that names what is wrong."""
    with pytest.raises(BundleError, match=word) as caught:
        Catalogue(**{**parts(), **change})
    assert caught.value.reason == "TYPES_INVALID"
