"""What the help of train and synth says is what they do."""

import inspect

import pytest
import typer
from typer.testing import CliRunner

from songtrain.commands.synth import synth
from songtrain.commands.train import train
from songtrain.synth.config import PRESETS, season_config


def help_of(command: object, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a command's help as one line of plain words."""
    monkeypatch.setenv("COLUMNS", "300")
    app = typer.Typer(rich_markup_mode="markdown")  # as songcore.cli has it
    app.command()(command)  # type: ignore[type-var]  # any function
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    return " ".join(shown.stdout.replace("│", " ").split())


def test_train_says_that_any_killed_run_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The help promises to go on without condition, and names the folder in which a run without --work is kept."""
    text = help_of(train, monkeypatch)
    assert "A run that was killed goes on where it was when the same command is started again." in text
    assert "[default: .OUT.work beside --out, removed when done]" in text
    assert "With --work" not in text


def test_synth_names_its_default_preset_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default is one of the presets that are listed, and the season it gives is that of the library's default."""
    default = inspect.signature(synth).parameters["preset"].default
    text = help_of(synth, monkeypatch)
    assert f"demo, easy, hard, or default, which is {default}. [default: {default}]" in text
    assert default in {"demo", "easy", "hard"} <= set(PRESETS)
    assert season_config(default) == season_config()
