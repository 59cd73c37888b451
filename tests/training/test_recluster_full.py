"""Reclustering with training: the encoder learns on, new songs found types, and everybody else keeps their id."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from ipaddress import IPv4Address
from pathlib import Path
from socket import ntohl
from threading import Thread
from time import monotonic, sleep

import numpy as np
import pytest

from bundles import bundle_parts
from ray_marks import ray_marks
from reclusterings import candidate, job
from seasons import Season, decide, fill_store
from songcore.arrays import FloatArray, IntArray
from songcore.bundle import load_bundle, read_training, write_bundle
from songcore.decisions import Mark, Split, fold
from songcore.errors import BundleError, ConfigError
from songcore.manifest import EncoderInfo
from songcore.presets import STREAMS
from songtrain.cluster import ray_session
from songtrain.clusterers.prototypes import make_prototypes
from songtrain.datasets.songs import SongSet
from songtrain.export.training_state import (
    MAX_BACKGROUND,
    SONGS_PER_TYPE,
    TrainingState,
    chosen_songs,
    pack_training,
    unpack_training,
)
from songtrain.loop.distributed import train_encoder
from songtrain.pipeline import serve_trained
from songtrain.recluster.full import learning_settings, recluster_all
from songtrain.recluster.job import recluster
from songtrain.recluster.run_folder import CancelledError, RunState
from songtrain.recluster.scheduling import until_stopped
from songtrain.recluster.settings import FullSettings, ReclusterSettings
from songtrain.recluster.songs import NamedSongs, RunInput, RunSongs
from songtrain.settings import PRESETS, TrainSettings, change_settings

pytestmark = ray_marks(600)

STREAM = STREAMS["song"]
N_KNOWN = 5
NOW = datetime(2026, 6, 1, tzinfo=UTC)
CONFIG = """
full = {warmup_epochs = 1, n_rounds = 1, round_epochs = 1}
gate = {min_stability = 0.9}
"""
SETTINGS = ReclusterSettings.model_validate(tomllib.loads(CONFIG))
N_EACH = 12
"""Of so many clips one is deleted while they are copied."""


def kinds(songs: SongSet) -> IntArray:
    """Return the true type of every toy song."""
    return np.asarray([int(label.removeprefix("type")) for label in songs.labels], np.int64)


@pytest.fixture(scope="module")
def trained(toy_songs: Callable[..., SongSet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle that was trained on five of six types of toy songs, and that can be taken up again."""
    folder = tmp_path_factory.mktemp("trained")
    songs = toy_songs(144)
    songs = songs.subset(np.flatnonzero(kinds(songs) < N_KNOWN))
    tiny = {
        "encoder": {"width": 4, "n_features": 32, "dimension": 16, "n_steady_songs": 32, "n_modulation": 16},
        "warmup": {"n_epochs": 2, "neighbours_from_epoch": 1},
        "rounds": {"n_rounds": 1, "n_epochs": 1},
        "run": {"batch_size": 32, "precision": "float32", "checkpoint_every_s": 0},
        "novelty": {"n_others": 1},
    }
    settings = change_settings(TrainSettings(), tiny, "a test")
    with ray_session(store_bytes=128 * 2**20):
        learned = train_encoder(songs, settings, STREAM, folder / "work")
    served = serve_trained(learned, songs, settings, STREAM)
    embeddings, labels = served.embedder.embed(songs.all_features()), kinds(songs)
    prototypes, type_index = make_prototypes(embeddings, labels, max_per_type=2, seed=0)
    chosen = chosen_songs(labels, 0)
    parts = bundle_parts()
    ids = [one.id for one in parts.types]
    state = TrainingState(
        settings, learned.encoder.state_dict(), songs.subset(chosen), tuple(ids[k] for k in labels[chosen].tolist())
    )
    made = replace(
        parts,
        stream=STREAM,
        encoder=served.model,
        encoder_info=EncoderInfo(
            architecture="light", n_parameters=1, dimension=embeddings.shape[1], trained_on="toys"
        ),
        prototypes=prototypes,
        type_index=type_index,
        bank=embeddings[::2],
        calibration=np.linspace(0.0, 0.5, 40, dtype=np.float32),
        training=pack_training(state),
    )
    write_bundle(folder / "bundle", made)
    return folder / "bundle"


