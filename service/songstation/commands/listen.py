"""``songstream listen``: a microphone or a recording to a server, and the songs back."""

import asyncio
import json
import os
import signal
import sys
from dataclasses import asdict
from datetime import UTC, datetime, tzinfo
from importlib.metadata import version
from math import inf
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from songcore.errors import ConfigError
from songcore.names import is_name
from songcore.printed_json import plain_json
from songcore.printed_tables import add_number_columns, print_table

if TYPE_CHECKING:
    from songcore.credentials import Credentials
    from songstation.listening import Account, Station
    from songstation.recovery import Failure
    from songstation.sources import Playback, Source
    from songstation.wire import HeardSong

__all__ = ["listen"]


def listen(  # noqa: PLR0913, PLR0917 - one argument per option of the command
    recording: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, help="A recording to play instead of a microphone.")
    ] = None,
    server: Annotated[str, typer.Option(envvar="SONGSTREAM_SERVER", help="host:port of the service.")] = (
        "127.0.0.1:50051"
    ),
    station: Annotated[str, typer.Option(help="Name of this station: small letters, digits and hyphens.")] = "station",
    device: Annotated[str | None, typer.Option(help="Microphone by name, part of it, or number.")] = None,
    rate: Annotated[int | None, typer.Option(min=8_000, max=384_000, help="Microphone's sample rate, Hz.")] = None,
    channel: Annotated[int | None, typer.Option(min=1, help="Listen to this channel, from 1.")] = None,
    speed: Annotated[str, typer.Option(help="Play a recording so many times as fast, or max.")] = "1",
    start: Annotated[
        str | None,
        typer.Option(
            help="When the recording began, 2026-05-01T21:30:00+02:00 say, or now: as if sung now.  "
            "[default: what the recording says]",
            show_default=False,
        ),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(help="What times mean that tell no zone: Europe/Berlin or +02:00, say.", show_default=False),
    ] = None,
    chunk_s: Annotated[float, typer.Option(min=0.05, max=5, help="Seconds of sound in one message.")] = 0.5,
    buffer_mb: Annotated[int, typer.Option(min=1, help="Memory for sound that is not committed yet, MB.")] = 64,
    ca: Annotated[
        Path | None,
        typer.Option(exists=True, help="Authority of the server's certificate, PEM [default: the public ones]."),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(exists=True, help="This station's own certificate, PEM.", show_default=False)
    ] = None,
    key: Annotated[Path | None, typer.Option(exists=True, help="Its key, PEM.", show_default=False)] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            exists=True, envvar="SONGSTREAM_TOKEN_FILE", help="File with this station's token.", show_default=False
        ),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Do not encrypt beyond this machine.")] = False,
    list_devices: Annotated[bool, typer.Option("--list-devices", help="List the microphones and end.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each song, and the account, as a line of JSON.")
    ] = False,
) -> None:
    """Stream a microphone, or a recording, to a server and print the songs that it hears.

    Sound is kept in memory until the server has committed it. A server that is away is waited for, and gets
    everything since its last commit when it is back. When the memory is full, a recording waits; a microphone goes
    on, and what cannot be kept is declared as a gap, never lost silently (at 48 kHz, 64 MB hold 11 minutes).

    Each song is a line: when it was sung, where in the sound, how long it is, its type (of a novel song the nearest, as
    `T0007?`), how like that it is, and what is special about it.

    A server on another machine is spoken to over TLS, and proves itself by a certificate of the public authorities or of
    --ca. Its operator gives each station a token.

    Several channels are played as their mean, and a microphone is opened with one, unless --channel chooses.

    A recording brings its own time: by AudioMoth's comment, GUANO metadata or its name, as `classify` reads them, or by
    --start. For one station it then is one session: played again, it goes on where the server is with it, and a
    recording that the server has is not sent again. A recording that tells no time counts as sung now, each time.

    Ctrl-C ends the session in order, or leaves that of a recording open, to go on when it is played again; it ends at
    once when no server has been reached.

    Exit status: 0 everything was committed, or a recording was stopped; 1 the source or the server ended it before, or
    no server was reached; 2 wrong usage.
    """
    from songcore.credentials import credentials_for
    from songstation.link import LinkSettings
    from songstation.listening import Station
    from songstation.microphone import Microphone
    from songstation.sources import Playback

    if list_devices:
        _list_devices(as_json=as_json)
        return
    playing_speed = _speed(speed)
    _check_station(station)
    credentials = credentials_for(
        server, ca=ca, certificate=certificate, key=key, token_file=token_file, insecure=insecure
    )
    source: Source
    printer = _Printer(as_json=as_json)
    zone = _zone(timezone)
    began = _start(start, zone, printer)
    if recording is not None:
        source = Playback(recording, channel=channel, speed=playing_speed, chunk_s=chunk_s, start=began, zone=zone)
        if began == "stated":
            _warn_of_now(source, playing_speed, printer)
            _warn_of_skipped(source.stated, zone, printer)
    elif start is not None or timezone is not None:
        raise typer.BadParameter("--start and --timezone say when a recording began; none is given")
    else:
        source = Microphone(device, sample_rate_hz=rate, channel=channel, chunk_s=chunk_s)
    settings = LinkSettings(metadata=credentials.metadata)
    who = Station(station, f"songstream {version('songstream')}", buffer_mb * 10**6, settings)
    account = asyncio.run(_listen(server, credentials, source, who, printer))
    _print_account(account, as_json=as_json)
    if account.is_stuck:
        sys.stdout.flush()
        os._exit(1 if account.problem or not account.is_reached else 0)  # PortAudio would wait for its threads
    if account.problem:
        raise ConfigError(f"stopped early: {account.problem}", reason="SOURCE_ENDED")
    if not account.is_reached:
        lost = f"{account.captured_s:.1f} s of sound were given up" if recording is None else "nothing was sent"
        said = f" ({printer.last_trouble})" if printer.last_trouble else ""
        raise ConfigError(f"stopped before {server} let it in{said}; {lost}", reason="SERVER_UNREACHABLE")


