"""What is wrong with settings, in words: pydantic names the rule that broke, a person wants to know what would be right."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from songcore.names import BUNDLE_NAME, NAME

__all__ = ["did_you_mean", "has_unknown_setting", "near_names", "setting_problems"]

_IN_WORDS = {
    f"^{NAME}$": "small letters, digits and hyphens, at most 63",
    f"^{BUNDLE_NAME}$": "small letters, digits, dots and hyphens, at most 63",
}
_EXPECTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}
"""In words, by pydantic's name of what is wrong; what is in braces is its own."""
_MAX_LISTED = 30
_UNKNOWN = "extra_forbidden"


def setting_problems(
    error: ValidationError,
    model: type[BaseModel],
    *,
    whole: str = "settings",
    listed_in: str = "",
    missing: Callable[[str], str] = lambda _: "",
) -> str:
    """Return all that is wrong with what should have been a ``model``, "; " between: each setting, and what was expected.

    A setting is named by its keys with dots between, and ``whole`` stands for all of them together, empty where the caller
    has named them. A name that is no setting
    comes with those it may have been meant for, or else with all there are, or the page ``listed_in`` where those are many.
    ``missing`` says of a setting how to give it.
    """
    told = (_told(problem, model, whole, listed_in, missing) for problem in error.errors(include_url=False))
    return "; ".join(told)


def has_unknown_setting(error: ValidationError) -> bool:
    """Return whether a name was given that is no setting."""
    return any(problem["type"] == _UNKNOWN for problem in error.errors(include_url=False))


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three of the ``known`` names that are like ``name``, the nearest first."""
    return get_close_matches(name.casefold().replace("-", "_"), list(known), n=3)


def did_you_mean(names: Sequence[str]) -> str:
    """Return the question after these names, with what parts it from what was found; empty where there are none."""
    return f"; did you mean {_either(names)}?" if names else ""


def _told(
    problem: Mapping[str, Any], model: type[BaseModel], whole: str, listed_in: str, missing: Callable[[str], str]
) -> str:
    where = ".".join(map(str, problem["loc"])) or whole
    match problem["type"]:
        case "extra_forbidden":
            return f"{where} is no setting{_instead(problem['loc'], model, listed_in)}"
        case "missing":
            how = missing(where)
            return f"{where} is missing{how and f': {how}'}"
        case "string_pattern_mismatch" if words := _IN_WORDS.get(problem["ctx"]["pattern"]):
            return f"{where} {problem['input']!r}; expected {words}"
    if words := _EXPECTED.get(problem["type"]):
        bounds = {name: str(value).removesuffix(".0") for name, value in problem.get("ctx", {}).items()}
        return f"{where} {problem['input']!r}; expected {words.format(**bounds)}"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}".removeprefix(": ")


def _instead(place: tuple[int | str, ...], model: type[BaseModel], listed_in: str) -> str:
    """Return what to write in the place of a name that is no setting, with what parts it from the name."""
    *tables, name = map(str, place)
    before = "".join(f"{table}." for table in tables)
    beside = _table(model, tables)
    if beside is None:
        return ""
    near = [before + one for one in near_names(name, beside.model_fields)]
    # Or the right name in the wrong table.
    near = near or [one for one in _all_names(model) if one.rpartition(".")[2] == name]
    if near:
        return did_you_mean(near)
    if len(beside.model_fields) <= _MAX_LISTED:
        return f"; expected {_either(list(beside.model_fields))}"
    return f"; {listed_in} lists those there are" if listed_in else ""


def _table(model: type[BaseModel], keys: list[str]) -> type[BaseModel] | None:
    """Return the model of the table below these keys, None where that cannot be told."""
    for key in keys:
        field = model.model_fields.get(key)
        inner = None if field is None else _model_in(field.annotation)
        if inner is None:
            return None
        model = inner
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    choices = get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)
    found = [one for one in choices if isinstance(one, type) and issubclass(one, BaseModel)]
    return found[0] if len(found) == 1 else None


def _all_names(model: type[BaseModel], before: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        yield from [before + name] if inner is None else _all_names(inner, f"{before}{name}.")


def _either(names: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
