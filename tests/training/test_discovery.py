"""From an encoder to types: what novelty is calibrated on is named and kept type by type."""

from collections.abc import Callable

import numpy as np

from bundles import random_encoder
from songcore.embed import Embedder
from songcore.stream import StreamConfig
from songtrain.datasets.songs import SongSet
from songtrain.discovery import discover_types
from songtrain.settings import TrainSettings


def test_calibration_is_named_as_serving_names(
    toy_songs: Callable[..., SongSet], stream: StreamConfig, tiny: TrainSettings
) -> None:
    """Every version of every held-out song has a score and a type, by which the catalogue compares the songs of that type."""
    songs = toy_songs(240, n_types=4)
    settings = tiny.model_copy(update={"novelty": tiny.novelty.model_copy(update={"min_type_songs": 20})})
    train, held_out = songs.subset(range(160)), songs.subset(range(160, 240))
    embedder = Embedder(random_encoder(), device="cpu")
    found = discover_types(train, held_out, embedder, settings, stream, np.random.default_rng(0))
    assert found.calibration.shape == found.calibration_type.shape == (80 * settings.novelty.n_others,)
    assert set(found.calibration_type) <= set(range(len(found.types)))
    for song in found.catalogue.assign(found.held_out_embeddings):
        own = found.calibration[found.calibration_type == int(song.type_id[1:]) - 1]
        if len(own) >= 20:
            expected = (1 + (own >= np.float32(song.novelty_score)).sum()) / (1 + len(own))
            assert song.p_value == expected
