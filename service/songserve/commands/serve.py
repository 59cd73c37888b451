"""``songstream serve``: runs the service until it is asked to stop."""

import asyncio
import gc
import json
import logging
import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from songserve.settings import ServeSettings

__all__ = ["serve"]


def serve(  # noqa: PLR0913, PLR0917 - one parameter per option
    bundle: Annotated[
        Path | None,
        typer.Option(help="Directory of the first bundle; later ones are activated by digest.", show_default=False),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Directory of the database; made if missing.", show_default=False)
    ] = None,
    listen: Annotated[
        str | None, typer.Option(help="host:port of gRPC [default: 127.0.0.1:50051]; port 0 is any.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of Prometheus' HTTP [default: 9464]; 0 is any.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Where the encoder runs: auto, cpu or cuda [default: auto].")
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="PEM file of the certificate with its chain.", show_default=False)
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its key.", show_default=False)] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="Let in only clients with a certificate of this authority.", show_default=False)
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="Let in only holders of a token, see `songstream token`.", show_default=False)
    ] = None,
    *,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen without encryption or tokens where others can reach it.")
    ] = False,
    activate_bundle: Annotated[
        bool, typer.Option("--activate-bundle", help="Make --bundle the active one, whatever was active before.")
    ] = False,
    config: Annotated[Path | None, typer.Option(help="TOML file with any of the settings.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line when ready.")] = False,
) -> None:
    """Serve a bundle: stations stream sound in, songs come out, are stored and counted.

    Every setting can also be given as `SONGSTREAM_SERVE_<NAME>` in the environment or in the --config file; the command
    line wins over the environment, and that over the file. docs/operating.md lists all of them.

    Where others than this machine can reach it, it takes a certificate and tokens, or --insecure: docs/security.md.

    Prints one line with the addresses when it is ready. SIGTERM or Ctrl-C makes it stop in order: it takes no new
    calls, commits what its streams have sent, and exits with 0.
    """
    # Streams are what runs in parallel here; threads inside a small matrix product only get into each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from songserve.settings import load_settings

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("faiss").setLevel(logging.WARNING)
    given = {
        "bundle": bundle,
        "data_dir": data_dir,
        "listen": listen,
        "metrics_port": metrics_port,
        "device": device,
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
        "tls_client_ca": tls_client_ca,
        "token_file": token_file,
        "insecure": insecure or None,
        "activate_bundle": activate_bundle or None,
    }
    settings = load_settings(given, file=config)
    asyncio.run(_serve(settings, as_json=as_json))


async def _serve(settings: "ServeSettings", *, as_json: bool) -> None:
    log = logging.getLogger(__name__)
    from songcore.bundle import load_bundle
    from songserve.server import serving

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if not settings.protected:
        host = settings.listen_address[0]
        log.warning("insecure: whoever reaches %s can read along, send sound under any name and read all songs", host)
    first = [load_bundle(settings.bundle, device=settings.device)]
    # What is loaded by now stays: searching it for garbage again and again took a tenth of the event loop's time.
    gc.collect()
    gc.freeze()
    # Not held here, so that it leaves the memory when another one serves.
    async with serving(settings, first.pop(), version=version("songstream")) as server:
        addresses, bundle = server.addresses, server.bundle
        if as_json:
            ready = {"address": addresses.grpc, "metrics": addresses.metrics, "bundle": bundle.digest}
            print(json.dumps(ready), flush=True)
        else:
            name = f"{bundle.manifest.name} ({bundle.digest[:12]}, {bundle.embedder.provider})"
            print(f"serving {name} on {addresses.grpc}, metrics on {addresses.metrics}", flush=True)
        del bundle
        await stop.wait()
        log.info("stopping: committing what the streams have sent")
