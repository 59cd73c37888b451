"""When a recording began: from comments, GUANO metadata and names, of honest and of hostile files."""

import io
import struct
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from songcore.audio import open_recording
from songcore.recorders import MAX_CHUNKS, is_skipped, read_guano, read_timezone, stated_start, utc_start

EVENING = datetime(2026, 5, 1, 21, 30)  # noqa: DTZ001 - local time of a zone that nobody tells
SUMMER = timezone(timedelta(hours=2))
GUANO = "GUANO|Version: 1.0\nMake: Wildlife Acoustics, Inc.\nTimestamp: 2026-05-01T21:30:00+02:00\nNote: x\n"


def chunk(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    """Return a chunk, padded, that claims its size or another."""
    return kind + struct.pack("<I", len(content) if size is None else size) + content + bytes(len(content) % 2)


def riff(*chunks: bytes) -> bytes:
    """Return a file of these chunks."""
    return chunk(b"RIFF", b"WAVE" + b"".join(chunks))


def wav(path: Path, *, before: bytes = b"", after: bytes = b"") -> Path:
    """Write a tenth of a second of silence with chunks before and after the sound."""
    form = struct.pack("<HHIIHH", 1, 1, 24_000, 48_000, 2, 16)
    path.write_bytes(riff(chunk(b"fmt ", form), before, chunk(b"data", bytes(4_800)), after))
    return path


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("S4A06622_20260501_213000.wav", EVENING),
        ("north/SM3_0+1_20260501_213000.WAV", EVENING),
        ("x_20260501T213000.wav", EVENING),
        ("20260501T213000.flac", EVENING),
        ("x_20260501_213000Z.wav", EVENING.replace(tzinfo=UTC)),
        ("x_20260501T213000-0000.wav", EVENING.replace(tzinfo=UTC)),
        ("x_20260501_213000+0200.wav", EVENING.replace(tzinfo=SUMMER)),
        ("20260501T213000+02:00.wav", EVENING.replace(tzinfo=SUMMER)),
        ("20260501_213000.WAV", EVENING.replace(tzinfo=UTC)),
        ("x_20260231_213000.wav", None),
        ("x_20260501_253000.wav", None),
        ("x_20260501_213000+9900.wav", None),
        ("x_20260501_213000+0275.wav", None),
        ("x_00010101_000000+0200.wav", None),
        ("x_99991231_235959.wav", None),
        ("x20260501_213000.wav", None),
        ("x_20260501_2130001.wav", None),
        ("birds.wav", None),
    ],
)
def test_names_state_times(name: str, time: datetime | None) -> None:
    """Names of Song Meters are local time of an unknown zone unless an offset stands behind; impossible ones are none."""
    found = stated_start(name)
    assert found == time
    assert (found is None) or (found.utcoffset() == (time and time.utcoffset()))


@pytest.mark.parametrize(
    ("zone", "offset"),
    [("(UTC)", "+00:00"), ("(UTC+2)", "+02:00"), ("(UTC-3:30)", "-03:30"), ("(UTC+5:45)", "+05:45"), ("", None)],
)
def test_audiomoth_s_comment_is_read_by_the_decoder(tmp_path: Path, zone: str, offset: str | None) -> None:
    """The comment of the file's header states time and zone, the day before the month."""
    comment = f"Recorded at 21:30:00 01/05/2026 {zone} by AudioMoth 243B1F055B65E6F8 at medium gain setting"
    info = chunk(b"LIST", b"INFO" + chunk(b"ICMT", comment.encode().ljust(384, b"\0")))
    with open_recording(wav(tmp_path / "x.wav", before=info)) as recording:
        assert recording.comment == comment
    expected = None if offset is None else datetime.fromisoformat(f"2026-05-01T21:30:00{offset}")
    assert stated_start("x.wav", comment=comment) == expected


@pytest.mark.parametrize("place", ["before", "after"])
def test_guano_is_found_before_and_after_the_sound(tmp_path: Path, place: str) -> None:
    """Wherever its chunk lies, the metadata comes back, and the sound can still be read."""
    guano = chunk(b"guan", GUANO.encode())
    path = wav(tmp_path / "x.wav", **{place: guano})
    with path.open("rb") as file:
        assert read_guano(file) == GUANO
    with open_recording(path) as recording:
        assert sum(map(len, recording.blocks())) == 2_400
    assert stated_start("x.wav", guano=GUANO) == EVENING.replace(tzinfo=SUMMER)


@pytest.mark.parametrize(
    ("line", "time"),
    [
        ("Timestamp:2026-05-01 21:30:00", EVENING),
        ("Timestamp: 2026-05-01T21:30:00.250Z\r", EVENING.replace(microsecond=250_000, tzinfo=UTC)),
        ("Timestamp: 2026-05-01T21:30:00-04:00", EVENING.replace(tzinfo=timezone(timedelta(hours=-4)))),
        ("Timestamp: 2026-05-01", None),
        ("Timestamp: 2026-13-01T21:30:00Z", None),
        ("Timestamp: 0001-01-01T00:00:00+23:59", None),
        ("Loc Timestamp: 2026-05-01T21:30:00Z", None),
    ],
)
def test_guano_times(line: str, time: datetime | None) -> None:
    """A timestamp may have an offset and a fraction; half of one is none."""
    assert stated_start("x.wav", guano=f"GUANO|Version: 1.0\n{line}\nMake: x") == time


