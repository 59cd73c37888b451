"""The real capture path: PortAudio records what PulseAudio plays."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from pulse import PulseDaemon, why_no_pulse
from serving import ServerProcess
from songstation.microphone import Microphone
from songstation.ring import RingBuffer

SONGSTREAM = str(Path(sys.executable).with_name("songstream"))
RATE_HZ = 48_000


@pytest.fixture
def pulse() -> Iterator[PulseDaemon]:
    """Return a running daemon, or skip with the reason why there is none."""
    if reason := why_no_pulse():
        pytest.skip(reason)
    try:
        daemon = PulseDaemon(RATE_HZ).__enter__()
    except OSError as error:
        pytest.skip(f"no PulseAudio: {error}")
    yield daemon
    daemon.__exit__(None, None, None)


@pytest.mark.pulse
def test_songs_played_into_the_microphone_are_heard(
    pulse: PulseDaemon, bundle_dir: Path, recording: Any, tmp_path: Path
) -> None:
    """A recording played at a microphone comes back as the songs that are in it, at their distances."""
    songs_played = recording.songs[:4]
    short = tmp_path / "short.wav"
    end_s = (songs_played[-1][1] + recording.songs[4][0]) / 2
    samples, _ = soundfile.read(recording.path, dtype="int16", stop=round(end_s * RATE_HZ))
    soundfile.write(short, samples, RATE_HZ)
    with ServerProcess(bundle_dir, tmp_path / "data") as server:
        command = [SONGSTREAM, "listen", "--server", server.ready["address"], "--rate", str(RATE_HZ), "--json"]
        station = subprocess.Popen(
            command, env=pulse.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while not pulse.is_recording():
            assert station.poll() is None, station.communicate()[1]
            time.sleep(0.05)
        pulse.play(short)
        time.sleep(1)
        station.send_signal(signal.SIGINT)
        printed, errors = station.communicate(timeout=60)
    assert station.returncode == 0, errors
    *songs, last = map(json.loads, printed.splitlines())
    account = last["account"]
    # Not one sample less than was played, unless it was declared.
    assert account["captured_s"] == account["committed_s"] >= end_s - 0.01
    assert [song["type_id"] for song in songs] == [type_id for _, _, type_id, _ in songs_played]
    if account["lost_s"] == 0:
        began_s = songs[0]["onset_s"] - songs_played[0][0]
        onsets_s = [song["onset_s"] - began_s for song in songs]
        assert onsets_s == pytest.approx([onset_s for onset_s, *_ in songs_played], abs=0.1)


@pytest.mark.pulse
def test_devices_are_listed(pulse: PulseDaemon) -> None:
    """`--list-devices` names the system's microphones and marks the default one."""
    command = [SONGSTREAM, "listen", "--list-devices"]
    listed = subprocess.run([*command, "--json"], env=pulse.environment, capture_output=True, text=True, check=True)
    devices = json.loads(listed.stdout)
    assert sum(device["is_default"] for device in devices) == 1
    assert all(device["n_channels"] > 0 for device in devices)
    shown = subprocess.run(command, env=pulse.environment, capture_output=True, text=True, check=True).stdout
    assert all(device["name"].split(":")[0] in shown for device in devices)


def test_the_callback_copies_and_counts_overflows() -> None:
    """A block goes into the ring as it is, its channel chosen; an overflow becomes as many lost samples as time says."""
    microphone = Microphone.__new__(Microphone)
    microphone.sample_rate_hz, microphone._channel, microphone._previous_end_s = 1_000, 1, None
    microphone._ring = RingBuffer(100)
    block = np.stack([np.zeros(10), np.arange(10)], axis=1).astype(np.int16)
    for begin_s, overflow in [(5.0, False), (5.01, False), (5.05, True)]:
        clock, status = SimpleNamespace(inputBufferAdcTime=begin_s), SimpleNamespace(input_overflow=overflow)
        microphone._copy(block, 10, clock, status)
    n_lost, samples = microphone._ring.read(100)
    assert (n_lost, samples.tolist()) == (0, [*range(10), *range(10)])
    n_lost, samples = microphone._ring.read(100)
    assert (n_lost, samples.tolist()) == (30, [*range(10)])
