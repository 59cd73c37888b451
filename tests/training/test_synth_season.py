"""Seasons: the plan, the truth, and that every recording is the same however it is rendered."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from typer.testing import CliRunner

from songcore.errors import ConfigError
from songtrain.commands.synth import synth
from songtrain.synth.config import PRESETS, SeasonConfig, season_config
from songtrain.synth.repertoire import zipf_weights
from songtrain.synth.season import open_season, render_layers, render_recording
from songtrain.synth.singer import play
from songtrain.synth.write import simulate

SMALL = SeasonConfig(n_types=6, n_songs=24, n_singers=3, n_stations=2, n_sites=1, recording_s=30.0, overlap_share=0.2)


def sung_types(config: SeasonConfig) -> list[int]:
    """Return every planned song's type."""
    return [t for plan in open_season(config).recordings for _, types in plan.parts for t in types]


@given(
    n_songs=st.integers(1, 300),
    n_types=st.integers(1, 30),
    n_singers=st.integers(1, 7),
    n_stations=st.integers(1, 5),
    overlap=st.floats(0, 0.5),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=30)
def test_every_song_is_planned_once(
    n_songs: int, n_types: int, n_singers: int, n_stations: int, overlap: float, seed: int
) -> None:
    """Whatever the season, all its songs are planned, each by a bird that knows it, in recordings with names of their own."""
    config = SeasonConfig(
        seed=seed,
        n_songs=n_songs,
        n_types=n_types,
        n_singers=n_singers,
        n_stations=n_stations,
        n_sites=1,
        overlap_share=overlap,
        near_variant_share=0,
    )
    season = open_season(config)
    assert len(sung_types(config)) == n_songs
    assert len({r.name for r in season.recordings}) == len(season.recordings)
    for plan in season.recordings:
        assert 0 <= plan.station < n_stations
        assert len({bird for bird, _ in plan.parts}) == len(plan.parts)
        for bird, types in plan.parts:
            assert set(types) <= season.singers[bird].repertoire


def test_types_are_sung_by_zipfs_law() -> None:
    """Counts of a large season agree with the declared shares, by a chi-squared test; withheld types never appear."""
    config = season_config("hard", n_songs=20_000, withheld=(0, 7))
    counts = np.bincount(sung_types(config), minlength=60)
    weights = zipf_weights(config)
    assert counts[0] == counts[7] == 0
    kept = weights > 0
    assert chisquare(counts[kept], weights[kept] * 20_000).pvalue > 0.01


def test_birds_seldom_repeat_a_song_at_once() -> None:
    """Immediate repeats are rarer than chance would have them."""
    season = open_season(season_config("demo"))
    pairs = [(a, b) for plan in season.recordings for _, types in plan.parts for a, b in pairwise(types)]
    chance = float(np.sum(zipf_weights(season_config("demo")) ** 2))
    assert np.mean([a == b for a, b in pairs]) < 0.1 * chance


def test_a_recording_is_the_same_whenever_it_is_rendered() -> None:
    """A recording rendered twice, after others or alone, has the same samples and truth, and another seed has not."""
    first, truth = render_recording(SMALL, 1)
    render_recording(SMALL, 0)
    again, truth_again = render_recording(SMALL, 1)
    assert first.tobytes() == again.tobytes()
    assert truth == truth_again
    other, _ = render_recording(SMALL.model_copy(update={"seed": 2}), 1)
    assert other.tobytes() != first.tobytes()


def test_days_share_birds_and_differ_in_what_they_sing() -> None:
    """Another day has the same types, singers and stations, another plan, and recordings with names of its own."""
    today, tomorrow = (open_season(SMALL.model_copy(update={"day": day})) for day in (0, 1))
    assert (today.types, today.singers) == (tomorrow.types, tomorrow.singers)
    assert [s.noise_db for s in today.stations] == [s.noise_db for s in tomorrow.stations]
    plans = [[(r.station, r.parts) for r in season.recordings] for season in (today, tomorrow)]
    assert plans[0] != plans[1]
    assert not {r.name for r in today.recordings} & {r.name for r in tomorrow.recordings}


