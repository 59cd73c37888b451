"""`songstream types` and CatalogueService against a real server: what people decide is seen everywhere at once."""

import json
import re
import urllib.request
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest
import soundfile
from typer.testing import CliRunner

from bundles import soundscape
from serving import ServerThread, failure, session_name, setup, stream_all
from songcore.errors import InputError
from songserve.commands.types import types
from songserve.v1 import catalogue_pb2, catalogue_pb2_grpc, songs_pb2, songs_pb2_grpc, types_pb2
from tokens import add_token

RATE = 24_000


@pytest.fixture
def heard(server: ServerThread) -> ServerThread:
    """Return a server that heard songs of five types, the first three times."""
    stream_all(server.channel, soundscape([0, 1, 2, 3, 4, 0, 0], 31)[0], [RATE], setup(session_name("north", 1)))
    return server


def run(server: ServerThread, *arguments: str, options: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """Run a sub-command and return its JSON."""
    result = CliRunner().invoke(types, ["--server", server.addresses.grpc, *options, *arguments, "--json"], **more)
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def said(server: ServerThread, *arguments: str) -> str:
    """Run a sub-command and return what it prints for people."""
    result = CliRunner().invoke(types, ["--server", server.addresses.grpc, *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(server: ServerThread, *arguments: str, options: tuple[str, ...] = ()) -> str:
    """Run a sub-command and return the reason why it fails."""
    result = CliRunner().invoke(types, ["--server", server.addresses.grpc, *options, *arguments])
    assert result.exception is not None
    reason: str = getattr(result.exception, "reason", repr(result.exception))
    return reason


def counts(server: ServerThread) -> dict[str, int]:
    """Return songs by type, on which list, frequencies and metrics agree; noise is left out."""
    listed = {one["id"]: one["n_songs"] for one in run(server, "list")["types"] if one["kind"] == "song"}
    stub = songs_pb2_grpc.SongServiceStub(server.channel)
    (bucket,) = stub.QueryFrequencies(songs_pb2.QueryFrequenciesRequest()).buckets
    found = {one.song_type.removeprefix("songTypes/"): one.n_songs for one in bucket.counts}
    assert found == {type_id: n for type_id, n in listed.items() if n}
    with urllib.request.urlopen(server.addresses.metrics) as page:  # noqa: S310 - of our own server
        metrics = re.findall(
            r'^songstream_songs_total\{song_type="([TP]\d+)"\} (\d+)', page.read().decode(), re.MULTILINE
        )
    assert {type_id: int(n) for type_id, n in metrics} == found
    return found


def test_the_life_of_a_catalogue(heard: ServerThread, tmp_path: Path) -> None:
    """Types are named, merged, split and called noise; every count follows, the songs keep both results, and all is undone."""
    before = counts(heard)
    first = max(before, key=lambda type_id: before[type_id])
    other = next(type_id for type_id in before if type_id != first)
    shown = run(heard, "show", first, "--clips", str(tmp_path / "clips"))
    uids = [one["uid"] for one in shown["songs"]]
    assert len(uids) == before[first] >= 3
    assert all(soundfile.info(file).frames for file in shown["clips"])
    assert len(shown["clips"]) == len(uids)

    assert run(heard, "name", first, "long whistle", "--by", "ada")["type"]["name"] == "long whistle"
    made = run(heard, "split", first, "--from", "-", "--by", "ada", input=f"{uids[0]}\n{uids[1]} b\n")["type"]
    assert (made["id"], made["n_songs"], made["split_from"]) == ("P0001", 2, first)
    assert counts(heard) == {**before, first: before[first] - 2, "P0001": 2}
    run(heard, "merge", "P0001", "--into", other, "--by", "bob")
    assert counts(heard) == {**before, first: before[first] - 2, other: before[other] + 2}
    run(heard, "noise", other, "--by", "bob")
    assert counts(heard) == {**{t: n for t, n in before.items() if t != other}, first: before[first] - 2}

    song = songs_pb2_grpc.SongServiceStub(heard.channel).GetSong(songs_pb2.GetSongRequest(name=f"songs/{uids[0]}"))
    assert (song.song_type, song.kind) == (f"songTypes/{first}", types_pb2.SOUND_KIND_SONG)
    decided = (song.decided.song_type, song.decided.kind, song.decided.is_novel, song.decided.by_people)
    assert decided == (f"songTypes/{other}", types_pb2.SOUND_KIND_NOISE, False, True)

    history = run(heard, "history")["decisions"]
    assert [(one["number"], one["by"], one["action"]) for one in history] == [
        (4, "bob", "noise"),
        (3, "bob", "merge"),
        (2, "ada", "split"),
        (1, "ada", "name"),
    ]
    for number in (4, 3, 2, 1):
        run(heard, "undo", str(number), "--by", "ada")
    assert counts(heard) == before
    assert [one["undone"] for one in run(heard, "history", first)["decisions"]] == [
        False,
        False,
        True,
        True,
    ]


def test_people_read_tables(heard: ServerThread) -> None:
    """Without --json every sub-command prints what a person wants to read."""
    first = max((one for one in run(heard, "list")["types"]), key=lambda one: one["n_songs"])["id"]
    assert "is called" not in said(heard, "show", first)
    assert "'trill'" in said(heard, "name", first, "trill", "--by", "ada")
    assert "trill" in said(heard, "list")
    assert "is noise" not in said(heard, "history")
    assert "noise" in said(heard, "noise", first, "--by", "ada")
    assert "is noise" in said(heard, "history")
    shown = said(heard, "show", first)
    assert "north" in shown
    assert f"(people: {first})" in shown
    assert "undid decision 2" in said(heard, "undo", "2", "--by", "ada")


def test_a_name_is_printed_as_it_is(heard: ServerThread) -> None:
    """Also one that looks like the markup of the library that prints tables."""
    first = run(heard, "list")["types"][0]["id"]
    run(heard, "name", first, "[b]trill[/x]", "--by", "[i]ada[/y]")
    assert "[b]trill[/x]" in said(heard, "list")
    assert all(text in said(heard, "history") for text in ("'[b]trill[/x]'", "[i]ada[/y]"))
    assert "'[b]trill[/x]'" in said(heard, "show", first)


def test_commands_say_why_they_are_refused(heard: ServerThread) -> None:
    """Wrong ids, stale etags and doubtful decisions end with the server's reason."""
    ids = [one["id"] for one in run(heard, "list")["types"]]
    etag = run(heard, "show", ids[0])["type"]["etag"]
    run(heard, "name", ids[0], "a", "--by", "ada", "--etag", etag)
    assert refused(heard, "name", ids[0], "b", "--by", "bob", "--etag", etag) == "ETAG_MISMATCH"
    assert refused(heard, "merge", ids[0], "--into", ids[0]) == "MERGE_WITH_ITSELF"
    assert refused(heard, "merge", ids[0], "--into", "T0999") == "TYPE_UNKNOWN"
    assert refused(heard, "split", ids[0]) == "SPLIT_EMPTY"
    assert refused(heard, "undo", "7") == "DECISION_UNKNOWN"
    assert refused(heard, "show", "no id") == "TYPE_UNKNOWN"
    assert refused(heard, "show", " ") == "NAME_INVALID"
    assert refused(heard, "history", "T0999") == "TYPE_UNKNOWN"


def test_types_are_called_by_their_names(heard: ServerThread) -> None:
    """Each sub-command takes a name where it takes an id; an id still means the type itself, also after a merge."""
    first, other = [one["id"] for one in run(heard, "list")["types"]][:2]
    run(heard, "name", first, "long whistle", "--by", "ada")
    assert run(heard, "show", "Long Whistle")["type"]["id"] == first
    assert run(heard, "noise", "long whistle", "--by", "ada")["type"]["id"] == first
    assert run(heard, "song", "long whistle", "--by", "ada")["type"]["id"] == first
    assert run(heard, "name", "long whistle", "trill", "--by", "ada")["type"]["name"] == "trill"
    uid = run(heard, "show", "trill")["songs"][0]["uid"]
    assert run(heard, "split", "trill", uid, "--by", "ada")["type"]["split_from"] == first
    assert run(heard, "merge", other, "--into", "trill", "--by", "ada")["type"]["id"] == first
    assert len(run(heard, "history", "trill")["decisions"]) == 6
    assert run(heard, "show", other)["type"]["merged_into"] == first
    assert [one["action"] for one in run(heard, "history", other)["decisions"]] == ["merge"]
    assert refused(heard, "name", other, "b", "--by", "ada") == "TYPE_MERGED"
    run(heard, "undo", "5", "--by", "ada")
    assert [one["action"] for one in run(heard, "history", "P0001")["decisions"]] == ["undo", "split"]


def test_uids_come_out_of_any_editor(heard: ServerThread, tmp_path: Path) -> None:
    """Lines may end as Windows ends them, be empty, and begin with the mark that spreadsheets write."""
    first = max(run(heard, "list")["types"], key=lambda one: one["n_songs"])["id"]
    uids = [one["uid"] for one in run(heard, "show", first)["songs"]][:2]
    file = tmp_path / "uids.txt"
    file.write_bytes(f"\ufeff{uids[0]}\r\n\r\nsongs/{uids[1]}  the second\r\n".encode())
    assert run(heard, "split", first, "--from", str(file), "--by", "ada")["type"]["n_songs"] == 2


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (f"{UUID(int=1)}\n".encode("utf-16"), "line 1: '\\\\xff"),
        (f"{UUID(int=1)}\nLerche, männlich\n".encode("latin-1"), "line 2: 'Lerche, m\\\\xe4nnlich'"),
        (b"recording,onset_s,offset_s,label\n", "line 1: 'recording,onset_s,offset_s,label'"),
    ],
)
def test_what_is_no_list_of_uids_is_told_by_line(
    shared_server: ServerThread, tmp_path: Path, content: bytes, told: str
) -> None:
    """Another encoding or another table: the line, what is in it, and what was expected; nothing is asked of the server."""
    file = tmp_path / "songs.csv"
    file.write_bytes(content)
    options = ["--server", shared_server.addresses.grpc]
    error = CliRunner().invoke(types, [*options, "split", "T0001", "--from", str(file)]).exception
    assert isinstance(error, InputError)
    assert (error.reason, f"{file}, {told}" in str(error)) == ("NAME_INVALID", True), error
    assert "expected one uid a line, in UTF-8" in str(error)


@pytest.mark.parametrize("environment", [{"COLUMNS": "80"}, {"COLUMNS": "80", "FORCE_COLOR": "1", "NO_COLOR": "1"}])
def test_uids_are_whole_in_a_narrow_table(heard: ServerThread, environment: dict[str, str]) -> None:
    """In a pipe and on a terminal, so that they can be copied into `split`."""
    first = max(run(heard, "list")["types"], key=lambda one: one["n_songs"])["id"]
    uids = [one["uid"] for one in run(heard, "show", first)["songs"]]
    shown = CliRunner().invoke(types, ["--server", heard.addresses.grpc, "show", first], env=environment).stdout
    assert [uid in shown for uid in uids] == [True] * len(uids)


def test_tables_are_read_at_80_columns(heard: ServerThread) -> None:
    """Every column has a heading, no word is cut and no line is longer, with a type that was merged and decisions."""
    ids = [one["id"] for one in run(heard, "list")["types"]]
    run(heard, "name", ids[0], "a whistle that rises and falls", "--by", "ada")
    run(heard, "merge", ids[1], "--into", ids[0], "--by", "ada")
    terminal = {"COLUMNS": "80", "FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm"}
    for arguments, headings in (
        (["list"], ["type", "name", "kind", "songs", "origin"]),
        (["history"], ["number", "time, UTC", "by", "type", "decision", "undone"]),
        (["show", ids[0]], ["start, UTC", "station", "s", "SNR, dB", "model said", "similarity", "song"]),
    ):
        printed = CliRunner().invoke(types, ["--server", heard.addresses.grpc, *arguments], env=terminal).stdout
        text = re.sub(r"\x1b\[\d+m", "", printed)
        assert max(map(len, text.splitlines())) <= 80, text
        cells = {cell.strip() for line in text.splitlines() for cell in re.split(r"[┃│]|  +", line)}
        assert set(headings) <= cells, text
        assert "…" not in text


def test_the_token_tells_who_decides(start_server: Any, tmp_path: Path) -> None:
    """Readers look, admins decide under their token's name whatever they say, and stations do neither."""
    book = tmp_path / "tokens.json"
    options = {}
    for name, role in (("rita", "read"), ("adam", "admin"), ("north", "ingest")):
        file = tmp_path / name
        file.write_text(add_token(book, name, role))
        file.chmod(0o600)
        options[name] = ("--token-file", str(file))
    server = start_server(token_file=book)
    type_id = run(server, "list", options=options["rita"])["types"][0]["id"]
    assert refused(server, "name", type_id, "x", options=options["rita"]) == "ROLE_MISSING"
    assert refused(server, "list", options=options["north"]) == "ROLE_MISSING"
    run(server, "name", type_id, "x", "--by", "somebody else", options=options["adam"])
    (decision,) = run(server, "history", options=options["rita"])["decisions"]
    assert decision["by"] == "adam"


OF_ANOTHER = catalogue_pb2.ListDecisionsRequest(page_token="x")  # noqa: S106 - no password


def named(**fields: Any) -> catalogue_pb2.NameSongTypeRequest:
    """Return a request that only its last fields spoil."""
    return catalogue_pb2.NameSongTypeRequest(**{"name": "songTypes/T0001", "etag": "x", "decided_by": "ada", **fields})


@pytest.mark.parametrize(
    ("method", "request_message", "expected"),
    [
        ("GetSongType", catalogue_pb2.GetSongTypeRequest(name="T0001"), ("INVALID_ARGUMENT", "NAME_INVALID")),
        ("GetSongType", catalogue_pb2.GetSongTypeRequest(name="songTypes/T0999"), ("NOT_FOUND", "TYPE_UNKNOWN")),
        ("NameSongType", named(etag=""), ("INVALID_ARGUMENT", "ETAG_MISSING")),
        ("NameSongType", named(), ("ABORTED", "ETAG_MISMATCH")),
        ("NameSongType", named(decided_by=""), ("INVALID_ARGUMENT", "WHO_INVALID")),
        ("NameSongType", named(decided_by="x" * 81), ("INVALID_ARGUMENT", "WHO_INVALID")),
        (
            "MarkSongType",
            catalogue_pb2.MarkSongTypeRequest(name="songTypes/T0001", etag="x"),
            ("INVALID_ARGUMENT", "MESSAGE_INVALID"),
        ),
        ("UndoDecision", catalogue_pb2.UndoDecisionRequest(name="decisions/0"), ("INVALID_ARGUMENT", "NAME_INVALID")),
        ("ListDecisions", OF_ANOTHER, ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    shared_server: ServerThread, method: str, request_message: Any, expected: tuple[str, str]
) -> None:
    """Code and reason are those of the API's comments."""
    stub = catalogue_pb2_grpc.CatalogueServiceStub(shared_server.channel)
    with pytest.raises(grpc.RpcError) as error:
        getattr(stub, method)(request_message)
    assert failure(error.value)[:2] == expected


def test_lists_come_in_pages(heard: ServerThread) -> None:
    """Types and decisions come in pages of the size asked for, each once, and newer decisions do not shift them."""
    songs, catalogue = (
        songs_pb2_grpc.SongServiceStub(heard.channel),
        catalogue_pb2_grpc.CatalogueServiceStub(heard.channel),
    )
    found: list[str] = []
    page = songs.ListSongTypes(songs_pb2.ListSongTypesRequest(page_size=2))
    found += [one.name for one in page.song_types]
    while page.next_page_token:
        page = songs.ListSongTypes(songs_pb2.ListSongTypesRequest(page_size=2, page_token=page.next_page_token))
        found += [one.name for one in page.song_types]
    assert len(found) == len(set(found)) == 5
    for name in "abc":
        run(heard, "name", found[0].removeprefix("songTypes/"), name, "--by", "ada")
    first = catalogue.ListDecisions(catalogue_pb2.ListDecisionsRequest(page_size=2))
    run(heard, "name", found[0].removeprefix("songTypes/"), "d", "--by", "ada")
    last = catalogue.ListDecisions(catalogue_pb2.ListDecisionsRequest(page_size=2, page_token=first.next_page_token))
    names = [one.display_name for page in (first, last) for one in page.decisions]
    assert (names, last.next_page_token) == (["c", "b", "a"], "")


def test_who_watches_learns_of_decisions_at_once(heard: ServerThread) -> None:
    """A decision brings a response without songs that names it, and songs then come with what people made of them."""
    stub = songs_pb2_grpc.SongServiceStub(heard.channel)
    watch = stub.WatchSongs(songs_pb2.WatchSongsRequest(), timeout=60)
    assert next(watch).last_decision == ""
    ids = [one["id"] for one in run(heard, "list")["types"]]
    run(heard, "merge", ids[0], "--into", ids[1], "--by", "ada")
    told = next(watch)
    assert (told.last_decision, list(told.songs)) == ("decisions/1", [])
    stream_all(heard.channel, soundscape([0, 1, 2, 3, 4], 33)[0], [RATE], setup(session_name("south", 2)))
    seen: list[Any] = []
    while len(seen) < 5:
        seen += next(watch).songs
    watch.cancel()
    verdicts = {(one.song_type, one.decided.song_type) for one in seen}
    assert (f"songTypes/{ids[0]}", f"songTypes/{ids[1]}") in verdicts
    assert f"songTypes/{ids[0]}" not in {decided for _, decided in verdicts}
