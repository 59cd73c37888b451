"""TLS: who may connect, whom a certificate names, and certificates that change while the server runs."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from certificates import Authority, Files
from serving import ServerThread, Stream, failure, session_name, setup
from songcore.bundle import Bundle
from songcore.errors import ConfigError
from songserve.security.tls import TlsFiles, _Following, server_credentials
from songserve.settings import load_settings
from songserve.v1 import ingest_pb2, models_pb2, models_pb2_grpc
from tokens import add_token

NEEDED = {"bundle": Path("b"), "data_dir": Path("d")}
HOST = "127.0.0.1"
UNREACHABLE = "UNAVAILABLE"


@contextmanager
def tls_channel(server: ServerThread, ca: Path, own: Files | None = None) -> Iterator[grpc.Channel]:
    """Give a channel that trusts ``ca`` and shows its ``own`` certificate."""
    shown = (own.key.read_bytes(), own.certificate.read_bytes()) if own else (None, None)
    # Channels share connections unless told not to, and then none of them would meet a new certificate.
    options = [("grpc.use_local_subchannel_pool", 1)]
    credentials = grpc.ssl_channel_credentials(ca.read_bytes(), *shown)
    with grpc.secure_channel(server.addresses.grpc, credentials, options=options) as channel:
        yield channel


def answer(channel: grpc.Channel, *, bearer: str = "") -> str:
    """Return the code of a call that everyone with the role read may make, and the reason if there is one."""
    stub: Any = models_pb2_grpc.ModelBundleServiceStub(channel)
    metadata = (("authorization", f"Bearer {bearer}"),) if bearer else ()
    try:
        stub.ListModelBundles(models_pb2.ListModelBundlesRequest(), timeout=30, metadata=metadata)
    except grpc.RpcError as error:
        code, reason, _ = failure(error)
        return reason or code
    return "OK"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return the authority that servers and clients trust."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return another authority of the same name."""
    return Authority(tmp_path_factory.mktemp("stranger"))


def start(bundle: Bundle, folder: Path, files: Files, **settings: Any) -> ServerThread:
    """Return a server with a certificate."""
    return ServerThread(bundle, folder / "data", tls_certificate=files.certificate, tls_key=files.key, **settings)


def test_only_those_who_know_the_authority_are_served(
    bundle: Bundle, tmp_path: Path, authority: Authority, stranger: Authority
) -> None:
    """A client with the right CA gets an answer; one with another CA and one that speaks in clear get none."""
    with start(bundle, tmp_path, authority.certificate(HOST)) as server:
        with tls_channel(server, authority.ca) as channel:
            assert answer(channel) == "OK"
        with tls_channel(server, stranger.ca) as channel:
            assert answer(channel) == UNREACHABLE
        assert answer(server.channel) == UNREACHABLE


@pytest.mark.parametrize(("names", "days"), [(["127.0.0.2"], 30), (["songs.example.org"], 30), ([HOST], -1)])
def test_a_server_with_a_bad_certificate_gets_no_sound(
    bundle: Bundle, tmp_path: Path, authority: Authority, names: list[str], days: int
) -> None:
    """Clients leave a server whose certificate is for another address or name, or has expired."""
    files = authority.certificate(*names, days=days, file="bad")
    with start(bundle, tmp_path, files) as server, tls_channel(server, authority.ca) as channel:
        assert answer(channel) == UNREACHABLE


def test_a_client_certificate_names_the_station(
    bundle: Bundle, tmp_path: Path, authority: Authority, stranger: Authority
) -> None:
    """With a client CA a station is who its certificate says, and others do not get in at all."""
    files = authority.certificate(HOST)
    with start(bundle, tmp_path, files, tls_client_ca=authority.ca) as server:
        with tls_channel(server, authority.ca, authority.certificate("north")) as channel:
            stream = Stream(channel, setup())
            assert stream.read().HasField("setup_ack")
            stream.half_close()
            other = Stream(channel, setup(session_name("south", 2)))
            assert other.fails_with()[:2] == ("PERMISSION_DENIED", "STATION_MISMATCH")
            assert answer(channel) == "ROLE_MISSING"
        expired = authority.certificate("north", days=-1, file="expired")
        for own in (None, expired, stranger.certificate("north")):
            with tls_channel(server, authority.ca, own) as channel:
                assert answer(channel) == UNREACHABLE


def test_token_and_certificate_must_name_the_same_station(bundle: Bundle, tmp_path: Path, authority: Authority) -> None:
    """A stolen token is of no use with the certificate of another station; a reader's is not bound to a name."""
    file = tmp_path / "tokens.json"
    tokens = {name: add_token(file, name, role) for name, role in (("north", "ingest"), ("anna", "read"))}
    files, south = authority.certificate(HOST), authority.certificate("south")
    with start(bundle, tmp_path, files, tls_client_ca=authority.ca, token_file=file) as server:
        north = [("authorization", f"Bearer {tokens['north']}")]
        with tls_channel(server, authority.ca, south) as channel:
            assert Stream(channel, setup(), metadata=north).fails_with()[:2] == ("UNAUTHENTICATED", "CERT_INVALID")
            assert answer(channel, bearer=tokens["anna"]) == "OK"
            assert answer(channel) == "TOKEN_MISSING"
        with tls_channel(server, authority.ca, authority.certificate("north")) as channel:
            stream = Stream(channel, setup(), metadata=north)
            assert stream.read().HasField("setup_ack")
            stream.half_close()