def test_a_drifting_type_moves_day_by_day() -> None:
    """The drifting type is sung so many octaves higher for every day, another type is not."""
    types, singer = open_season(SMALL).types, open_season(SMALL).singers[0]

    def pitch(index: int, day: int) -> float:
        config = SMALL.model_copy(update={"day": day, "drifting": 2, "drift_octaves": 0.01})
        return play(types[index], singer, config, np.random.default_rng(1))[0].octaves

    assert pitch(2, 30) - pitch(2, 0) == pytest.approx(0.3)
    assert pitch(1, 30) == pitch(1, 0)


def test_parallel_and_serial_seasons_are_the_same_files(tmp_path: Path) -> None:
    """One process and two write the same bytes, and each recording holds what rendering it alone gives."""
    calls: list[tuple[int, int]] = []
    few = SMALL.model_copy(update={"n_songs": 14})
    songs = simulate(few, tmp_path / "one", on_recording=lambda done, n: calls.append((done, n)))
    assert simulate(few, tmp_path / "two", n_workers=2) == songs
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path / "two") for p in (tmp_path / "two").rglob("*") if p.is_file())
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert calls[-1] == (len(files) - 2, len(files) - 2)
    samples, _ = render_recording(few, 0)
    written, rate = soundfile.read(
        tmp_path / "one" / "recordings" / f"{open_season(few).recordings[0].name}.flac", dtype="float32"
    )
    assert rate == few.sample_rate_hz
    np.testing.assert_allclose(written, samples, atol=0.51 / 32768)


def test_truth_is_where_the_sound_is() -> None:
    """Nothing of a song sounds before its onset; it starts at its onset, and is down to its echoes at its offset."""
    config = SMALL.model_copy(update={"overlap_share": 0.0, "snr_db": (25.0, 30.0)})
    layers, songs = render_layers(config, 0)
    quiet_from = 0
    for song in songs:
        during = np.abs(layers.songs[song.onset : song.offset])
        before = np.abs(layers.songs[quiet_from : song.onset])
        assert before.max() < 1e-5 * during.max()
        # The soft tick may be 40 dB down, the flank of its first note starts at nothing.
        assert during[:960].max() > 1e-4 * during.max()
        after = layers.songs[song.offset + 24_000 : song.offset + 28_800]
        assert np.mean(after**2) < 0.01 * np.mean(during**2)
        assert song.onset <= song.loud_onset < song.offset
        quiet_from = song.offset + 48_000
    assert songs[-1].offset <= len(layers.songs)


def test_ratios_are_as_declared() -> None:
    """Song power over noise power, in the band and over the song's time, is the declared ratio: brick-wall reference."""
    config = season_config("hard", n_songs=40, n_types=8, overlap_share=0.0, recording_s=60.0)
    layers, songs = render_layers(config, 0)
    for song in songs:
        powers = []
        for layer in (layers.songs, layers.noise):
            stretch = layer[song.onset : song.offset].astype(np.float64)
            spectrum = np.abs(np.fft.rfft(stretch)) ** 2
            hz = np.fft.rfftfreq(len(stretch), 1 / config.sample_rate_hz)
            powers.append(spectrum[(hz >= 1000) & (hz < 11_000)].sum())
        assert 10 * np.log10(powers[0] / powers[1]) == pytest.approx(song.snr_db, abs=0.1)
        assert -5 <= song.snr_db <= 30


def test_overlaps_are_marked() -> None:
    """With a second singer songs overlap, and exactly those that share time with another are marked."""
    config = SMALL.model_copy(update={"overlap_share": 0.5, "n_songs": 60})
    n_overlaps = 0
    for index in range(3):
        _, songs = render_recording(config, index)
        for song in songs:
            shares = [o for o in songs if o is not song and o.onset < song.offset and song.onset < o.offset]
            assert song.overlap == bool(shares)
            assert all(o.singer != song.singer for o in shares)
            n_overlaps += song.overlap
    assert n_overlaps > 0


def test_rhythm_is_natural() -> None:
    """A bird sings 30 to 50 % of the time with pauses of seconds, and recordings have the length asked for."""
    config = season_config("demo", n_songs=120)
    samples, songs = render_recording(config, 0)
    assert len(samples) == 120 * 48_000
    assert np.abs(samples).max() <= 1
    assert 0.3 < sum(s.offset - s.onset for s in songs) / len(samples) < 0.5
    pauses = [(b.onset - a.offset) / 48_000 for a, b in pairwise(songs)]
    assert min(pauses) > 1
    assert 2 < np.median(pauses) < 7


