"""Generate the Python of the API from its .proto files into service/songserve/v1, or check that it is up to date.

The generated files are committed, so that nothing needs a compiler at installation. Message types come from protoc, the
stubs from mypy-protobuf, which also types the services.
"""

# ruff: noqa: INP001 - a program, not a package

import argparse
import filecmp
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
SOURCES = ROOT / "songserve" / "v1"
TARGET = ROOT.parent / "service" / "songserve" / "v1"
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def generate(target: Path) -> None:
    """Write the generated package tree below ``target``."""
    scripts = Path(sysconfig.get_path("scripts"))
    files = sorted(SOURCES.glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}"]
    command += [f"--plugin=protoc-gen-{name}={scripts / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
    messages = [*command, f"--python_out={target}", f"--mypy_out=quiet:{target}", *map(str, files)]
    services = [*command, f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}"]
    services += [str(file) for file in files if re.search(r"^service ", file.read_text(), re.MULTILINE)]
    for arguments in (messages, services):
        subprocess.run(arguments, check=True)  # noqa: S603 - our own compiler on our own files


def generated_files(folder: Path) -> set[str]:
    """Return the names of the generated files in a folder."""
    return {file.name for pattern in GENERATED for file in folder.glob(pattern)}


def main() -> int:
    """Generate, or with --check compare and return 1 when something differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when the committed files differ")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / "songserve" / "v1"
        names = generated_files(fresh) | generated_files(TARGET)
        _, different, missing = filecmp.cmpfiles(fresh, TARGET, sorted(names), shallow=False)
        if not check:
            for name in missing:
                (TARGET / name).unlink(missing_ok=True)
            for name in generated_files(fresh):
                shutil.copyfile(fresh / name, TARGET / name)
    stale = different + missing
    if stale:
        verb = "differ from what protos/ gives; run `python protos/generate.py` with the pinned grpcio-tools and"
        print(f"{', '.join(stale)} {verb} commit" if check else f"updated {', '.join(stale)}")
    else:
        print(f"{len(names)} generated files are up to date")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