def toys(songs: SongSet) -> list[FloatArray]:
    """Return the features of all songs."""
    return songs.all_features()


@pytest.fixture(scope="module")
def retrained(
    trained: Path, toy_songs: Callable[..., SongSet], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Season, RunState]:
    """Return a season without songs of one type, with decisions, and how its undisturbed full retraining ended.

    Some clips were deleted between the look into the store and the copy of the features.
    """
    songs = toy_songs(150, seed=0)
    songs = songs.subset(np.flatnonzero(kinds(songs) != 3))
    truth = kinds(songs).tolist()
    folder = tmp_path_factory.mktemp("retrained") / "data"
    season = fill_store(folder, load_bundle(trained), toys(songs), truth, sessions=[i % 12 for i in range(len(truth))])
    of_two = [uid for uid, number in season.truth.items() if number == 2][:6]
    decide(
        season.folder,
        Mark(kind="noise", type_id="T0005"),
        Split(type_id="T0003", new_id="P0001", songs=tuple(of_two), sound="song"),
    )

    def delete(state: RunState) -> None:
        if state.stage == "snapshot":
            for path in sorted(season.folder.glob("clips/*/*/*.npz"))[::N_EACH]:
                path.unlink()

    return season, recluster(job(season.folder, trained, mode="full", settings=SETTINGS, now=lambda: NOW), delete)


def test_what_learned_without_rounds_goes_on_without() -> None:
    """A retraining has no more epochs and rounds than the first training had; when none are left it says so."""
    full = FullSettings(warmup_epochs=2, n_rounds=2)
    of = {name: learning_settings(PRESETS[name], full, 0) for name in ("default", "syllable", "general", "demo")}
    assert {name: s.rounds.n_rounds for name, s in of.items()} == {"default": 2, "syllable": 0, "general": 0, "demo": 2}
    assert {s.warmup.n_epochs for s in of.values()} == {2}
    with pytest.raises(ConfigError, match="nothing would be trained"):
        learning_settings(PRESETS["syllable"], FullSettings(warmup_epochs=0), 0)


def test_a_retraining_takes_the_cores_that_there_are() -> None:
    """However many threads the machine that trained first gave each worker."""
    first = change_settings(TrainSettings(), {"run": {"n_workers": 4, "threads_per_worker": 16}}, "a test")
    run = learning_settings(first, FullSettings(n_workers=2), 0).run
    assert (run.n_workers, run.threads_per_worker) == (2, None)


def test_a_type_that_was_held_out_whole_is_known_all_the_same() -> None:
    """Sung in one session alone, it has prototypes and is in the bank as the others are: songs are called by it again."""
    rng = np.random.default_rng(0)
    sizes = [30, 30, 12, 12]
    directions = np.linalg.qr(rng.standard_normal((16, 16)))[0][: len(sizes)]
    around = np.repeat(directions, sizes, axis=0) + 0.05 * rng.standard_normal((sum(sizes), 16))
    points = np.asarray(around / np.linalg.norm(around, axis=1, keepdims=True), np.float32)
    of, n = np.repeat([0, 1, 2, -1], sizes), sum(sizes)
    uids = tuple(f"{i:03d}" for i in range(n))
    songs = RunSongs(uids, tuple((f"s{i}", i) for i in range(n)), (True,) * n, ("",) * n, ("",) * n, points)
    ids = ("T0001", "T0002", "T0003")
    named = NamedSongs(ids, ("song",) * 3, ("",) * 3, of, np.flatnonzero(of < 0), {})
    run = RunInput(bundle_parts(), "a" * 64, songs, named, fold([]), SETTINGS, 6)
    proposal, labels = recluster_all(run, of, points, TrainSettings(), taught=np.arange(60))
    assert {one.id for one in proposal.types} == {*ids, "T0006"}
    assert set(proposal.type_index) == set(range(4))
    nearest = proposal.type_index[(points @ proposal.prototypes.T).argmax(axis=1)]
    assert np.array_equal(nearest, labels)
    assert set(labels[proposal.in_bank]) == set(range(4))