def test_a_renewed_certificate_is_taken_without_a_restart(
    bundle: Bundle, tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """New connections get the new one, an open stream goes on, and a broken file keeps the last good one."""
    first, second = Authority(tmp_path / "first"), Authority(tmp_path / "second")
    files = first.certificate(HOST, file="server")
    with start(bundle, tmp_path, files) as server, tls_channel(server, first.ca) as before:
        stream = Stream(before, setup())
        assert stream.read().HasField("setup_ack")
        renewed = second.certificate(HOST, file="server")
        for old, new in ((files.certificate, renewed.certificate), (files.key, renewed.key)):
            old.write_bytes(new.read_bytes())
        with tls_channel(server, second.ca) as channel:
            assert answer(channel) == "OK"
        with tls_channel(server, first.ca) as channel:
            assert answer(channel) == UNREACHABLE
        files.key.write_bytes(authority.certificate(HOST, file="unfit").key.read_bytes())
        with tls_channel(server, second.ca) as channel:
            assert answer(channel) == "OK"
        assert "stays in use" in caplog.text
        stream.send(ingest_pb2.StreamAudioRequest(finish=ingest_pb2.Finish()))
        assert stream.read().ack.finished
        stream.half_close()


@contextmanager
def nothing_can_be_opened() -> Iterator[None]:
    """Let this process open no file for a while, as when it has as many as it may; root is let in everywhere else."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_files_that_could_not_be_read_are_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A renewal that came while nothing could be read is taken at the next handshake after, and the failure logged once."""
    authority = Authority(tmp_path)
    files, renewed = authority.certificate(HOST), authority.certificate(HOST, file="renewed")
    following = _Following(TlsFiles(files.certificate, files.key))
    for old, new in ((files.certificate, renewed.certificate), (files.key, renewed.key)):
        old.write_bytes(new.read_bytes())
    with nothing_can_be_opened():
        assert [following.changed() for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1
    assert following.changed() is not None
    assert following.changed() is None


def test_a_key_that_keeps_time_and_length_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A copy with the old file's time, and a change of owner or mode, move the time of the inode alone."""
    files = Authority(tmp_path).certificate(HOST)
    following, before = _Following(TlsFiles(files.certificate, files.key)), files.key.stat()
    files.key.write_bytes(bytes(before.st_size))
    while files.key.stat().st_ctime_ns == before.st_ctime_ns:  # until the file system's clock has ticked
        os.utime(files.key, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(files.key, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert following.changed() is None
    assert "stays in use" in caplog.text


@pytest.mark.parametrize(
    "damage",
    [
        lambda files, _: files.key.unlink(),
        lambda files, _: files.certificate.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n"),
        lambda files, other: files.key.write_bytes(other.key.read_bytes()),
        lambda files, _: files.certificate.write_text(""),
    ],
)
def test_files_that_do_not_fit_keep_the_server_from_starting(
    tmp_path: Path, damage: Callable[[Files, Files], object]
) -> None:
    """A missing key, broken text, the key of another certificate and an empty file are found before the first client."""
    authority = Authority(tmp_path)
    files, other = authority.certificate(HOST), authority.certificate("other")
    server_credentials(TlsFiles(files.certificate, files.key, authority.ca))
    damage(files, other)
    with pytest.raises(ConfigError) as refused:
        server_credentials(TlsFiles(files.certificate, files.key, authority.ca))
    assert refused.value.reason == "TLS_UNREADABLE"


CERTIFICATE = {"tls_certificate": Path("c"), "tls_key": Path("k")}


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, "--tls-certificate"),
        ({"token_file": Path("t")}, "--tls-certificate"),
        (CERTIFICATE, "--token-file"),
        ({**CERTIFICATE, "token_file": Path("t")}, None),
        ({**CERTIFICATE, "tls_client_ca": Path("a")}, None),
        ({"insecure": True}, None),
    ],
)
def test_beyond_loopback_encryption_and_credentials_are_needed(given: dict[str, Any], missing: str | None) -> None:
    """An address that others can reach takes both, or a word that says otherwise; the refusal names what is missing."""
    settings = {**NEEDED, "listen": "0.0.0.0:0", **given}
    if missing is None:
        assert load_settings(settings).protected == ("insecure" not in given)
        return
    with pytest.raises(ConfigError, match=missing) as refused:
        load_settings(settings)
    assert refused.value.reason == "SETTING_INVALID"


@pytest.mark.parametrize(
    "given", [{"tls_certificate": Path("c")}, {"tls_key": Path("k")}, {"tls_client_ca": Path("a")}]
)
def test_half_a_certificate_is_an_error(given: dict[str, Any]) -> None:
    """A certificate without key, a key without certificate, and a client CA without both, on loopback too."""
    with pytest.raises(ConfigError, match="belong together"):
        load_settings({**NEEDED, **given})