async def _listen(
    server: str, credentials: "Credentials", source: "Source", who: "Station", printer: "_Printer"
) -> "Account":
    from songstation.channel import Channel
    from songstation.listening import listen as listen_to

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end(number: signal.Signals) -> None:
        # The second Ctrl-C is not waited for.
        loop.remove_signal_handler(number)
        printer.note("ending the session; Ctrl-C again gives up what is not committed")
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    async with Channel(server, credentials) as channel:
        return await listen_to(
            channel,
            source,
            who,
            rng=SystemRandom(),
            now=lambda: datetime.now(UTC),
            stop=stop,
            on_song=printer.song,
            on_trouble=printer.trouble,
        )


class _Printer:
    """Writes what happens, for people or for programs."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._console = Console(stderr=True)
        self.last_trouble = ""
        """How the server refused, or that there was none."""

    def song(self, song: "HeardSong") -> None:
        if self._as_json:
            print(plain_json(song.to_dict()), flush=True)
            return
        name = f"{song.type_id}?" if song.novel else song.type_id
        remarks = [] if song.quality in {"", "good"} else [song.quality]
        remarks += ["cut"] if song.forced_cut else []
        remarks += ["noise"] if not song.is_song else [song.novelty] if song.novelty in {"uncertain", "novel"} else []
        length_s = song.offset_s - song.onset_s
        print(
            f"{song.start:%Y-%m-%d %H:%M:%S}.{song.start.microsecond // 1000:03d}Z  {song.onset_s:9.2f} s  "
            f"{length_s:5.2f} s  {name:<8}  similarity {song.similarity:.3f}  {' '.join(remarks)}".rstrip(),
            flush=True,
        )

    def trouble(self, failure: "Failure", delay_s: float) -> None:
        from songcore.credentials import advice

        self.last_trouble = f"{failure}{advice(failure.reason)}"
        self.note(f"{self.last_trouble}; trying again in {delay_s:.1f} s, sound is kept")

    def note(self, text: str) -> None:
        self._console.print(text, style="yellow", markup=False, highlight=False)


def _speed(text: str) -> float:
    if text == "max":
        return inf
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < inf:
        raise typer.BadParameter(f"speed {text!r}; expected a number above 0, or max")
    return speed


def _zone(text: str | None) -> tzinfo | None:
    from songcore.recorders import read_timezone

    try:
        return None if text is None else read_timezone(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--timezone") from error


def _start(text: str | None, zone: tzinfo | None, printer: "_Printer") -> datetime | Literal["stated", "now"]:
    """Return what --start says, a time in UTC; raises BadParameter."""
    from songcore.recorders import utc_start

    if text is None:
        return "stated"
    if text == "now":
        return "now"
    try:
        stated = datetime.fromisoformat(text)
        # Near the ends of the calendar some times are none in UTC.
        time = utc_start(stated, zone)
    except (ValueError, OverflowError):
        time = None
    if time is None:
        raise typer.BadParameter(
            f"start {text!r}; expected now, or a time such as 2026-05-01T21:30:00+02:00, with --timezone if it tells no zone"
        )
    _warn_of_skipped(stated, zone, printer)
    return time


def _warn_of_skipped(stated: datetime | None, zone: tzinfo | None, printer: "_Printer") -> None:
    """Say that a recording's clock keeps another time than the zone that was given for it."""
    from songcore.recorders import is_skipped

    if stated is not None and is_skipped(stated, zone):
        printer.note(
            f"{stated:%Y-%m-%d %H:%M:%S} is a time that --timezone {zone} does not have, as clocks there go forward: the "
            "recorder does not follow that zone, and its times in summer are off, mostly by an hour. Give the offset that it "
            "keeps, such as --timezone +01:00"
        )