def test_a_full_retraining(
    trained: Path, retrained: tuple[Season, RunState], toy_songs: Callable[..., SongSet]
) -> None:
    """A new type is found, known ones keep their ids though none is stored of one of them, and people's decisions hold."""
    season, first = retrained
    bundle = load_bundle(trained)
    after = load_bundle(candidate(season.folder, first))
    assert after.manifest.sha256["encoder.onnx"] != bundle.manifest.sha256["encoder.onnx"]
    assert after.manifest.parent_digest == bundle.digest
    ids = {one.id for one in after.types}
    assert {"T0001", "T0002", "T0004", "P0001"} <= ids
    assert after.type_by_id["T0005"].kind == "noise"
    fresh = sorted(ids - {one.id for one in bundle.types} - {"P0001"})
    assert all(name >= "T0006" for name in fresh)
    again = toy_songs(60, seed=0)
    named = [one.type_id for one in after.catalogue.assign(after.embedder.embed(toys(again)))]
    right = [
        name == f"T{kind + 1:04d}" for name, kind in zip(named, kinds(again).tolist(), strict=True) if kind in {0, 1, 3}
    ]
    assert np.mean(right) >= 0.9
    passed_on = unpack_training(read_training(candidate(season.folder, first)) or b"")
    assert "T0004" in passed_on.type_ids
    second = recluster(
        job(
            season.folder,
            candidate(season.folder, first),
            run="night-2",
            mode="full",
            settings=SETTINGS,
            now=lambda: NOW,
        )
    )
    last = load_bundle(candidate(season.folder, second))
    assert {"T0001", "T0002", "T0004", "P0001"} <= {one.id for one in last.types}
    assert last.type_by_id["T0005"].kind == "noise"
    assert [entry.id for entry in last.manifest.lineage][: len(after.manifest.lineage)] == [
        entry.id for entry in after.manifest.lineage
    ]


def test_types_found_without_training_survive_one(
    trained: Path, toy_songs: Callable[..., SongSet], tmp_path: Path
) -> None:
    """Songs of a type that *quick* found travel with its bundle: *full* knows the type when the store has no features left."""
    songs = toy_songs(120, seed=0)
    season = fill_store(
        tmp_path / "data",
        load_bundle(trained),
        toys(songs),
        kinds(songs).tolist(),
        sessions=[i % 12 for i in range(120)],
    )
    quick = recluster(job(season.folder, trained, settings=SETTINGS, now=lambda: NOW))
    found = candidate(season.folder, quick)
    fresh = {one.id for one in load_bundle(found).types} - {one.id for one in load_bundle(trained).types}
    assert fresh
    with_them = Counter(unpack_training(read_training(found) or b"").type_ids)
    assert all(5 <= with_them[name] <= SONGS_PER_TYPE for name in fresh)
    shutil.rmtree(season.folder / "clips")
    full = recluster(job(season.folder, found, run="night-2", mode="full", settings=SETTINGS, now=lambda: NOW))
    assert full.facts["n_songs"] == 0
    before, after = load_bundle(found), load_bundle(candidate(season.folder, full))
    assert fresh <= {one.id for one in after.types}
    lineage = [entry.id for entry in before.manifest.lineage]
    assert lineage
    assert [entry.id for entry in after.manifest.lineage][: len(lineage)] == lineage


def until_there(season: Season, what: str) -> None:
    """Wait until training left something."""
    folder, last = season.folder / "reclusterings" / "night-1" / "training" / "checkpoints", monotonic() + 240
    while not list(folder.glob(what)):
        assert monotonic() < last
        sleep(0.02)


def state_of(season: Season) -> RunState:
    """Return what the run's folder says."""
    return RunState.model_validate_json((season.folder / "reclusterings/night-1/state.json").read_bytes())


def family(pid: int) -> set[int]:
    """Return a process and all that it started, in turn."""
    children = list[int]()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it ended meanwhile
            children += map(int, task.read_text().split())
    return {pid}.union(*(family(child) for child in children))