def test_songs_that_do_not_fit_lengthen_the_recording() -> None:
    """A recording too short for its songs grows instead of dropping one."""
    config = SMALL.model_copy(update={"recording_s": 20.0, "duty": 0.6, "overlap_share": 0.0})
    for index, plan in enumerate(open_season(config).recordings[:3]):
        samples, songs = render_recording(config, index)
        assert len(songs) == sum(len(types) for _, types in plan.parts)
        assert len(samples) >= 20 * 48_000
        assert songs[-1].offset < len(samples)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_what_they_promise(preset: str) -> None:
    """Every preset opens; the hard one has what makes it hard."""
    season = open_season(season_config(preset))
    assert season.recordings
    if preset == "hard":
        config = season_config(preset)
        assert (config.n_types, config.n_songs, config.n_singers, config.snr_db) == (60, 5000, 6, (-5.0, 30.0))
        assert config.overlap_share > 0
        assert any(t.variant_of is not None for t in season.types)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n_types": 0}, "n_types"),
        ({"snr_db": (30.0, 3.0)}, "snr_db"),
        ({"withheld": (99,)}, "99"),
        ({"n_types": 2, "withheld": (0, 1)}, "withheld"),
        ({"n_sites": 9}, "stations"),
        ({"colour": "red"}, "colour"),
        ({"tempo_sd": float("nan")}, "tempo_sd"),
    ],
)
def test_impossible_seasons_are_refused(changes: dict[str, object], named: str) -> None:
    """An impossible setting is a ConfigError that names the field or the value."""
    with pytest.raises(ConfigError, match=named):
        season_config("easy", **changes)


def test_unknown_presets_and_used_folders_are_refused(tmp_path: Path) -> None:
    """An unknown preset names the known ones; a folder with recordings in it is left alone."""
    with pytest.raises(ConfigError, match="hard"):
        season_config("impossible")
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "old.flac").touch()
    with pytest.raises(ConfigError, match="not empty"):
        simulate(SMALL, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="writable"):
        simulate(SMALL, tmp_path / "file")


def test_the_command_writes_what_it_says(tmp_path: Path) -> None:
    """``synth`` writes recordings, a row for every song, and a season.json that makes the same season again."""
    app = typer.Typer()
    app.command()(synth)
    out = tmp_path / "season"
    options = ["--preset", "demo", "--songs", "20", "--withhold", "1,3", "--workers", "1", "--format", "wav", "--json"]
    result = CliRunner().invoke(app, [*options, "--set", "recording_s=40", "--set", "snr_db=20,30", "--out", str(out)])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    rows = list(csv.DictReader((out / "songs.csv").read_text(encoding="utf-8").splitlines()))
    assert report["songs"] == len(rows) == 20
    assert list(rows[0])[:8] == ["recording", "onset_s", "offset_s", "label", "singer", "station", "snr_db", "overlap"]
    assert {row["recording"] for row in rows} == {p.name for p in (out / "recordings").iterdir()}
    assert not {"T001", "T003"} & {row["label"] for row in rows}
    for row in rows:
        info = soundfile.info(out / "recordings" / row["recording"])
        assert (info.subtype, info.samplerate) == ("PCM_16", 48_000)
        assert 0 <= float(row["onset_s"]) <= float(row["loud_onset_s"]) < float(row["offset_s"]) < info.duration
        assert 20 <= float(row["snr_db"]) <= 30
    season = json.loads((out / "season.json").read_text(encoding="utf-8"))
    config = SeasonConfig.model_validate(season["config"])
    assert [t["label"] for t in season["types"]] == [t.label for t in open_season(config).types]
    assert {p.name for p in (out / "recordings").iterdir()} == set(season["recordings"])


@pytest.mark.parametrize(
    "options", [["--format", "mp3"], ["--withhold", "one"], ["--set", "duty"], ["--set", "n_songs=many"]]
)
def test_the_command_refuses_nonsense(options: list[str], tmp_path: Path) -> None:
    """A wrong option is a ConfigError, and nothing is written."""
    app = typer.Typer()
    app.command()(synth)
    result = CliRunner().invoke(app, [*options, "--out", str(tmp_path / "season")])
    assert isinstance(result.exception, ConfigError)
    assert not (tmp_path / "season").exists()
