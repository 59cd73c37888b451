"""What the help of train and synth says is what they do; what options of train, cluster and lab run say reaches the job."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from ray_marks import ray_marks
from songtrain.archive.run import ArchiveJob
from songtrain.commands.cluster import cluster
from songtrain.commands.lab import lab
from songtrain.commands.synth import synth
from songtrain.commands.train import train
from songtrain.lab.results import Row
from songtrain.lab.run import LabJob, LabRun
from songtrain.lab.systems import choose_systems
from songtrain.pipeline import Progress, TrainJob
from songtrain.settings import load_settings
from songtrain.synth.config import PRESETS, season_config

pytestmark = ray_marks(60)


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


FACTS: dict[str, Any] = {
    "n_songs": 30,
    "n_recordings": 3,
    "n_skipped": 1,
    "n_behind": 2,
    "n_types": 4,
    "novelty_auroc": 0.9,
    "nmi": 0.8,
    "ari": 0.7,
    "accuracy": 0.6,
    "bundle": "bundle",
}


def test_options_of_train_reach_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Preset, file, device and --overwrite are the job's; without --work its folder is gone when the bundle is there."""
    jobs: list[TrainJob] = []

    def trained(job: TrainJob, on_progress: Progress) -> dict[str, Any]:
        on_progress("training", 1, 1, "warm-up")
        job.work.mkdir(exist_ok=True)
        jobs.append(job)
        return FACTS

    monkeypatch.setattr("songtrain.pipeline.train_bundle", trained)
    app = typer.Typer()
    app.command()(train)
    data, out, file = tmp_path / "data", tmp_path / "bundle", tmp_path / "own.toml"
    file.write_text("[rounds]\nn_rounds = 1\n")
    base = ["--data", str(data), "--out", str(out)]
    options = ["--preset", "demo", "--config", str(file), "--device", "auto", "--address", "head:6379", "--overwrite"]
    told = CliRunner().invoke(app, [*base, *options])
    assert told.exit_code == 0, told.output
    assert "training 1/1 warm-up" in told.stderr
    assert told.stdout.splitlines() == [
        "2 annotations begin behind the end of their recordings",
        "4 song types in 30 songs of 3 recordings (1 skipped): bundle",
        "novelty: 0.900 AUROC on types left out in turn",
        "against the labels: NMI 0.800, ARI 0.700, accuracy 0.600",
        "report: bundle/report.html",
    ]
    kept = CliRunner().invoke(app, [*base, "--work", str(tmp_path / "work"), "--device", "cpu", "--json"])
    assert json.loads(kept.stdout.splitlines()[-1]) == FACTS
    first, second = jobs
    assert first == TrainJob(
        data=data,
        out=out,
        settings=load_settings(file, "demo"),
        work=tmp_path / ".bundle.work",
        created_by=first.created_by,
        now=first.now,
        address="head:6379",
        device="cuda" if torch.cuda.is_available() else "cpu",
        overwrite=True,
    )
    assert first.settings.warmup.n_epochs == 10
    assert (second.settings, second.device, second.overwrite) == (load_settings(None), "cpu", False)
    assert [job.work.exists() for job in jobs] == [False, True]


def test_options_of_cluster_reach_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option is the job's, and what is not given is as the job has it."""
    jobs: list[ArchiveJob] = []

    def clustered(job: ArchiveJob, on_shard: Any) -> dict[str, Any]:
        on_shard(1, 1)
        jobs.append(job)
        return {}

    monkeypatch.setattr("songtrain.archive.run.cluster_archive", clustered)
    app = typer.Typer()
    app.command()(cluster)
    folders = [tmp_path / name for name in ("data", "bundle", "out")]
    base = ["--data", str(folders[0]), "--bundle", str(folders[1]), "--out", str(folders[2]), "--json"]
    options = ["--clusters", "7", "--per-shard", "3", "--channel", "2", "--seed", "5", "--address", "head:6379"]
    for given in ([], [*options, "--min-songs", "4"]):
        shown = CliRunner().invoke(app, [*base, *given])
        assert shown.exit_code == 0, shown.output
    own = {"n_clusters": 7, "per_shard": 3, "channel": 2, "seed": 5, "address": "head:6379", "min_songs": 4}
    assert jobs == [ArchiveJob(*folders), ArchiveJob(*folders, **own)]  # type: ignore[arg-type]  # of several types


