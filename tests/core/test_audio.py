"""Decoding: every format and width, the rule for channels, and the documented error of every broken recording."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from songcore.arrays import FloatArray
from songcore.audio import AUDIO_SUFFIXES, Recording, open_recording, recordings_below, to_mono
from songcore.errors import InputError

SOUNDSCAPE = Path(__file__).parents[3] / "shared" / "data" / "soundscape"

# Format, encoding, and the step between its sample values (None: lossy).
FORMATS = [
    ("WAV", "PCM_16", 2**-15),
    ("WAV", "PCM_24", 2**-23),
    ("WAV", "PCM_U8", 2**-7),
    ("WAV", "FLOAT", 0.0),
    ("WAV", "DOUBLE", 0.0),
    ("RF64", "PCM_16", 2**-15),
    ("AIFF", "PCM_16", 2**-15),
    ("FLAC", "PCM_16", 2**-15),
    ("FLAC", "PCM_24", 2**-23),
    ("OGG", "VORBIS", None),
    ("OGG", "OPUS", None),
    ("MP3", "MPEG_LAYER_III", None),
]


def chirp(rate_hz: int = 48_000, duration_s: float = 3.0, n_channels: int = 1) -> FloatArray:
    """Return (n, n_channels) float32: a rising tone with a little noise, another phase on each channel."""
    rng = np.random.default_rng(0)
    t = np.arange(int(duration_s * rate_hz)) / rate_hz
    channels = [np.sin(2 * np.pi * (1_000 * t + 200 * t**2) + c) for c in range(n_channels)]
    return (0.3 * np.stack(channels, axis=1) + 0.01 * rng.standard_normal((len(t), n_channels))).astype(np.float32)


def encoded(samples: FloatArray, rate_hz: int = 48_000, form: str = "WAV", subtype: str = "PCM_16") -> bytes:
    """Return the bytes of a file that holds the samples."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=form, subtype=subtype)
    return file.getvalue()


def read(source: Path | str | bytes, channel: int | None = None, block_s: float = 10.0) -> FloatArray:
    """Return the whole recording as mono samples."""
    with open_recording(io.BytesIO(source) if isinstance(source, bytes) else source, channel=channel) as recording:
        return np.concatenate([*recording.blocks(block_s), np.empty(0, np.float32)])


def refusal(source: Path | str | bytes, channel: int | None = None) -> tuple[str, str]:
    """Return reason and message of the InputError that the recording gives."""
    with pytest.raises(InputError) as caught:
        read(source, channel)
    return caught.value.reason, str(caught.value)


def patched(data: bytes, offset: int, form: str, value: int) -> bytes:
    """Return a file with one number of its header replaced."""
    changed = bytearray(data)
    struct.pack_into(form, changed, offset, value)
    return bytes(changed)


@pytest.mark.parametrize(("form", "subtype", "tolerance"), FORMATS)
def test_formats(form: str, subtype: str, tolerance: float | None, tmp_path: Path) -> None:
    """A path, its name and an open file of any format give the samples to the encoding's own error, and the header."""
    samples = chirp()
    path = tmp_path / f"recording.{form.lower()}"
    path.write_bytes(encoded(samples, form=form, subtype=subtype))
    with open_recording(path) as recording:
        assert (recording.sample_rate_hz, recording.n_channels, recording.name) == (48_000, 1, path.name)
        assert recording.n_samples == len(samples)
        decoded = np.concatenate(list(recording.blocks()))
    assert decoded.dtype == np.float32
    if tolerance is None:
        assert len(decoded) == len(samples)
        assert np.corrcoef(decoded, samples[:, 0])[0, 1] > 0.98
    else:
        np.testing.assert_allclose(decoded, samples[:, 0], rtol=0, atol=tolerance)
    np.testing.assert_array_equal(read(str(path)), decoded)
    np.testing.assert_array_equal(read(path.read_bytes()), decoded)


@pytest.mark.parametrize(("form", "subtype"), [(form, subtype) for form, subtype, _ in FORMATS])
@pytest.mark.parametrize("block_s", [0.0101, 0.7, 60.0])
def test_block_size_changes_nothing(form: str, subtype: str, block_s: float) -> None:
    """Blocks of any length join to the same samples, and none is longer than asked for."""
    data = encoded(chirp(n_channels=2), form=form, subtype=subtype)
    with open_recording(io.BytesIO(data)) as recording:
        blocks = list(recording.blocks(block_s))
    assert max(len(block) for block in blocks) <= block_s * 48_000
    np.testing.assert_array_equal(np.concatenate(blocks), read(data))


