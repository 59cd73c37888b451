"""What is wrong with settings is said in words: what was found, and what was expected in its place."""

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from songcore.names import BUNDLE_NAME, NAME
from songcore.setting_problems import has_unknown_setting, setting_problems


class Rounds(BaseModel):
    """A table in the settings."""

    model_config = ConfigDict(extra="forbid")

    n_rounds: int = 3
    learning_rate: float = Field(default=0.1, gt=0)


class Settings(BaseModel):
    """Settings of a program."""

    model_config = ConfigDict(extra="forbid")

    data_dir: str
    station: str = Field(default="north", pattern=f"^{NAME}$")
    model: str = Field(default="songs", pattern=f"^{BUNDLE_NAME}$")
    rounds: Rounds | None = None
    parts: list[Rounds] = []

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        if self.data_dir == "/":
            raise ValueError("the root is no place for data")
        return self


def problem(given: dict[str, Any], **options: Any) -> str:
    """Return what is said of settings that cannot be."""
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate(given)
    assert has_unknown_setting(refused.value) == ("is no setting" in setting_problems(refused.value, Settings))
    return setting_problems(refused.value, Settings, **options)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"statoin": "x"}, "statoin is no setting; did you mean station?"),
        ({"Station": "x"}, "Station is no setting; did you mean station?"),
        ({"rounds": {"n_round": 1}}, "rounds.n_round is no setting; did you mean rounds.n_rounds?"),
        ({"learning_rate": 1}, "learning_rate is no setting; did you mean rounds.learning_rate?"),
        ({"speed": 1}, "speed is no setting; expected data_dir, station, model, rounds or parts"),
        ({"rounds": {"speed": 1}}, "rounds.speed is no setting; expected n_rounds or learning_rate"),
        ({"parts": [{"speed": 1}]}, "parts.0.speed is no setting"),
        ({"station": "Meadow 1"}, "station 'Meadow 1'; expected small letters, digits and hyphens, at most 63"),
        ({"model": "A"}, "model 'A'; expected small letters, digits, dots and hyphens, at most 63"),
        ({"rounds": {"learning_rate": 0}}, "rounds.learning_rate 0; expected more than 0"),
        ({"rounds": {"learning_rate": "fast"}}, "rounds.learning_rate 'fast'; expected a number"),
        ({"rounds": {"n_rounds": "many"}}, "rounds.n_rounds 'many'; expected a whole number"),
        ({"rounds": {"n_rounds": 1.5}}, "rounds.n_rounds 1.5; expected a whole number"),
        ({"data_dir": "/"}, "settings: the root is no place for data"),
        (
            {"modell": "x", "station": "é"},
            "station 'é'; expected small letters, digits and hyphens, at most 63; modell is no setting; did you mean model?",
        ),
    ],
)
def test_a_problem_says_what_was_expected(given: dict[str, Any], told: str) -> None:
    """The names that are like an unknown one, that name in the right table, or all there are; a name's rule in words."""
    assert problem({"data_dir": "d", **given}) == told


def test_all_together_are_named_once() -> None:
    """Where the caller has named them already, only the rule is said."""
    assert problem({"data_dir": "/"}, whole="") == "the root is no place for data"


def test_what_is_missing_comes_with_how_to_give_it() -> None:
    """Where the caller knows it."""
    assert problem({}) == "data_dir is missing"
    assert problem({}, missing=lambda name: f"give --{name}") == "data_dir is missing: give --data_dir"


def test_a_page_stands_for_many_names() -> None:
    """More than thirty are not listed; the page that lists them is named."""
    fields: Any = {f"level_{number}": (int, 0) for number in range(31)}
    many = create_model("Many", __config__=ConfigDict(extra="forbid"), **fields)
    with pytest.raises(ValidationError) as refused:
        many.model_validate({"zzz": 1})
    assert setting_problems(refused.value, many) == "zzz is no setting"
    assert (
        setting_problems(refused.value, many, listed_in="docs/a.md")
        == "zzz is no setting; docs/a.md lists those there are"
    )
