"""Deployment settings: their order, their limits, and that all are documented."""

from pathlib import Path
from typing import Any

import pytest

from songcore.errors import ConfigError
from songserve.settings import ENVIRONMENT_PREFIX, ServeSettings, load_settings

DOCS = Path(__file__).resolve().parents[2] / "docs"
NEEDED = {"bundle": Path("b"), "data_dir": Path("d")}


def test_the_command_line_wins_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each source fills in what the one before leaves open."""
    file = tmp_path / "serve.toml"
    file.write_text('listen = "127.0.0.1:1"\nmax_streams = 2\nmax_batch = 3\n')
    monkeypatch.setenv("SONGSTREAM_SERVE_LISTEN", "127.0.0.1:10")
    monkeypatch.setenv("SONGSTREAM_SERVE_MAX_STREAMS", "20")
    settings = load_settings({**NEEDED, "listen": "127.0.0.1:100", "device": None}, file=file)
    assert (settings.listen_address, settings.max_streams, settings.max_batch) == (("127.0.0.1", 100), 20, 3)
    assert settings.device == "auto"


@pytest.mark.parametrize(
    "given",
    [
        {"listen": "127.0.0.1"},
        {"listen": "127.0.0.1:70000"},
        {"listen": "0.0.0.0:50051"},
        {"listen": "[::]:50051"},
        {"listen": "example.org:50051"},
        {"max_streams": 0},
        {"device": "tpu"},
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any]) -> None:
    """Malformed, out of range, and unencrypted where others can reach it."""
    with pytest.raises(ConfigError) as refused:
        load_settings({**NEEDED, **given})
    assert refused.value.reason == "SETTING_INVALID"


@pytest.mark.parametrize(
    ("listen", "insecure"), [("127.0.0.1:0", False), ("[::1]:0", False), ("localhost:0", False), ("0.0.0.0:0", True)]
)
def test_loopback_is_free_and_the_rest_is_on_purpose(listen: str, *, insecure: bool) -> None:
    """An address that others can reach is taken only with insecure."""
    assert load_settings({**NEEDED, "listen": listen, "insecure": insecure}).listen == listen


def test_a_misspelt_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable with the prefix that is no setting is named."""
    monkeypatch.setenv(ENVIRONMENT_PREFIX + "LISTN", "x")
    expected = f"{ENVIRONMENT_PREFIX}LISTN in the environment is no setting; did you mean {ENVIRONMENT_PREFIX}LISTEN"
    with pytest.raises(ConfigError, match=expected) as refused:
        load_settings(NEEDED)
    assert refused.value.reason == "SETTING_UNKNOWN"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("clipz = 1", "clipz is no setting; did you mean clips?"),
        ("nonsense = 1", "nonsense is no setting; docs/operating.md lists those there are"),
    ],
)
def test_a_misspelt_name_in_the_file_is_an_error(tmp_path: Path, content: str, told: str) -> None:
    """It has the reason that it has in the environment, and the names that are like it."""
    file = tmp_path / "serve.toml"
    file.write_text(content)
    with pytest.raises(ConfigError) as refused:
        load_settings(NEEDED, file=file)
    assert (refused.value.reason, told in str(refused.value)) == ("SETTING_UNKNOWN", True), refused.value


def test_what_has_to_be_given_says_how() -> None:
    """The option, the variable and the name in the file."""
    with pytest.raises(ConfigError) as refused:
        load_settings({"data_dir": Path("d")})
    told = "bundle is missing: give --bundle, SONGSTREAM_SERVE_BUNDLE, or bundle in the --config file"
    assert str(refused.value) == f"the settings cannot be used: {told}"
    assert refused.value.reason == "SETTING_INVALID"


@pytest.mark.parametrize("content", ["listen = [", None])
def test_a_bad_file_is_an_error(tmp_path: Path, content: str | None) -> None:
    """Broken TOML and a missing file are explained."""
    file = tmp_path / "serve.toml"
    if content:
        file.write_text(content)
    with pytest.raises(ConfigError) as refused:
        load_settings(NEEDED, file=file)
    assert refused.value.reason == "SETTING_INVALID"


def test_every_setting_is_documented() -> None:
    """docs/operating.md has a row for each setting with its default."""
    text = (DOCS / "operating.md").read_text()
    for name, field in ServeSettings.model_fields.items():
        default = (
            ""
            if field.is_required()
            else str(field.default).lower()
            if field.default in {True, False}
            else field.default
        )
        assert f"| `{name}` | {default} |" in text, f"{name} with default {default} is not in docs/operating.md"
