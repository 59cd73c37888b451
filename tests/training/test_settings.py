"""Run parameters: defaults stand, wrong files are refused with the key's name."""

from pathlib import Path

import pytest

from songcore.errors import ConfigError
from songcore.novelty import NoveltyConfig
from songtrain.recluster.settings import load_recluster_settings
from songtrain.settings import PRESETS, load_settings
from songtrain.synth.config import season_config


def test_file_changes_only_what_it_names(tmp_path: Path) -> None:
    """A TOML file replaces its own keys and leaves the preset's others."""
    file = tmp_path / "run.toml"
    file.write_text("seed = 7\n[rounds]\nn_rounds = 1\n")
    settings = load_settings(file, "demo")
    assert settings.seed == 7
    assert settings.rounds.n_rounds == 1
    assert settings.rounds.n_epochs == PRESETS["demo"].rounds.n_epochs
    assert settings.warmup == PRESETS["demo"].warmup


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[rounds]\nn_round = 1\n", r"rounds.n_round is no setting; did you mean rounds.n_rounds\?"),
        ("n_workers = 2\n", r"n_workers is no setting; did you mean run.n_workers\?"),
        ("zzz = 3\n", "zzz is no setting; expected name, seed, data"),
        ("name = 'A b'\n", "name 'A b'; expected small letters, digits, dots and hyphens"),
        ("[rounds]\nmargin_degrees = 200\n", "rounds.margin_degrees"),
        ("seed = 4294967296\n", "seed"),
        ("[warmup]\nn_epochs = 0\n[rounds]\nn_rounds = 0\n", "nothing would be trained"),
        ("seed = ", "not TOML"),
    ],
)
def test_wrong_file_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    """An unknown key, a value out of range and broken TOML raise ConfigError that says which."""
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=named):
        load_settings(file)


def test_a_misspelt_name_of_a_reclustering_comes_with_the_right_one(tmp_path: Path) -> None:
    """As that of a training does."""
    file = tmp_path / "run.toml"
    file.write_text("[gate]\nmin_reviews = 1\n")
    with pytest.raises(ConfigError, match=r"gate.min_reviews is no setting; did you mean gate.min_review"):
        load_recluster_settings(file)


def test_a_seed_that_no_part_would_take_is_refused_at_once(tmp_path: Path) -> None:
    """Not by the first worker that draws with it."""
    file = tmp_path / "run.toml"
    file.write_text("seed = 4294967295\n")
    assert load_settings(file).seed == load_recluster_settings(file).seed == 2**32 - 1
    file.write_text("seed = 4294967296\n")
    with pytest.raises(ConfigError, match="seed"):
        load_recluster_settings(file)


def test_a_misspelt_field_of_a_season_comes_with_the_right_one() -> None:
    """That of `synth --set`."""
    with pytest.raises(ConfigError, match="n_singer is no setting; did you mean n_singers") as refused:
        season_config("demo", n_singer="3")
    assert refused.value.reason == "SEASON_INVALID"


def test_what_decides_novelty_travels_with_the_bundle(tmp_path: Path) -> None:
    """Every parameter that serving needs is a setting of training, with the same default, and is handed over as set."""
    file = tmp_path / "run.toml"
    file.write_text("[novelty]\nalpha = 0.02\nuncertain_alpha = 0.2\nmin_type_songs = 7\n")
    served = load_settings(file).novelty.served()
    assert served == NoveltyConfig(alpha=0.02, uncertain_alpha=0.2, min_type_songs=7)
    assert PRESETS["default"].novelty.served() == NoveltyConfig()


def test_unknown_preset_and_missing_file_are_refused(tmp_path: Path) -> None:
    """A preset nobody wrote and a file that is not there raise ConfigError."""
    with pytest.raises(ConfigError, match="choose one of"):
        load_settings(None, "fastest")
    with pytest.raises(ConfigError, match="cannot read"):
        load_settings(tmp_path / "absent.toml")