def test_who_is_believed() -> None:
    """The comment goes before GUANO and that before the name, but a time that tells its zone before one that does not."""
    comment, other = "Recorded at 19:00:00 01/05/2026 (UTC+2)", "x_20260501_180000Z.wav"
    assert stated_start(other, comment=comment, guano=GUANO) == datetime(2026, 5, 1, 17, tzinfo=UTC)
    assert stated_start(other, guano=GUANO) == datetime(2026, 5, 1, 19, 30, tzinfo=UTC)
    local = GUANO.replace("+02:00", "")
    assert stated_start(other, guano=local) == datetime(2026, 5, 1, 18, tzinfo=UTC)
    assert stated_start("x_20260501_180000.wav", guano=local) == EVENING
    assert stated_start("x.wav") is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"RIFF",
        b"OggS" + bytes(60),
        riff(),
        riff(b"guan"),
        riff(chunk(b"guan", b"", size=2**32 - 1)),
        riff(chunk(b"LIST", b"", size=2**32 - 1), chunk(b"guan", GUANO.encode())),
        riff(chunk(b"guan", b"\xff\xfe\0Timestamp: \xff")),
        riff(*[chunk(b"junk", b"")] * (MAX_CHUNKS + 1), chunk(b"guan", GUANO.encode())),
        riff(chunk(b"guan", b"x" * 100_000 + GUANO.encode())),
    ],
)
def test_broken_chunks_state_no_time(content: bytes) -> None:
    """Files that end early, claim any size or hide the chunk behind others give no time and no error."""
    assert stated_start("x.wav", guano=read_guano(io.BytesIO(content))) is None


@given(st.binary(max_size=200), st.text(max_size=60), st.text(max_size=60))
def test_nothing_that_a_file_holds_is_an_error(content: bytes, comment: str, name: str) -> None:
    """Whatever stands in chunks, comment and name, the answer is a time or none, and UTC can be made of it."""
    guano = read_guano(io.BytesIO(riff(content))) + content.decode("latin-1")
    stated = stated_start(name, comment=comment, guano=guano)
    start = utc_start(stated, read_timezone("+14:00"))
    assert not is_skipped(stated, read_timezone("+14:00"))
    assert is_skipped(stated, read_timezone("Europe/Berlin")) in {True, False}
    assert (start is None) == (stated is None)
    assert start is None or start.tzinfo is UTC


def test_zones() -> None:
    """A name of the zone data, with its summer time, an offset, and Z are zones; a time with its own keeps it."""
    winter = datetime(2026, 1, 1, 12)  # noqa: DTZ001 - local time
    assert utc_start(EVENING, read_timezone("Europe/Berlin")) == datetime(2026, 5, 1, 19, 30, tzinfo=UTC)
    assert utc_start(winter, read_timezone("Europe/Berlin")) == datetime(2026, 1, 1, 11, tzinfo=UTC)
    assert utc_start(EVENING, read_timezone("-03:30")) == datetime(2026, 5, 2, 1, tzinfo=UTC)
    assert utc_start(EVENING, read_timezone("Z")) == EVENING.replace(tzinfo=UTC)
    assert utc_start(EVENING.replace(tzinfo=SUMMER), read_timezone("Z")) == datetime(2026, 5, 1, 19, 30, tzinfo=UTC)
    assert utc_start(EVENING, None) is None
    for text in ("", "Europe", "Europe/Nowhere", "../etc/passwd", "/etc/passwd", "+25:00", "+02:75", "\0", "x" * 5000):
        with pytest.raises(ValueError, match="expected a name such as Europe/Berlin"):
            read_timezone(text)


@pytest.mark.parametrize(
    ("time", "zone", "expected"),
    [
        ("2026-03-29T01:59:59", "Europe/Berlin", False),
        ("2026-03-29T02:00:00", "Europe/Berlin", True),
        ("2026-03-29T02:30:00.5", "Europe/Berlin", True),
        ("2026-03-29T03:00:00", "Europe/Berlin", False),
        ("2026-10-25T02:30:00", "Europe/Berlin", False),  # twice there
        ("2026-03-29T02:30:00", "+01:00", False),
        ("2026-03-29T02:30:00+01:00", "Europe/Berlin", False),
        ("2026-03-29T02:30:00", "Europe/London", False),
        ("2026-10-04T02:15:00", "Australia/Lord_Howe", True),  # by half an hour
        ("2026-03-29T02:30:00", None, False),
        (None, "Europe/Berlin", False),
    ],
)
def test_a_time_that_the_clocks_skip_is_noticed(time: str | None, zone: str | None, expected: bool) -> None:
    """Only local times within the step to summer time of the zone given for them; UTC counts on from before the step."""
    stated, of = time and datetime.fromisoformat(time), zone and read_timezone(zone)
    assert is_skipped(stated or None, of or None) is expected
    if stated and time == "2026-03-29T02:30:00":
        assert utc_start(stated, read_timezone("Europe/Berlin")) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


def test_recordings_without_a_comment_have_an_empty_one(tmp_path: Path) -> None:
    """Also formats that know no such thing."""
    soundfile.write(tmp_path / "x.flac", np.zeros(2_400), 24_000)
    with open_recording(tmp_path / "x.flac") as recording:
        assert recording.comment == ""
