"""The ablation's declarations: every row is the recipe but for what it names, in terms that training takes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from songcore.errors import ConfigError
from songcore.stream import StreamConfig
from songtrain.datasets.songs import SongSet
from songtrain.lab.ledger import plan_trial
from songtrain.lab.parts import build, describe
from songtrain.lab.systems import SYSTEMS, part, read_systems
from songtrain.lab.tasks import _shared
from songtrain.settings import TrainSettings, change_settings

FILE = Path(__file__).parents[2] / "bench" / "ablation.toml"
ROWS = read_systems(FILE.read_text(encoding="utf-8"), FILE.name)


def test_rows_are_all_different(stream: StreamConfig) -> None:
    """No two rows, and no row and the recipe itself, describe the same computation."""
    described = {describe(system, stream) for system in ROWS.values()}
    assert len(described) == len(ROWS)
    assert describe(SYSTEMS["recipe"], stream) not in described


@pytest.mark.parametrize("name", ROWS)
def test_changes_are_ones_that_training_knows(name: str) -> None:
    """What a row changes of the settings is valid, and does change them."""
    encoder = ROWS[name].encoder
    assert encoder is not None
    changes = build("encoder", encoder).get_params()["changes"]
    if changes is not None:
        assert change_settings(TrainSettings(), changes, name) != TrainSettings()


def test_rows_that_differ_in_the_clusterer_alone_share_their_points(
    toy_songs: Callable[..., SongSet], stream: StreamConfig
) -> None:
    """Nested changes can be told apart: the recipe's embeddings are made once for it and k-means, others for each row."""
    songs = toy_songs(8)
    systems = (SYSTEMS["recipe"], ROWS["kmeans"], ROWS["no-rounds"], ROWS["softmax"])
    shared = [_shared(plan_trial(system, 0, songs, "songs", stream)) for system in systems]
    assert shared[0] == shared[1]
    assert len(set(shared)) == 3


def test_wrong_change_is_named() -> None:
    """A setting that there is not is reported with where it was asked for."""
    with pytest.raises(ConfigError, match=r"self-labelled: changes: rounds\.n_round"):
        build("encoder", part("self-labelled", changes={"rounds": {"n_round": 1}}))