@pytest.mark.parametrize("seed", ["-1", "2147483648"])
def test_cluster_takes_no_seed_that_k_means_would_not(seed: str) -> None:
    """It is said at once, not when all recordings are embedded."""
    app = typer.Typer()
    app.command()(cluster)
    told = CliRunner().invoke(app, ["--data", ".", "--bundle", ".", "--out", ".", "--seed", seed])
    assert told.exit_code == 2
    assert "--seed" in told.stderr


def test_options_of_lab_run_reach_the_job_and_the_best_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every option is the job's; without --json the leaderboard is a line for each system, the best first."""
    jobs: list[LabJob] = []
    systems = choose_systems(["basenet-kmeans", "classical-floor", "chroma-dbscan"])
    scores = {"basenet-kmeans": (0.25, 0.5), "classical-floor": (0.5, 0.75)}
    rows = [
        Row(s.name, seed, "", "songs", 30, n_clusters=4, seconds=2.0, scores={"ari": ari + seed / 8, "nmi": nmi})
        for s in systems[:2]
        for ari, nmi in [scores[s.name]]
        for seed in (0, 1)
    ]
    rows += [Row("chroma-dbscan", seed, "", "songs", 30, error="no song [TOO_FEW_SONGS]") for seed in (0, 1)]

    def run(job: LabJob, on_row: Any) -> LabRun:
        jobs.append(job)
        on_row(rows[0], 1, 6)
        return LabRun(tuple(rows), 2, left_out="1 songs are silent")

    monkeypatch.setattr("songtrain.lab.run.run_laboratory", run)
    monkeypatch.setattr("songtrain.lab.report.write_lab_report", lambda out, _: out / "report.html")
    options = ["run", "--data", str(tmp_path), "--out", str(tmp_path / "lab"), "--seeds", "2", "--clusters", "4"]
    options += ["--systems", " basenet-kmeans, classical-floor,chroma-dbscan,"]
    more = ["--segmenter", "syllable", "--segmentation", "annotated", "--channel", "2", "--max-minutes", "0.5"]
    more += ["--address", "head:6379", "--rows-per-gpu", "3"]
    told = CliRunner().invoke(lab, [*options, *more])
    assert told.exit_code == 0, told.output
    assert jobs == [
        LabJob(
            data=tmp_path,
            out=tmp_path / "lab",
            systems=systems,
            n_seeds=2,
            n_clusters=4,
            max_minutes=0.5,
            segmenter="syllable",
            segmentation="annotated",
            channel=2,
            address="head:6379",
            rows_per_gpu=3,
        )
    ]
    assert told.stdout.splitlines() == [
        "classical-floor    ARI 0.562 ± 0.088, NMI 0.750 ± 0.000, 4 clusters, 2.0 s",
        "basenet-kmeans     ARI 0.312 ± 0.088, NMI 0.500 ± 0.000, 4 clusters, 2.0 s",
        "chroma-dbscan      0 of 2 runs worked, – clusters, – s",
        f"6 runs, 2 of them from before, 2 failed: {tmp_path / 'lab' / 'report.html'}",
    ]
    assert "1/6 basenet-kmeans, seed 0: 4 clusters, NMI 0.500, ARI 0.250, 2 s" in told.stderr
    assert "warning: 1 songs are silent" in told.stderr
    CliRunner().invoke(lab, options)
    assert jobs[1] == LabJob(tmp_path, tmp_path / "lab", systems, n_seeds=2, n_clusters=4)