@pytest.mark.parametrize("n_channels", [1, 2, 5])
def test_channels(n_channels: int) -> None:
    """Mono is the mean of all channels, or the one that was chosen, counted from 1."""
    samples = chirp(n_channels=n_channels, duration_s=0.5)
    data = encoded(samples, subtype="FLOAT")
    np.testing.assert_allclose(read(data), samples.mean(axis=1), atol=1e-6)
    for channel in range(1, n_channels + 1):
        np.testing.assert_array_equal(read(data, channel), samples[:, channel - 1])


@pytest.mark.parametrize("channel", [-1, 0, 3])
def test_missing_channel(channel: int) -> None:
    """A channel that the recording does not have is refused when it is opened, with the choice there is."""
    with pytest.raises(InputError, match=f"channel {channel} .* has 2 channels; choose 1 to 2") as caught:
        open_recording(io.BytesIO(encoded(chirp(n_channels=2))), channel=channel)
    assert caught.value.reason == "CHANNEL_MISSING"


def test_a_recording_of_one_channel_offers_no_choice() -> None:
    """So none is to be made."""
    with pytest.raises(InputError, match="channel 3 was chosen but the audio has one channel; choose none"):
        open_recording(io.BytesIO(encoded(chirp(n_channels=1))), channel=3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, np.finfo(np.float32).max])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_not_finite(bad: float, n_channels: int) -> None:
    """One sample that is no finite number, or that would overflow as a power, refuses the recording, silently."""
    samples = chirp(n_channels=n_channels, duration_s=0.5)
    samples[1_000] = bad
    assert refusal(encoded(samples, subtype="FLOAT"))[0] == "NOT_FINITE"


def test_what_comes_before_a_bad_sample_is_heard() -> None:
    """Blocks before the one with a NaN are yielded; a NaN on a channel that was not chosen disturbs nobody."""
    samples = chirp(n_channels=2)
    samples[100_000, 0] = np.nan
    data = encoded(samples, subtype="FLOAT")
    np.testing.assert_array_equal(read(data, channel=2), samples[:, 1])
    heard: list[FloatArray] = []
    with open_recording(io.BytesIO(data)) as recording, pytest.raises(InputError, match="1 of 48000 samples"):
        heard.extend(recording.blocks(1.0))
    assert sum(len(block) for block in heard) == 96_000


def test_infinities_that_cancel_are_seen() -> None:
    """Plus infinity on one channel and minus infinity on the other are refused without a warning."""
    with pytest.raises(InputError, match="NaN or infinite"):
        to_mono(np.array([[np.inf, -np.inf]], np.float32), None)


