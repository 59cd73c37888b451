"""``songstream station run``: the program of a recorder in the field, started, watched and started anew."""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum, auto
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from songcore.errors import SongError
from songcore.printed_json import plain_json

if TYPE_CHECKING:
    from songcore.credentials import Credentials
    from songstation.dialogue import HeardSong
    from songstation.sources import Source
    from songstation.station import FieldStation
    from songstation.station_account import Picture
    from songstation.station_plan import StationPlan
    from songstation.station_settings import StationSettings

__all__ = ["STATE_FILE", "run"]

STATE_FILE = "state.json"
_STATE_S = 2.0
_STANDSTILL_S = 30.0
"""A device is given up after `device_silent_s` of silence; a capture that is silent for so much longer stands still."""
_MISSING_SINCE = "SONGSTREAM_DEVICE_MISSING_SINCE"
"""Where a station that starts anew tells itself, by the monotonic clock, since when it has had no device."""


def run(  # noqa: PLR0913, PLR0917 - one parameter per option
    server: Annotated[str | None, typer.Option(help="host:port of the service [default: 127.0.0.1:50051].")] = None,
    name: Annotated[
        str | None, typer.Option("--station", help="Name of this station: small letters, digits, hyphens.")
    ] = None,
    spool_dir: Annotated[
        Path | None,
        typer.Option("--spool", help="Directory of the spool; songstream-station in /var/lib if not given."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Microphone by name, part of it, or number.")] = None,
    rate: Annotated[int | None, typer.Option(help="Microphone's sample rate, Hz.")] = None,
    channel: Annotated[int | None, typer.Option(help="Listen to this channel, from 1.")] = None,
    play: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Play a recording, at its own speed, and end.")
    ] = None,
    pipe: Annotated[
        Path | None,
        typer.Option(help="Named pipe with 16-bit mono samples at --rate, as `arecord -t raw` writes them."),
    ] = None,
    encoding: Annotated[
        Literal["linear16", "flac"] | None, typer.Option(help="On the wire; flac takes half the bytes.")
    ] = None,
    spool_mb: Annotated[int | None, typer.Option(help="Most that the spool takes [default: 20000].")] = None,
    spool_full: Annotated[
        Literal["stop-new", "drop-oldest", "thin"] | None, typer.Option(help="What is lost when it is full.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="Authority of the server's certificate, PEM.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="This station's own certificate, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with this station's token.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port of Prometheus' HTTP [default: 9465].")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Do not encrypt beyond this machine.")] = False,
    config: Annotated[Path | None, typer.Option(help="TOML file with any of the settings.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each song as a line of JSON.")] = False,
) -> None:
    """Listen until stopped: sound goes into a spool on disk, and from there to the server, with songs coming back.

    Sound is kept from the first second on, also while the token or a certificate cannot be read or the metrics' port is
    taken; `status` says so then, and each is tried again until it works.

    What is in the spool survives a lost connection, a crash and a power cut. After an outage of more than half a minute
    sound is live again at once, and what was heard meanwhile follows beside it. A microphone that is unplugged is waited
    for. What cannot be kept (a full disk, a device that loses samples) is declared to the server as a gap.

    Every setting can also be given as `SONGSTREAM_STATION_<NAME>` in the environment or in the --config file; the command
    line wins over the environment, and that over the file. docs/station.md lists all of them.

    SIGTERM or Ctrl-C ends it in order: what can be sent within ten seconds is sent, the rest the next time.
    """
    from songstation.station_settings import load_settings

    # PortAudio's binding turns file 2 away while it looks for devices: for good, if the sound system hangs just then.
    errors = os.fdopen(os.dup(2), "w", buffering=1)
    logging.basicConfig(level=logging.INFO, stream=errors, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    given: dict[str, Any] = {
        "server": server,
        "station": name,
        "spool": spool_dir,
        "device": device,
        "rate": rate,
        "channel": channel,
        "play": play,
        "pipe": pipe,
        "encoding": encoding,
        "spool_mb": spool_mb,
        "spool_full": spool_full,
        "ca": ca,
        "certificate": certificate,
        "key": key,
        "token_file": token_file,
        "metrics_port": metrics_port,
        "insecure": insecure or None,
    }
    match asyncio.run(_run(load_settings(given, environment=os.environ, file=config), as_json=as_json)):
        case _Ending.STUCK:
            # The spool is closed; threads that the sound system holds end with this program, which starts in its place.
            logging.getLogger(__name__).warning("starting anew")
            sys.stdout.flush()
            os.dup2(errors.fileno(), 2)
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - itself, as it was started
        case _Ending.STUCK_AT_THE_STOP:
            sys.stdout.flush()
            os._exit(0)  # PortAudio would wait for its threads


class _Ending(Enum):
    IN_ORDER = auto()
    STUCK = auto()
    STUCK_AT_THE_STOP = auto()


async def _run(settings: "StationSettings", *, as_json: bool) -> "_Ending":
    from random import SystemRandom

    from songcore.credentials import credentials_for
    from songstation.channel import Channel
    from songstation.clock_kernel import clock_quality
    from songstation.eventual import Eventual
    from songstation.recovery import Backoff
    from songstation.spool import Spool
    from songstation.station import FieldStation
    from songstation.station_metrics import StationMetrics
    from songstation.watchdog import Watchdog

    credentials = credentials_for(
        settings.server,
        ca=settings.ca,
        certificate=settings.certificate,
        key=settings.key,
        token_file=settings.token_file,
        insecure=settings.insecure,
        late=True,
    )
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    opened = Spool(settings.spool, settings.spool_limits(), now_s=loop.time)
    rng = SystemRandom()

    def backoff() -> Backoff:
        return Backoff(rng, first_s=settings.first_retry_s, longest_s=settings.longest_retry_s)

    shown = Eventual(credentials.read, backoff())
    async with Channel(settings.server, shown, keepalive_s=settings.keepalive_s) as channel:
        field = FieldStation(
            channel,
            opened,
            _plan(settings, credentials),
            lambda: _source(settings),
            rng=rng,
            now=lambda: datetime.now(UTC),
            clock_quality=lambda: clock_quality(settings.clock),
            on_song=_print_song if as_json else lambda _: None,
            missing_since_s=float(since) if (since := os.environ.pop(_MISSING_SINCE, "")) else None,
            comes_back=settings.play is None,
        )

        def picture() -> "Picture":
            # A station that has nothing to show itself with is shut out, too.
            now = field.picture()
            return replace(now, refused=shown.trouble or now.refused)

        metrics = StationMetrics(picture)
        opened.on_sync = metrics.sync_seconds.observe
        served = Eventual(lambda: metrics.serve(settings.metrics_host, settings.metrics_port), backoff())
        logging.getLogger(__name__).info("station %s", settings.station)
        trying = [asyncio.create_task(shown.get()), asyncio.create_task(served.get())]
        watchdog = Watchdog(os.environ.get("NOTIFY_SOCKET"))
        watchdog.ready()

        def write_state() -> "Picture":
            address, _ = served.result or ("", None)
            return _write_state(picture(), settings.spool / STATE_FILE, address, served.trouble)

        still_s = settings.device_silent_s + _STANDSTILL_S
        telling = asyncio.create_task(_tell(write_state, field, watchdog, still_s=still_s))
        telling.add_done_callback(lambda _: stop.set())
        ending = _Ending.IN_ORDER
        try:
            ending = await _to_the_end(field, stop)
        finally:
            # After this word systemd waits for the process to be gone, and kills it: not one that starts anew.
            if ending is not _Ending.STUCK:
                watchdog.stopping()
            for task in (telling, *trying):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            if served.result:
                served.result[1].shutdown()
            write_state()
        return ending


def _plan(settings: "StationSettings", credentials: "Credentials") -> "StationPlan":
    from songstation.link import LinkSettings
    from songstation.station_plan import StationPlan

    link = LinkSettings(
        settings.answer_s,
        settings.heartbeat_s,
        settings.first_retry_s,
        settings.longest_retry_s,
        credentials.metadata,
        settings.refused_retry_s,
    )
    return StationPlan(
        settings.station,
        f"songstream {version('songstream')}",
        link,
        settings.encoding,
        settings.chunk_s,
        settings.outage_s,
        settings.clock_limit_s,
        settings.device_retry_s,
        settings.device_answer_s,
        settings.stop_grace_s,
    )


async def _to_the_end(field: "FieldStation", stop: asyncio.Event) -> "_Ending":
    from songstation.device_calls import STUCK

    try:
        await field.run(stop)
    except SongError as error:
        if error.reason != STUCK:
            raise
        logging.getLogger(__name__).warning("%s", error)
        if field.missing_since_s is not None:
            os.environ[_MISSING_SINCE] = str(field.missing_since_s)
        return _Ending.STUCK_AT_THE_STOP if stop.is_set() else _Ending.STUCK
    return _Ending.IN_ORDER


def _source(settings: "StationSettings") -> "Source":
    from songstation.microphone import Microphone, look_for_devices
    from songstation.pipe import Pipe
    from songstation.sources import Playback

    if settings.play is not None:
        return Playback(settings.play, channel=settings.channel, chunk_s=settings.chunk_s)
    if settings.pipe is not None and settings.rate is not None:
        silent_s = settings.device_silent_s
        return Pipe(settings.pipe, sample_rate_hz=settings.rate, chunk_s=settings.chunk_s, silent_s=silent_s)
    look_for_devices()
    return Microphone(
        settings.device,
        sample_rate_hz=settings.rate,
        channel=settings.channel,
        chunk_s=settings.chunk_s,
        silent_s=settings.device_silent_s,
    )


async def _tell(
    write_state: Callable[[], "Picture"], field: Any, watchdog: Any, *, still_s: float, pause_s: float = _STATE_S
) -> None:
    """Keep the state file and systemd up to date; the watchdog bites when this loop or the capture stands still."""
    while True:
        picture = write_state()
        link = "connected" if picture.is_connected else "refused" if picture.refused else "no server"
        status = f"{picture.device or 'no device'}, {link}, {picture.waiting_s:.0f} s waiting"
        stands_s = field.standstill_s
        is_alive = stands_s < still_s
        watchdog.tell(status if is_alive else f"{status}, standing still for {stands_s:.0f} s", is_alive=is_alive)
        await asyncio.sleep(pause_s)


def _write_state(picture: "Picture", path: Path, address: str, trouble: str) -> "Picture":
    """Write the picture, with the address of its metrics or why there is none; return it."""
    scratch = path.with_suffix(".part")
    try:
        scratch.write_text(json.dumps({**picture.to_dict(), "metrics": address, "metrics_trouble": trouble}))
        scratch.replace(path)
    except OSError as error:
        logging.getLogger(__name__).warning("%s cannot be written: %s", path, error)
    return picture


def _print_song(song: "HeardSong") -> None:
    print(plain_json(song.to_dict()), flush=True)
