"""Tokens: the book, its file, the command, and what a server with tokens lets in."""

import json
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from serving import ServerThread, Stream, failure, session_name, setup
from songcore.bundle import Bundle
from songcore.errors import ConfigError
from songserve.commands.token import token as command
from songserve.refusal import Refusal
from songserve.security.roles import Role
from songserve.security.token_file import TokenFile, change_tokens, read_tokens
from songserve.security.tokens import Token, TokenBook, new_token
from songserve.v1 import ingest_pb2, ingest_pb2_grpc, models_pb2, models_pb2_grpc, songs_pb2, songs_pb2_grpc

NOW = datetime(2026, 5, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def seeded(seed: int, now: datetime = NOW) -> tuple[str, Token]:
    """Return a token that a seed decides."""
    return new_token(np.random.default_rng(seed).bytes, now)


def reason_of(book: TokenBook, text: str, now: datetime = NOW) -> str:
    """Return why a token is refused."""
    with pytest.raises(Refusal) as refused:
        book.bearer(text, now)
    assert text[17:] not in str(refused.value)
    return refused.value.reason


def test_a_token_has_256_random_bits_and_only_its_hash_is_kept() -> None:
    """The text holds the id and 64 hex digits; the entry holds the id and nothing of the rest."""
    text, kept = seeded(1)
    prefix, token_id, secret = text.split("_")
    assert (prefix, token_id, len(bytes.fromhex(secret))) == ("sst", kept.id, 32)
    assert secret not in kept.model_dump_json()


@given(position=st.integers(0, 80), character=st.sampled_from("0123456789abcdefg_ \n"))
def test_a_token_with_one_other_character_is_another_token(position: int, character: str) -> None:
    """No character of a token may be another."""
    text, kept = seeded(1)
    book = TokenBook().added("north", "ingest", kept)
    changed = text[:position] + character + text[position + 1 :]
    if changed != text:
        assert reason_of(book, changed) == "TOKEN_INVALID"
    assert book.bearer(text, NOW).name == "north"


def test_two_tokens_are_valid_while_rotating_and_never_three() -> None:
    """The old one lives for the overlap; another rotation ends it at once."""
    (first, kept), (second, next_kept), (third, last_kept) = seeded(1), seeded(2), seeded(3)
    book = TokenBook().added("north", "ingest", kept).rotated("north", next_kept, overlap=DAY)
    assert book.bearer(first, NOW).name == book.bearer(second, NOW).name == "north"
    assert book.bearer(first, NOW + DAY - timedelta(microseconds=1)).name == "north"
    assert reason_of(book, first, NOW + DAY) == "TOKEN_EXPIRED"
    book = book.rotated("north", last_kept, overlap=DAY)
    assert reason_of(book, first) == "TOKEN_INVALID"
    assert book.bearer(second, NOW).name == book.bearer(third, NOW).name == "north"
    book = book.rotated("north", kept, overlap=timedelta(0))
    assert [reason_of(book, text) for text in (second, third)] == ["TOKEN_INVALID"] * 2


def test_rotating_never_lengthens_a_life() -> None:
    """A token that was to end in an hour does not live for a day because of a rotation."""
    (first, kept), (_, next_kept) = seeded(1), seeded(2)
    dying = kept.model_copy(update={"expires": NOW + timedelta(hours=1)})
    book = TokenBook().added("north", "ingest", dying).rotated("north", next_kept, overlap=DAY)
    assert reason_of(book, first, NOW + timedelta(hours=1)) == "TOKEN_EXPIRED"


def test_revoked_and_disabled_holders_are_shut_out() -> None:
    """One token, all tokens, or the holder for a while."""
    (first, kept), (second, next_kept) = seeded(1), seeded(2)
    book = TokenBook().added("north", "ingest", kept).rotated("north", next_kept, overlap=DAY)
    assert reason_of(book.revoked("north", kept.id), first) == "TOKEN_INVALID"
    assert book.revoked("north", kept.id).bearer(second, NOW).name == "north"
    assert reason_of(book.revoked("north"), second) == "TOKEN_INVALID"
    shut = book.disabled("north", disabled=True)
    assert reason_of(shut, second) == "STATION_DISABLED"
    assert shut.disabled("north", disabled=False).bearer(second, NOW).name == "north"
    for holder, token_id in (("south", None), ("north", "0" * 12)):
        with pytest.raises(ConfigError):
            book.revoked(holder, token_id)
    with pytest.raises(ConfigError, match="rotate"):
        book.added("north", "read", kept)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"schema_version": 2}',
        '{"holders": [{"name": "../up", "role": "read", "tokens": []}]}',
        '{"holders": [{"name": "a", "role": "root", "tokens": []}]}',
        '{"holders": [{"name": "a", "role": "read", "tokens": []}, {"name": "a", "role": "admin", "tokens": []}]}',
        '{"extra": 1}',
    ],
)
def test_a_damaged_file_lets_nobody_start(tmp_path: Path, content: str) -> None:
    """Text that is no book, unknown keys, names, roles and schemas, and two holders of one name."""
    file = tmp_path / "tokens.json"
    file.write_text(content)
    with pytest.raises(ConfigError) as refused:
        TokenFile(file)
    assert refused.value.reason == "TOKENS_UNREADABLE"


