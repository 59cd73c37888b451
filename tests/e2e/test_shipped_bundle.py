"""The bundle that is shipped, through the commands a user types."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.metrics import adjusted_rand_score

from serving import ServerProcess
from songcore.bundle import load_bundle, read_parts, read_training
from songcore.presets import STREAMS
from songserve.v1 import songs_pb2, songs_pb2_grpc
from songtrain.export.training_state import unpack_training
from songtrain.synth.config import season_config
from songtrain.synth.write import simulate

BUNDLE = Path(__file__).parents[2] / "models" / "demo-v1"
SONGSTREAM = str(Path(sys.executable).with_name("songstream"))

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings of singers whom the bundle never heard, singing the types it knows."""
    folder = tmp_path_factory.mktemp("e2e") / "season"
    config = season_config(
        "easy", seed=5, type_seed=11, n_types=40, n_songs=36, n_singers=2, n_stations=2, snr_db=(15.0, 30.0),
        far_singer_share=0.0, other_birds_per_minute=0.0, near_variant_share=0.2,
    )  # fmt: skip
    simulate(config, folder, 1)
    return folder


@pytest.fixture(scope="module")
def classified(season: Path) -> Rows:
    """Return what ``songstream classify`` writes about them."""
    out = season.parent / "classified"
    command = [SONGSTREAM, "classify", str(season / "recordings"), "--bundle", str(BUNDLE), "--out", str(out)]
    subprocess.run([*command, "--workers", "1", "--json"], check=True, capture_output=True)
    with (out / "songs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_shipped_bundle_reproduces_its_golden_songs() -> None:
    """It loads, which recomputes its golden songs, and was trained on simulated songs."""
    bundle = load_bundle(BUNDLE, device="cpu")
    assert len(bundle.types) > 20
    assert (BUNDLE / "report.html").stat().st_size > 100_000


def test_the_shipped_bundle_can_be_kept_alive() -> None:
    """It grades songs, calibrates types on their own, and holds what retraining goes on with."""
    parts = read_parts(BUNDLE)
    assert parts.stream.quality == STREAMS["song"].quality
    assert parts.calibration_type is not None
    content = read_training(BUNDLE)
    assert content is not None
    state = unpack_training(content)
    assert set(state.type_ids) == {one.id for one in parts.types}


def test_songs_of_unknown_singers_are_found_and_named(season: Path, classified: Rows) -> None:
    """Nearly all songs are found where they were sung, and those named agree with what was sung."""
    with (season / "songs.csv").open(newline="") as file:
        sung = list(csv.DictReader(file))
    pairs = [(true, found) for true in sung for found in classified if _same(true, found)]
    assert len(pairs) >= 0.85 * len(sung)
    named = [(true["label"], found["type_id"]) for true, found in pairs if found["novel"] == "false"]
    assert len(named) >= 0.7 * len(pairs)
    labels, types = zip(*named, strict=True)
    assert adjusted_rand_score(labels, types) > 0.8


def test_a_station_and_a_server_give_what_classify_gives(season: Path, classified: Rows, tmp_path: Path) -> None:
    """The same recordings, sent by ``songstream listen`` to ``songstream serve``, are the same songs of the same types."""
    with ServerProcess(BUNDLE, tmp_path / "data") as server:
        for recording in sorted((season / "recordings").iterdir()):
            station = recording.stem.lower().replace("_", "-")
            command = [SONGSTREAM, "listen", str(recording), "--server", server.ready["address"], "--speed", "max"]
            subprocess.run([*command, "--station", station, "--json"], check=True, capture_output=True)
        page = songs_pb2_grpc.SongServiceStub(server.channel).ListSongs(songs_pb2.ListSongsRequest(page_size=1000))
        streamed = sorted(
            (song.station.removeprefix("stations/"), round(song.onset_s, 3), round(song.offset_s, 3),
             song.song_type.removeprefix("songTypes/"), song.is_novel)
            for song in page.songs
        )  # fmt: skip
    stored = sorted(
        (Path(row["recording"]).stem.lower().replace("_", "-"), round(float(row["onset_s"]), 3),
         round(float(row["offset_s"]), 3), row["type_id"], row["novel"] == "true")
        for row in classified
    )  # fmt: skip
    assert streamed == stored
    assert streamed


def _same(true: dict[str, str], found: dict[str, str]) -> bool:
    """Whether two rows are the same song: intersection over union of a half or more."""
    if Path(true["recording"]).name != Path(found["recording"]).name:
        return False
    a, b, c, d = (float(row[key]) for row in (true, found) for key in ("onset_s", "offset_s"))
    return min(b, d) - max(a, c) >= 0.5 * (max(b, d) - min(a, c))