def _warn_of_now(recording: "Playback", speed: float, printer: "_Printer") -> None:
    """Say that a recording's songs will be stored as sung now, where that is likely not meant."""
    if recording.start is not None or (recording.stated is None and speed <= 1):
        return
    found = (
        "it tells no time"
        if recording.stated is None
        else f"its time {recording.stated:%Y-%m-%d %H:%M:%S} tells no zone: say --timezone"
    )
    future = ", with times that run ahead of the clock" if speed > 1 else ""
    printer.note(
        f"{found}; its songs are stored as sung now{future}, and again each time that it is played. "
        "Say when it began with --start, or --start now if that is meant"
    )


def _check_station(name: str) -> None:
    if not is_name(name):
        raise typer.BadParameter(f"station {name!r}; expected small letters, digits and hyphens, at most 63")


def _list_devices(*, as_json: bool) -> None:
    from songstation.microphone import input_devices

    devices = input_devices()
    if as_json:
        print(json.dumps([asdict(device) for device in devices]))
        return
    table = Table("device", title="Microphones" if devices else "No microphones")
    add_number_columns(table, "channels", "rate, Hz")
    table.add_column("default")
    for device in devices:
        cells = device.name, str(device.n_channels), f"{device.sample_rate_hz:,}", "yes" if device.is_default else ""
        table.add_row(*map(escape, cells))
    print_table(table)


def _print_account(account: "Account", *, as_json: bool) -> None:
    if as_json:
        print(plain_json({"account": {**asdict(account), "types": dict(account.types.most_common())}}), flush=True)
        return
    if account.had_all:
        print(f"the server has this recording already, {account.had_s:.1f} s of it; nothing was sent")
        return
    types = ", ".join(f"{type_id} {n_songs}" for type_id, n_songs in account.types.most_common(20))
    print(
        f"{account.n_songs} songs ({account.n_novel} novel, {account.n_noise} noise) in {account.captured_s:.1f} s: "
        f"{account.committed_s:.1f} s committed, of which {account.lost_s:.1f} s declared lost; "
        f"{account.n_streams - 1} reconnects"
    )
    if account.had_s:
        print(f"the first {account.had_s:.1f} s were sent before, and their songs are not among these")
    if account.is_left:
        print("stopped in its middle; played again, it goes on from there")
    if types:
        print(f"types: {types}")
