"""Training on a real local Ray: bad files skipped, features cached, killed workers and drivers resumed, a bundle made."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ray_marks import ray_marks
from songcore.audio import open_recording
from songcore.bundle import load_bundle
from songcore.stream import StreamConfig
from songtrain.cluster import ray_session
from songtrain.datasets.distributed import extract_features
from songtrain.datasets.folder import RecordingFile
from songtrain.datasets.songs import SongSet
from songtrain.evaluation.collapse import CollapseError
from songtrain.loop.checkpoint import load_state
from songtrain.loop.distributed import train_encoder
from songtrain.loop.schedule import plan_epochs
from songtrain.pipeline import TrainJob, train_bundle
from songtrain.settings import TrainSettings, load_settings
from songtrain.synth.config import season_config
from songtrain.synth.write import simulate

pytestmark = ray_marks(600)

TINY_TOML = """
[encoder]
width = 4
n_features = 32
dimension = 16
[warmup]
n_epochs = 6
neighbours_from_epoch = 3
[rounds]
n_rounds = 1
n_epochs = 2
[run]
batch_size = 16
precision = "float32"
checkpoint_every_s = 0
[data]
min_songs = 10
"""


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """Hold one Ray of this machine for the tests of this file."""
    with ray_session(store_bytes=128 * 2**20):
        yield


@pytest.mark.usefixtures("ray_here")
def test_bad_recording_is_skipped_and_the_rest_cached(stream: StreamConfig, tmp_path: Path) -> None:
    """Text named .wav and a silent file do not stop the others; a second run reads all of these from disk."""
    rng = np.random.default_rng(0)
    tone = 0.3 * np.sin(2 * np.pi * 3000 * np.arange(24_000) / 24_000)
    for name in ("a", "b"):
        samples = rng.normal(0, 1e-3, 24_000 * 6)
        samples[60_000:84_000] += tone
        soundfile.write(tmp_path / f"{name}.wav", samples, 24_000)
    soundfile.write(tmp_path / "silent.wav", np.zeros(48_000), 24_000)
    (tmp_path / "text.wav").write_text("this is no sound")
    files = [RecordingFile(path.name, path, None) for path in sorted(tmp_path.glob("*.wav"))]
    first = extract_features(files, stream, tmp_path / "cache")
    assert [(s.recording, s.reason) for s in first.skipped] == [("text.wav", "NOT_AUDIO")]
    assert sorted(first.songs.recordings) == ["a.wav", "b.wav"]
    assert first.n_cached == 0
    again = extract_features(files, stream, tmp_path / "cache")
    assert again.n_cached == 3
    assert np.array_equal(again.songs.frames, first.songs.frames)


@pytest.mark.usefixtures("ray_here")
def test_short_epochs_share_a_checkpoint_and_one_follows_the_last(
    toy_songs: Callable[..., SongSet], tiny: TrainSettings, stream: StreamConfig, tmp_path: Path
) -> None:
    """Of three epochs within `checkpoint_every_s` only the last leaves a checkpoint, and all workers agree on it."""
    run = tiny.run.model_copy(update={"n_workers": 2, "threads_per_worker": 1, "checkpoint_every_s": 3600})
    trained = train_encoder(toy_songs(96), tiny.model_copy(update={"run": run}), stream, tmp_path)
    assert len(trained.history) == 3
    (kept,) = tmp_path.glob("checkpoints/*/checkpoint_manager_snapshot.json")
    assert [one["metrics"]["epoch"] for one in json.loads(kept.read_text())["checkpoint_results"]] == [3]


@pytest.mark.usefixtures("ray_here")
def test_killed_worker_is_replaced_and_training_goes_on(
    toy_songs: Callable[..., SongSet], tiny: TrainSettings, stream: StreamConfig, tmp_path: Path
) -> None:
    """After SIGKILL of the worker in the middle of a run another one takes up its last checkpoint, and no epoch is missing."""
    pids: list[int] = []

    def kill_once(event: dict[str, Any]) -> None:
        if event["epoch"] == 1 and not pids:
            pids.append(event["pid"])
            os.kill(event["pid"], signal.SIGKILL)

    settings = tiny.model_copy(update={"warmup": tiny.warmup.model_copy(update={"n_epochs": 4})})
    trained = train_encoder(toy_songs(96), settings, stream, tmp_path, on_event=kill_once)
    assert len(trained.history) == len(plan_epochs(settings))
    assert len({row["pid"] for row in trained.history}) == 2
    assert trained.labels.shape == (1, 96)


@pytest.mark.usefixtures("ray_here")
def test_one_of_two_workers_killed_and_one_worker_goes_on(
    toy_songs: Callable[..., SongSet], tiny: TrainSettings, stream: StreamConfig, tmp_path: Path
) -> None:
    """After SIGKILL of the first of two workers two go on; a later run of one worker takes up the same checkpoint."""
    pids: list[int] = []

    def kill_once(event: dict[str, Any]) -> None:
        if event["epoch"] == 1 and not pids:
            pids.append(event["pid"])
            os.kill(event["pid"], signal.SIGKILL)

    def plan(n_workers: int) -> TrainSettings:
        run = tiny.run.model_copy(update={"n_workers": n_workers, "threads_per_worker": 1})
        return tiny.model_copy(update={"warmup": tiny.warmup.model_copy(update={"n_epochs": 4}), "run": run})

    songs = toy_songs(96)
    trained = train_encoder(songs, plan(2), stream, tmp_path, on_event=kill_once)
    assert [row["n_workers"] for row in trained.history] == [2] * 5
    assert [row["n_songs"] for row in trained.history] == [96] * 5
    assert len({row["pid"] for row in trained.history}) == 2
    again = train_encoder(songs, plan(1), stream, tmp_path)
    assert again.history == trained.history, "a finished run is not trained anew for another number of workers"


@pytest.mark.usefixtures("ray_here")
def test_training_that_cannot_succeed_ends_by_name(
    toy_songs: Callable[..., SongSet], tiny: TrainSettings, stream: StreamConfig, tmp_path: Path
) -> None:
    """When a round finds no types the checkpoint of the warm-up is no result, and no worker tries again."""
    clusters = tiny.clusters.model_copy(update={"min_cluster_size": 60})
    events: list[dict[str, Any]] = []
    with pytest.raises(CollapseError, match=r"clusters.min_cluster_size") as caught:
        train_encoder(
            toy_songs(96), tiny.model_copy(update={"clusters": clusters}), stream, tmp_path, on_event=events.append
        )
    assert caught.value.reason == "NO_TYPES"
    assert [event["stage"] for event in events] == ["warmup", "warmup"]
    assert list(tmp_path.glob("checkpoints/*/checkpoint_*/state.safetensors"))


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small simulated season."""
    folder = tmp_path_factory.mktemp("seasons") / "season"
    simulate(
        season_config(
            "demo", n_songs=72, n_types=6, zipf_exponent=0.0, n_singers=2, recording_s=40.0, snr_db=(20.0, 30.0)
        ),
        folder,
    )
    return folder