def connected_to(pids: set[int]) -> set[IPv4Address]:
    """Return where processes have connected to by TCP.

    Who connected to them does not count: Ray listens on all addresses, and others on this machine may still look for a node
    that is gone at the port which is now one of theirs. What is connected to is a port that somebody listens on; whoever
    connects has one on which nobody does.
    """
    inodes = set[str]()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                inodes |= set(re.findall(r"socket:\[(\d+)]", str(file.readlink())))
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    here = {row[1].split(":")[0][-8:] for row in rows}
    listened_on = {row[1].split(":")[1] for row in rows if row[3] == "0A"}
    theirs = {row[1].split(":")[1] for row in rows if row[3] == "0A" and row[9] in inodes}
    found = set[IPv4Address]()
    for local, remote in (row[1:3] for row in rows if row[3] == "01" and row[9] in inodes):
        address, port = remote.split(":")
        is_opener = address[-8:] in here and port not in listened_on
        if local.split(":")[1] not in theirs and not is_opener:
            # The last word of an address is one of IPv4, as it lies in memory.
            found.add(IPv4Address(ntohl(int(address[-8:], 16))))
    return found


def test_cancelled_and_killed_while_it_learns(
    trained: Path, retrained: tuple[Season, RunState], tmp_path: Path
) -> None:
    """Cancelled while Ray trains, then killed there, then robbed of all clips, a run proposes what an undisturbed one does.

    Songs whose features went before they were copied are left out of both, and counted.
    """
    undisturbed = retrained[1]
    n_songs = len(retrained[0].truth)
    n_gone = len(range(0, n_songs, N_EACH))
    assert (undisturbed.facts["n_left_out"], undisturbed.facts["n_songs"]) == (n_gone, n_songs - n_gone)
    season = replace(retrained[0], folder=tmp_path / "data")
    shutil.copytree(retrained[0].folder, season.folder, ignore=shutil.ignore_patterns("models", "reclusterings"))
    wanted = job(season.folder, trained, mode="full", settings=SETTINGS, now=lambda: NOW)

    def stop() -> None:
        until_there(season, "run-*")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = Thread(target=stop)
    thread.start()
    with until_stopped():
        handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        with pytest.raises(CancelledError):
            recluster(wanted)
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    thread.join()
    state = state_of(season)
    assert (state.state, state.stage, state.reason) == ("CANCELLED", "training", "RUN_CANCELLED")

    (tmp_path / "config.toml").write_text(CONFIG)
    options = {"store": season.url, "bundle": trained, "mode": "full", "config": tmp_path / "config.toml"}
    command = [str(Path(sys.executable).with_name("songstream")), "recluster", "--run", "night-1"]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    shutil.rmtree(season.folder / "reclusterings/night-1/training/checkpoints")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        until_there(season, "*/checkpoint_2*")
        # A look at all connections may take longer than what is left of the training.
        process.send_signal(signal.SIGSTOP)
        addresses = connected_to(family(process.pid))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert (state_of(season).state, state_of(season).stage) == ("RUNNING", "training")
    # As deploy/systemd's unit has it: IPAddressDeny=any, IPAddressAllow=localhost.
    assert addresses
    assert {one for one in addresses if not one.is_loopback} == set()

    shutil.rmtree(season.folder / "clips")
    last = recluster(wanted)
    assert (last.state, last.candidate, last.facts) == ("SUCCEEDED", undisturbed.candidate, undisturbed.facts)


def test_a_training_file_tells_whose_background_it_has(toy_songs: Callable[..., SongSet]) -> None:
    """As much as is kept of it, the last recording's in part; a file of an earlier version does not tell."""
    songs = toy_songs(12)
    background = np.zeros((MAX_BACKGROUND + 30, songs.frames.shape[1]), np.float16)
    songs = replace(
        songs, background=background, background_of=(("a", 2_000), ("b", MAX_BACKGROUND - 1_990), ("c", 20))
    )
    packed = pack_training(TrainingState(TrainSettings(), {}, songs, ("T0001",) * 12))
    assert unpack_training(packed).songs.background_of == (("a", 2_000), ("b", MAX_BACKGROUND - 2_000))
    with np.load(BytesIO(packed)) as arrays:
        earlier = BytesIO()
        np.savez(earlier, **{name: arrays[name] for name in arrays.files if not name.startswith("background_")})
    assert unpack_training(earlier.getvalue()).songs.background_of == ()


def test_a_damaged_training_file() -> None:
    """What is no npz file of training is refused with its reason."""
    with pytest.raises(BundleError) as caught:
        unpack_training(b"weights")
    assert caught.value.reason == "TRAINING_INVALID"
