"""Measure what a field station needs: a station process that plays noise into a server, once as PCM and once as FLAC.

The last line is JSON. What its fields mean:

cpu_ms_per_audio_second   processor time of the station process between two looks, for each second of audio it took in
rss_mb                    memory of the station process at the end
captured_s, committed_s   of the measured session; committed runs behind by a few seconds while it plays
heavy_modules             libraries of service and training that the station's imports bring along: must be none
disk_bytes_per_second     that the spool grew by
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parent.parent
SONGSTREAM = str(Path(sys.executable).with_name("songstream"))
HEAVY = ("faiss", "librosa", "matplotlib", "onnxruntime", "pandas", "ray", "sklearn", "sqlalchemy", "torch")
IMPORTS = f"""
import sys
from songstation import microphone, station, station_metrics, station_settings, wire
print(",".join(name for name in {HEAVY} if name in sys.modules))
"""
WARM_S = 5.0


def main() -> None:
    """Run both encodings and print the JSON line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=60.0, help="Seconds of audio to measure, per encoding.")
    options.add_argument("--rate", type=int, default=48_000, help="Sample rate, Hz.")
    options.add_argument("--bundle", type=Path, default=ROOT / "models" / "demo-v1", help="Bundle of the server.")
    given = options.parse_args()
    result: dict[str, Any] = {"rate_hz": given.rate, "chunk_s": 0.5}
    found = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True).stdout.strip()
    result["heavy_modules"] = found.split(",") if found else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recording = folder / "noise.wav"
        n_samples = round((given.seconds + 2 * WARM_S) * given.rate)
        noise = np.random.default_rng(1).normal(0, 300, n_samples).astype(np.int16)
        soundfile.write(recording, noise, given.rate, subtype="PCM_16")
        command = [SONGSTREAM, "serve", "--bundle", str(given.bundle), "--data-dir", str(folder / "data"), "--json"]
        command += ["--listen", "127.0.0.1:0", "--metrics-port", "0", "--device", "cpu"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            try:
                assert server.stdout
                address = json.loads(server.stdout.readline())["address"]
                for encoding in ("linear16", "flac"):
                    result[encoding] = measure(address, recording, folder / encoding, encoding, given.seconds)
            finally:
                server.terminate()
    print(json.dumps(result))


def measure(address: str, recording: Path, spool: Path, encoding: str, seconds: float) -> dict[str, float]:
    """Return what one station needs while it plays for so many seconds, its start left out."""
    command = [SONGSTREAM, "station", "run", "--server", address, "--spool", str(spool), "--play", str(recording)]
    command += ["--encoding", encoding, "--metrics-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as station:
        try:
            first = look(spool, station.pid, WARM_S)
            last = look(spool, station.pid, WARM_S + seconds)
            rss_mb = _rss_mb(station.pid)
        finally:
            station.kill()
    audio_s = last["captured_s"] - first["captured_s"]
    return {
        "cpu_ms_per_audio_second": round(1000 * (last["cpu_s"] - first["cpu_s"]) / audio_s, 2),
        "rss_mb": round(rss_mb, 1),
        "captured_s": last["captured_s"],
        "committed_s": round(last["committed_s"], 3),
        "disk_bytes_per_second": round((last["spool_bytes"] - first["spool_bytes"]) / audio_s),
    }


def look(spool: Path, process: int, captured_s: float) -> dict[str, float]:
    """Return processor time and state of the station once it has taken in so much."""
    seen = None
    while True:
        time.sleep(0.02)
        try:
            state = json.loads((spool / "state.json").read_text())
        except FileNotFoundError:
            continue
        # Just written, so that the processor time belongs to it.
        if state["time"] != seen and state["account"]["captured_s"] >= captured_s:
            return {
                "cpu_s": _cpu_s(process),
                "captured_s": state["account"]["captured_s"],
                "committed_s": state["committed_samples"] / state["sample_rate_hz"],
                "spool_bytes": state["spool_bytes"],
            }
        seen = state["time"]


def _cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


if __name__ == "__main__":
    main()
