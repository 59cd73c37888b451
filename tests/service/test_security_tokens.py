"""Tokens: the book, its file and the command."""

import json
import os
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from songcore.errors import ConfigError
from songserve.commands.token import token as command
from songserve.refusal import Refusal
from songserve.security.token_file import TokenFile, change_tokens, read_tokens
from songserve.security.tokens import Token, TokenBook, new_token
from tokens import run_token

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


def test_what_is_put_right_counts_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who was revoked in a file that others may write is out after the advised chmod; calls before it log that once."""
    file = tmp_path / "tokens.json"
    text, kept = seeded(1)
    change_tokens(file, lambda book: book.added("north", "ingest", kept))
    tokens = TokenFile(file)
    file.write_text(TokenBook().model_dump_json())
    file.chmod(0o666)
    assert [tokens.book.bearer(text, NOW).name for _ in range(3)] == ["north"] * 3
    assert ["chmod 600" in record.message for record in caplog.records] == [True]
    file.chmod(0o600)
    assert reason_of(tokens.book, text) == "TOKEN_INVALID"


def test_a_change_that_keeps_time_and_length_is_noticed(tmp_path: Path) -> None:
    """Another name of as many letters, written in place by a program that puts the file's time back."""
    file = tmp_path / "tokens.json"
    text, kept = seeded(1)
    change_tokens(file, lambda book: book.added("north", "ingest", kept))
    tokens, before = TokenFile(file), file.stat()
    file.write_text(file.read_text().replace("north", "south"))
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # until the file system's clock has ticked
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert tokens.book.bearer(text, NOW).name == "south"


def test_a_file_that_comes_and_goes_is_told_of_each_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder that is away for a while, and again, with the same file in it, is two problems and not one."""
    folder, away = tmp_path / "disk", tmp_path / "away"
    folder.mkdir()
    change_tokens(folder / "tokens.json", lambda book: book)
    tokens = TokenFile(folder / "tokens.json")
    for n_told in (1, 2):
        folder.rename(away)
        assert [tokens.book, tokens.book] == [TokenBook()] * 2
        away.rename(folder)
        assert tokens.book == TokenBook()
        assert len(caplog.records) == n_told


def test_the_help_says_what_an_admin_may() -> None:
    """Who gives the role away reads that it changes types and bundles and starts processes, not only that it keeps clips."""
    text = " ".join(CliRunner().invoke(command, ["add", "--help"], env={"COLUMNS": "300"}).output.split())
    for power in ("clips", "sessions", "types", "bundles", "reclusterings", "processes on the server"):
        assert power in text


def test_the_command_shows_a_token_once(tmp_path: Path) -> None:
    """Adding and rotating print the text, listing never does, and revoking and disabling act on what it shows."""
    file = ["--file", str(tmp_path / "tokens.json")]
    first = run_token("add", "north", *file, "--json")
    second = run_token("rotate", "north", *file).strip()
    listed = run_token("list", *file, "--json")
    (holder,) = listed["holders"]
    assert (holder["name"], holder["role"], holder["disabled"]) == ("north", "ingest", False)
    assert [one["id"] for one in holder["tokens"]] == [first["id"], second.split("_")[1]]
    text = (tmp_path / "tokens.json").read_text() + json.dumps(listed) + run_token("list", *file)
    assert first["token"].split("_")[2] not in text
    assert second.split("_")[2] not in text
    run_token("revoke", "north", "--id", first["id"], *file)
    run_token("disable", "north", *file)
    assert "north (disabled)" in run_token("list", *file)
    run_token("enable", "north", *file)
    book = read_tokens(tmp_path / "tokens.json")
    assert book.bearer(second, datetime.now(UTC)).name == "north"
    assert CliRunner().invoke(command, ["add", "North", *file]).exit_code == 2
    run_token("revoke", "north", *file)
    assert read_tokens(tmp_path / "tokens.json") == TokenBook()