def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    """Who writes the file lets himself in; a missing file, a folder and an endless device are refused too."""
    file = tmp_path / "tokens.json"
    change_tokens(file, lambda book: book)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o620)
    with pytest.raises(ConfigError) as refused:
        read_tokens(file)
    assert refused.value.reason == "TOKENS_EXPOSED"
    for path in (tmp_path / "none", tmp_path, Path("/dev/zero")):
        with pytest.raises(ConfigError) as refused:
            read_tokens(path)
        assert refused.value.reason == "TOKENS_UNREADABLE"


def test_changes_of_many_at_once_are_all_kept(tmp_path: Path) -> None:
    """Eight writers add a holder each, and each is in the book; nothing else is left in the folder."""
    file = tmp_path / "tokens.json"
    new = [seeded(seed)[1] for seed in range(8)]

    def add(number: int) -> None:
        change_tokens(file, lambda book: book.added(f"station-{number}", "ingest", new[number]))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {holder.name for holder in read_tokens(file).holders} == {f"station-{number}" for number in range(8)}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tokens.json.lock", "tokens.json"]


def test_damage_while_serving_keeps_the_last_good_book(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A broken or deleted file is logged and shuts nobody out; a good one counts at once."""
    file = tmp_path / "tokens.json"
    text, kept = seeded(1)
    change_tokens(file, lambda book: book.added("north", "ingest", kept))
    tokens = TokenFile(file)
    file.write_text("{")
    assert tokens.book.bearer(text, NOW).name == "north"
    file.unlink()
    assert tokens.book.bearer(text, NOW).name == "north"
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    change_tokens(file, lambda book: book)
    assert reason_of(tokens.book, text) == "TOKEN_INVALID"
    assert text not in caplog.text


def run(*arguments: str) -> Any:
    """Run `songstream token` and return its JSON."""
    result = CliRunner().invoke(command, list(arguments))
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout) if "--json" in arguments else result.stdout


def test_the_command_shows_a_token_once(tmp_path: Path) -> None:
    """Adding and rotating print the text, listing never does, and revoking and disabling act on what it shows."""
    file = ["--file", str(tmp_path / "tokens.json")]
    first = run("add", "north", *file, "--json")
    second = run("rotate", "north", *file).strip()
    listed = run("list", *file, "--json")
    (holder,) = listed["holders"]
    assert (holder["name"], holder["role"], holder["disabled"]) == ("north", "ingest", False)
    assert [one["id"] for one in holder["tokens"]] == [first["id"], second.split("_")[1]]
    text = (tmp_path / "tokens.json").read_text() + json.dumps(listed) + run("list", *file)
    assert first["token"].split("_")[2] not in text
    assert second.split("_")[2] not in text
    run("revoke", "north", "--id", first["id"], *file)
    run("disable", "north", *file)
    assert "north (disabled)" in run("list", *file)
    run("enable", "north", *file)
    book = read_tokens(tmp_path / "tokens.json")
    assert book.bearer(second, datetime.now(UTC)).name == "north"
    assert CliRunner().invoke(command, ["add", "North", *file]).exit_code == 2
    run("revoke", "north", *file)
    assert read_tokens(tmp_path / "tokens.json") == TokenBook()


class Guarded:
    """A server with a token of each role."""

    def __init__(self, server: ServerThread, file: Path, tokens: dict[str, str]) -> None:
        self.server, self.file, self.tokens = server, file, tokens

    def metadata(self, who: str) -> Any:
        """Return the call metadata of one of the holders, or none."""
        return (("authorization", f"Bearer {self.tokens.get(who, who)}"),) if who else ()

    def stream(self, who: str, station: str = "north", number: int = 1) -> Stream:
        """Return a stream that has sent its setup."""
        first = setup(session_name(station, number))
        return Stream(self.server.channel, first, metadata=self.metadata(who))

    def refused(self, who: str, call: Any, request: Any) -> tuple[str, str]:
        """Return code and reason of a single call that is refused."""
        with pytest.raises(grpc.RpcError) as error:
            call(request, metadata=self.metadata(who))
        return failure(error.value)[:2]


@pytest.fixture
def guarded(bundle: Bundle, tmp_path: Path) -> Iterator[Guarded]:
    """Return a server that asks for tokens, of a station, a reader and an admin."""
    file = tmp_path / "tokens.json"
    tokens = {}
    holders: list[tuple[str, Role]] = [("north", "ingest"), ("reader", "read"), ("boss", "admin")]
    for name, role in holders:
        tokens[name] = run("add", name, "--role", role, "--file", str(file)).strip()
    with ServerThread(bundle, tmp_path / "data", token_file=file, recheck_s=0.05) as server:
        yield Guarded(server, file, tokens)


def test_a_station_streams_only_as_itself(guarded: Guarded) -> None:
    """Its own name is served; another's, no token, a wrong one and a reader's are refused with their reasons."""
    stream = guarded.stream("north")
    assert stream.read().setup_ack.expected_sequence_number == 1
    stream.half_close()
    assert guarded.stream("north", "south").fails_with()[:2] == ("PERMISSION_DENIED", "STATION_MISMATCH")
    assert guarded.stream("").fails_with()[:2] == ("UNAUTHENTICATED", "TOKEN_MISSING")
    assert guarded.stream("sst_" + "0" * 12 + "_" + "0" * 64).fails_with()[:2] == ("UNAUTHENTICATED", "TOKEN_INVALID")
    assert guarded.stream("reader").fails_with()[:2] == ("PERMISSION_DENIED", "ROLE_MISSING")


def test_a_station_asks_about_its_own_sessions_only(guarded: Guarded) -> None:
    """Status and songs of its own sessions; not of others', not of all, and nothing that is for readers."""
    ingest: Any = ingest_pb2_grpc.IngestServiceStub(guarded.server.channel)
    songs: Any = songs_pb2_grpc.SongServiceStub(guarded.server.channel)
    models: Any = models_pb2_grpc.ModelServiceStub(guarded.server.channel)
    metadata = guarded.metadata("north")
    assert not songs.ListSongs(songs_pb2.ListSongsRequest(session=session_name()), metadata=metadata).songs
    own = ingest_pb2.GetSessionStatusRequest(session=session_name())
    assert guarded.refused("north", ingest.GetSessionStatus, own) == ("NOT_FOUND", "SESSION_UNKNOWN")
    other = ingest_pb2.GetSessionStatusRequest(session=session_name("south"))
    assert guarded.refused("north", ingest.GetSessionStatus, other) == ("PERMISSION_DENIED", "STATION_MISMATCH")
    others = songs_pb2.ListSongsRequest(session=session_name("south"))
    assert guarded.refused("north", songs.ListSongs, others) == ("PERMISSION_DENIED", "STATION_MISMATCH")
    everything = songs_pb2.ListSongsRequest()
    assert guarded.refused("north", songs.ListSongs, everything) == ("INVALID_ARGUMENT", "NAME_INVALID")
    model = models_pb2.ListModelsRequest()
    assert guarded.refused("north", models.ListModels, model) == ("PERMISSION_DENIED", "ROLE_MISSING")
    assert models.ListModels(model, metadata=guarded.metadata("reader")).models


def test_keeping_a_clip_is_for_admins(guarded: Guarded) -> None:
    """A reader is refused by role; an admin gets as far as the song, which is not there."""
    songs: Any = songs_pb2_grpc.SongServiceStub(guarded.server.channel)
    request = songs_pb2.KeepSongClipRequest(name="songs/0", keep=True)
    assert guarded.refused("reader", songs.KeepSongClip, request) == ("PERMISSION_DENIED", "ROLE_MISSING")
    assert guarded.refused("boss", songs.KeepSongClip, request) == ("NOT_FOUND", "SONG_UNKNOWN")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["revoke", "north"], ("UNAUTHENTICATED", "TOKEN_INVALID")),
        (["disable", "north"], ("PERMISSION_DENIED", "STATION_DISABLED")),
        (["rotate", "north", "--overlap-hours", "0"], ("UNAUTHENTICATED", "TOKEN_INVALID")),
    ],
)
def test_a_revoked_station_loses_its_open_stream(guarded: Guarded, change: list[str], reason: tuple[str, str]) -> None:
    """A stream that is open ends with the reason; one of another holder goes on."""
    other = run("add", "south", "--file", str(guarded.file)).strip()
    guarded.tokens["south"] = other
    stream, beside = guarded.stream("north"), guarded.stream("south", "south", 2)
    assert stream.read().HasField("setup_ack")
    assert beside.read().HasField("setup_ack")
    run(*change, "--file", str(guarded.file))
    assert stream.fails_with()[:2] == reason
    beside.send(ingest_pb2.StreamAudioRequest(finish=ingest_pb2.Finish()))
    assert beside.read().ack.finished
    beside.half_close()


def test_the_log_never_holds_a_token(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    """Good, unknown and misplaced tokens leave no trace in the log, at any level."""
    caplog.set_level("DEBUG")
    guarded.stream("north", "south").fails_with()
    unknown = "sst_" + "1" * 12 + "_" + "2" * 64
    guarded.stream(unknown).fails_with()
    for text in (guarded.tokens["north"], unknown):
        assert text.split("_")[2] not in caplog.text


def test_health_asks_for_nothing(guarded: Guarded) -> None:
    """A probe without a token learns that the server is up, and reflection without one is refused."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    health = health_pb2_grpc.HealthStub(guarded.server.channel)
    assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(guarded.server.channel)
    ask = [reflection_pb2.ServerReflectionRequest(list_services="")]
    with pytest.raises(grpc.RpcError) as error:
        list(reflection.ServerReflectionInfo(iter(ask)))
    assert failure(error.value)[:2] == ("UNAUTHENTICATED", "TOKEN_MISSING")
    assert list(reflection.ServerReflectionInfo(iter(ask), metadata=guarded.metadata("reader")))