def test_loud_float_files_are_taken() -> None:
    """A float file scaled like 32-bit integers is unusual and taken as it is."""
    samples = chirp(duration_s=0.2) * np.float32(2**31)
    np.testing.assert_array_equal(read(encoded(samples, subtype="FLOAT")), samples[:, 0])


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_one_sample(form: str) -> None:
    """A recording of one sample is a recording."""
    subtype = {"OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}.get(form, "PCM_16")
    assert len(read(encoded(np.full((1, 1), 0.5, np.float32), form=form, subtype=subtype))) >= 1


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_header_only(form: str, tmp_path: Path) -> None:
    """A recording without a sample is an empty recording, in every format."""
    path = tmp_path / f"recording.{form.lower()}"
    soundfile.write(path, np.empty(0, np.float32), 48_000, format=form)
    assert refusal(path)[0] == refusal(path.read_bytes())[0] == "EMPTY_RECORDING"


def test_empty_file(tmp_path: Path) -> None:
    """A file of no bytes is an empty recording, named where it has a name."""
    path = tmp_path / "nothing.wav"
    path.write_bytes(b"")
    assert refusal(path) == ("EMPTY_RECORDING", "nothing.wav is an empty file")
    assert refusal(b"")[0] == "EMPTY_RECORDING"


def test_no_file(tmp_path: Path) -> None:
    """A path to nothing says so, and a directory is not a recording."""
    assert refusal(tmp_path / "none.wav")[0] == refusal(str(tmp_path / "none.wav"))[0] == "NOT_FOUND"
    reason, message = refusal(tmp_path)
    assert reason == "NOT_AUDIO"
    assert "directory" in message


@pytest.mark.parametrize(
    "data",
    [b"onset_s,offset_s\n1,2\n" * 50, b"RIFF", encoded(chirp())[:40], b"\0" * 5_000, bytes(range(256)) * 40],
    ids=["text", "magic", "half a header", "zeros", "bytes"],
)
def test_not_audio(data: bytes, tmp_path: Path) -> None:
    """Text and rubbish in a file called WAV are not audio; the message names the file and no memory address."""
    path = tmp_path / "recording.wav"
    path.write_bytes(data)
    for source, name in ((path, path.name), (data, "recording")):
        reason, message = refusal(source)
        assert reason == "NOT_AUDIO"
        assert message.startswith(f"{name} cannot be decoded")
        assert "0x" not in message


@pytest.mark.parametrize(("offset", "form", "value"), [(22, "<H", 0), (24, "<I", 0), (34, "<H", 0), (20, "<H", 99)])
def test_impossible_headers(offset: int, form: str, value: int) -> None:
    """No channel, no sample rate, no bits and an unknown encoding are not audio."""
    assert refusal(patched(encoded(chirp()), offset, form, value))[0] == "NOT_AUDIO"


@pytest.mark.parametrize("rate_hz", [7_999, 500_000])
def test_unsupported_rates(rate_hz: int) -> None:
    """Rates outside 8-384 kHz are refused by name."""
    reason, message = refusal(encoded(chirp(), rate_hz))
    assert reason == "FORMAT_UNSUPPORTED"
    assert str(rate_hz) in message


@pytest.mark.parametrize("rate_hz", [8_000, 22_051, 384_000])
def test_unusual_rates(rate_hz: int) -> None:
    """8 kHz, 384 kHz and odd rates between them are taken."""
    samples = chirp(rate_hz, 0.3)
    np.testing.assert_allclose(read(encoded(samples, rate_hz)), samples[:, 0], atol=2**-15)


def test_too_many_channels() -> None:
    """Of 64 channels a recording is read, of more it is refused."""
    assert len(read(encoded(np.zeros((100, 64), np.float32)))) == 100
    assert refusal(encoded(np.zeros((100, 65), np.float32)))[0] == "FORMAT_UNSUPPORTED"


@pytest.mark.parametrize(("form", "subtype"), [(form, subtype) for form, subtype, _ in FORMATS])
@pytest.mark.parametrize("block_s", [0.25, 10.0])
def test_truncated(form: str, subtype: str, block_s: float) -> None:
    """Half a file yields all that can be decoded, however long the blocks, and is then called truncated."""
    samples = chirp(duration_s=6.0)
    whole = encoded(samples, form=form, subtype=subtype)
    heard: list[FloatArray] = []
    half = io.BytesIO(whole[: len(whole) // 2])
    with open_recording(half) as recording, pytest.raises(InputError, match="ends after") as caught:
        heard.extend(recording.blocks(block_s))
    assert caught.value.reason == "TRUNCATED"
    n_heard = sum(len(block) for block in heard)
    # Opus and MP3 spend bits unevenly, Vorbis on its head; the rest loses at most one packet of the middle.
    low, high = (0.3, 0.6) if subtype in {"VORBIS", "OPUS", "MPEG_LAYER_III"} else (0.45, 0.51)
    assert low * len(samples) < n_heard < high * len(samples)
    assert f"{n_heard / 48_000:.2f} s" in str(caught.value)
    decoded, whole_decoded = np.concatenate(heard), read(whole)
    n = n_heard - 2_000  # the last packet of a lossy file lacks its neighbour
    np.testing.assert_allclose(decoded[:n], whole_decoded[:n], atol=2e-5)


def test_cut_off_end_of_stream_in_ogg() -> None:
    """An Ogg file that lacks no more than the last byte is truncated, and a whole one is not."""
    whole = encoded(chirp(), form="OGG", subtype="VORBIS")
    assert len(read(whole)) == 3 * 48_000
    assert refusal(whole[:-1])[0] == "TRUNCATED"


@pytest.mark.parametrize("length", [0xFFFF_FFFF, 0xFFFF_FF00, 0x7FFF_F000, 0x7FFF_FF00, 0x8000_0000])
def test_open_length_is_not_truncated(length: int) -> None:
    """A WAV from a pipe, whose writer could not fill in the length, is read to its end without complaint."""
    data = patched(encoded(chirp()), 40, "<I", length)
    assert len(read(data)) == 3 * 48_000


def without_length(flac: bytes) -> bytes:
    """Return a FLAC whose header leaves its number of samples open: 36 bits of STREAMINFO (RFC 9639, section 8.2)."""
    return flac[:21] + bytes([flac[21] & 0xF0, 0, 0, 0, 0]) + flac[26:]


def test_flac_without_a_length(tmp_path: Path) -> None:
    """A FLAC from a pipe is refused when it is opened, with what to do, and is not called truncated, even where it is."""
    whole = encoded(chirp(), form="FLAC")
    piped = tmp_path / "piped.flac"
    piped.write_bytes(without_length(whole))
    for source in (piped, piped.read_bytes(), piped.read_bytes()[: len(whole) // 2]):
        reason, message = refusal(source)
        assert reason == "LENGTH_MISSING"
        assert "no length in its header" in message
        assert "encode it again" in message
    with pytest.raises(InputError, match="no length"):
        open_recording(piped)


@pytest.mark.parametrize("n_missing", [1, 1_000, 20_000])
def test_flac_that_lost_its_end_is_truncated(n_missing: int) -> None:
    """A FLAC with a length in its header that ends early, by one byte or many, is truncated as ever."""
    whole = encoded(chirp(), form="FLAC")
    assert len(read(whole)) == 3 * 48_000
    assert refusal(whole[:-n_missing])[0] == "TRUNCATED"


def test_wav_with_other_chunks() -> None:
    """Chunks before and after the data, also of odd length, neither hide a missing end nor invent one."""
    data = encoded(chirp())
    note = b"note" + struct.pack("<I", 3) + b"abc\0"
    whole = data[:36] + note + data[36:] + note
    whole = patched(whole, 4, "<I", len(whole) - 8)
    assert len(read(whole)) == 3 * 48_000
    assert refusal(whole[:-1_000])[0] == "TRUNCATED"


def test_closing() -> None:
    """Leaving the context closes the recording, and opening a refused file leaves nothing open."""
    with open_recording(io.BytesIO(encoded(chirp()))) as recording:
        pass
    assert recording._file.closed
    file = io.BytesIO(encoded(chirp(), 500_000))
    with pytest.raises(InputError):
        Recording(file)
    assert not file.closed  # the caller's file stays the caller's


def test_a_folder_is_searched(tmp_path: Path) -> None:
    """Recordings of all subfolders are found, sorted; hidden files, hidden folders, other files and folders are not."""
    names = ["b/x.WAV", "a/y.flac", "a/._y.flac", ".trash/z.wav", ".z.wav", "a/.old/deep/z.wav", "notes.txt", "c.mp3"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    found = [str(path.relative_to(tmp_path)) for path in recordings_below(tmp_path)]
    assert found == ["a/y.flac", "b/x.WAV", "c.mp3"]
    assert [path.name for path in recordings_below(tmp_path / ".trash")] == ["z.wav"]


def test_suffixes_are_readable() -> None:
    """Every file name ending that is searched for belongs to a format of this libsndfile."""
    containers = {"oga": "ogg", "opus": "ogg", "aif": "aiff"}
    known = {name.lower() for name in soundfile.available_formats()}
    assert {containers.get(suffix[1:], suffix[1:]) for suffix in AUDIO_SUFFIXES} <= known


@pytest.mark.real_data
@pytest.mark.skipif(not SOUNDSCAPE.is_dir(), reason="the recordings beside the checkout are absent")
@pytest.mark.parametrize("lossy", ["ogg", "mp3"])
def test_codecs_agree_on_a_real_soundscape(lossy: str) -> None:
    """The same real recording as FLAC and as OGG or MP3 has the same length to 50 ms and correlates above 0.9."""
    exact, other = (read(SOUNDSCAPE / f"soundscape.{form}") for form in ("flac", lossy))
    assert abs(len(exact) - len(other)) < 0.05 * 48_000
    n = min(len(exact), len(other))
    assert np.corrcoef(exact[:n], other[:n])[0, 1] > 0.9