@pytest.mark.usefixtures("ray_here", "no_umap")
def test_bundle_and_report_appear_together(season: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends while its report is drawn has left no bundle in the way, and the same one goes on to both."""
    (tmp_path / "tiny.toml").write_text(TINY_TOML)
    settings = load_settings(tmp_path / "tiny.toml")
    now = datetime(2026, 6, 1, tzinfo=UTC)
    job = TrainJob(season, tmp_path / "bundle", settings, tmp_path / "work", "a test", now)

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("songtrain.pipeline.write_report", end)
        with pytest.raises(KeyboardInterrupt):
            train_bundle(job)
    assert not job.out.exists()
    assert train_bundle(job)["digest"] == load_bundle(job.out, device="cpu").digest
    assert "T0001" in (job.out / "report.html").read_text()


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize("damage", ["half a list", "half a checkpoint"])
def test_a_run_goes_on_from_what_is_whole(
    toy_songs: Callable[..., SongSet], tiny: TrainSettings, stream: StreamConfig, tmp_path: Path, damage: str
) -> None:
    """As after a kill in the middle of a file: from the newest checkpoint that is whole, to the end of the epochs."""
    first = train_encoder(toy_songs(96), tiny, stream, tmp_path)
    (folder,) = tmp_path.glob("checkpoints/*/")
    newest = max(folder.glob("checkpoint_*/")) / "state.safetensors"
    damaged = folder / "checkpoint_manager_snapshot.json" if damage == "half a list" else newest
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    again = train_encoder(toy_songs(96), tiny, stream, tmp_path)
    n_kept = 3 if damage == "half a list" else 2
    assert again.history[:n_kept] == first.history[:n_kept]
    assert [row["stage"] for row in again.history] == ["warmup", "warmup", "round"]
    assert (again.labels == first.labels).all()


def test_killed_command_goes_on_and_ends_in_a_bundle(season: Path, tmp_path: Path) -> None:
    """``songstream train`` killed after its first checkpoint goes on with the same --work and writes a bundle that loads."""
    config, work, out = tmp_path / "tiny.toml", tmp_path / "work", tmp_path / "bundle"
    config.write_text(TINY_TOML)
    command = [
        sys.executable,
        "-c",
        "from songcore.cli import main; main()",
        "train",
        "--data",
        str(season),
        "--out",
        str(out),
    ]
    command += ["--config", str(config), "--work", str(work), "--device", "cpu", "--json"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        deadline = time.monotonic() + 300
        # The file that Ray resumes from names a checkpoint once it is whole.
        while (
            not any("checkpoint_2" in file.read_text() for file in work.glob("checkpoints/*/*.json"))
            and time.monotonic() < deadline
        ):
            assert killed.poll() is None, "the run ended before its first checkpoint"
            time.sleep(0.05)
        killed.kill()
    assert not out.exists()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    told = re.findall(r"^training (\d+)/(\d+) round \d", done.stderr, re.MULTILINE)
    assert told, "a log has a line for every epoch"
    assert told[-1][0] == told[-1][1]
    newest = max(work.glob("checkpoints/*/checkpoint_*/*.safetensors"), key=lambda path: path.parent.name)
    assert len({row["pid"] for row in load_state(newest.parent)[1]}) == 2
    assert result["n_songs"] == 72
    assert result["nmi"] > 2 * result["random_nmi"]
    bundle = load_bundle(out, device="cpu")
    assert [t.id for t in bundle.types] == [f"T{n + 1:04d}" for n in range(result["n_types"])]
    sizes = [t.n_songs for t in bundle.types]
    assert sizes == sorted(sizes, reverse=True)
    report = (out / "report.html").read_text()
    assert "T0001" in report
    assert not re.search(r'(src|href)="(?!data:|#)', report), "the page must need nothing beside it"
    with open_recording(season / "recordings" / min(p.name for p in (season / "recordings").iterdir())) as recording:
        songs = bundle.new_stream(recording.sample_rate_hz)
        found = [song for block in recording.blocks() for song in songs.push(block)] + songs.finish()
    assert {a.type_id for a in bundle.classify(found)} <= {t.id for t in bundle.types}
