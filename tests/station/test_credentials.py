"""What a station shows a server, from options and files to a session over TLS."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from certificates import Authority
from serving import ServerProcess
from songcore.credentials import credentials_for
from songcore.errors import ConfigError
from tokens import add_token

SONGSTREAM = str(Path(sys.executable).with_name("songstream"))


def reason_of(server: str = "songs.example.org:1", **options: Any) -> str:
    """Return why options are refused."""
    with pytest.raises(ConfigError) as refused:
        credentials_for(server, **options)
    return refused.value.reason


@pytest.mark.parametrize(
    ("server", "encrypted"),
    [
        ("127.0.0.1:1", False),
        ("[::1]:1", False),
        ("localhost:1", False),
        ("192.0.2.1:1", True),
        ("songs.example.org:1", True),
        ("127.0.0.1.example.org:1", True),
    ],
)
def test_beyond_loopback_is_encrypted_unless_said_otherwise(server: str, *, encrypted: bool) -> None:
    """A server elsewhere is spoken to over TLS with the public roots, and in clear only when insecure."""
    assert (credentials_for(server).tls is not None) == encrypted
    assert credentials_for(server, insecure=True).tls is None


@pytest.mark.parametrize(
    "server",
    ["127.0.0.1", "songs", "", ":50051", "songs:", "songs:x", "songs:0", "songs:65536", "songs:²", "::1", "[::1]"],
)
def test_a_server_is_a_host_and_a_port(server: str) -> None:
    """Without a port nothing is tried, on this machine or elsewhere, encrypted or not."""
    assert reason_of(server) == reason_of(server, insecure=True) == "SETTING_INVALID"


def test_a_command_without_a_port_ends_at_once(recording: Any) -> None:
    """`songstream listen` says what is wrong in one line."""
    command = [SONGSTREAM, "listen", str(recording.path), "--server", "127.0.0.1"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    message = "server '127.0.0.1' is not of the form host:port, an IPv6 address in brackets"
    assert ended.stderr == f"songstream: {message} [SETTING_INVALID]\n"


def test_bad_files_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    """Certificates that are none, do not fit or contradict, and tokens that are missing, not one, or open to all."""
    authority = Authority(tmp_path)
    one, other = authority.certificate("north"), authority.certificate("south")
    nothing, token = tmp_path / "nothing", tmp_path / "token"
    nothing.write_text("")
    assert credentials_for("127.0.0.1:1", ca=authority.ca, certificate=one.certificate, key=one.key).tls is not None
    assert reason_of(ca=nothing) == "TLS_UNREADABLE"
    assert reason_of(certificate=one.certificate) == "TLS_UNREADABLE"
    assert reason_of(certificate=one.certificate, key=other.key) == "TLS_UNREADABLE"
    assert reason_of(ca=authority.ca, insecure=True) == "TLS_UNWANTED"
    assert reason_of(token_file=tmp_path / "missing") == "TOKEN_UNREADABLE"
    for content in ("", "two words", "two\nlines", "x" * 1025, "ümlaut"):
        token.write_text(content)
        token.chmod(0o600)
        assert reason_of(token_file=token) == "TOKEN_UNREADABLE"
    token.write_text("fine\n")
    assert credentials_for("127.0.0.1:1", token_file=token).metadata() == (("authorization", "Bearer fine"),)
    token.chmod(0o604)
    assert reason_of(token_file=token) == "TOKEN_EXPOSED"


def test_files_that_come_late_are_read_when_they_are_there(tmp_path: Path) -> None:
    """What the options say is judged at once; no call gets metadata, and nothing connects, before its files can be read."""
    assert reason_of("songs", late=True) == "SETTING_INVALID"
    assert reason_of(ca=tmp_path / "ca", insecure=True, late=True) == "TLS_UNWANTED"
    assert reason_of(certificate=tmp_path / "own", late=True) == "TLS_UNREADABLE"
    token = tmp_path / "token"
    credentials = credentials_for("songs.example.org:1", ca=tmp_path / "authority.pem", token_file=token, late=True)
    for read in (credentials.read, lambda: credentials.tls):
        with pytest.raises(ConfigError, match="TLS files"):
            read()
    assert Authority(tmp_path).ca == tmp_path / "authority.pem"
    for content, mode, reason in [(None, 0, "UNREADABLE"), ("", 0o600, "UNREADABLE"), ("fine", 0o604, "EXPOSED")]:
        if content is not None:
            token.write_text(content)
            token.chmod(mode)
        for ask in (credentials.read, credentials.metadata):
            with pytest.raises(ConfigError) as refused:
                ask()
            assert refused.value.reason == f"TOKEN_{reason}"
    token.chmod(0o600)
    assert credentials.read().metadata() == (("authorization", "Bearer fine"),)
    assert credentials.tls is not None


def test_a_token_that_is_replaced_is_used_at_the_next_call(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The file is read again for every call, and when it is gone the last token goes on; none stands in the log."""
    token = tmp_path / "token"
    token.write_text("first")
    token.chmod(0o600)
    credentials = credentials_for("127.0.0.1:1", token_file=token)
    token.write_text("second")
    assert credentials.metadata() == (("authorization", "Bearer second"),)
    token.unlink()
    assert credentials.metadata() == (("authorization", "Bearer second"),)
    assert "read before" in caplog.text
    assert "second" not in caplog.text


def test_the_command_streams_over_tls_with_certificate_and_token(
    bundle_dir: Path, recording: Any, tmp_path: Path
) -> None:
    """`songstream listen` with CA, certificate and token commits everything to a server that asks for all three."""
    authority, book, token = Authority(tmp_path), tmp_path / "tokens.json", tmp_path / "token"
    token.write_text(add_token(book, "north"))
    token.chmod(0o600)
    here, own = authority.certificate("127.0.0.1", "localhost"), authority.certificate("north")
    options = ["--tls-certificate", str(here.certificate), "--tls-key", str(here.key)]
    options += ["--tls-client-ca", str(authority.ca), "--token-file", str(book)]
    with ServerProcess(bundle_dir, tmp_path / "data", *options) as server:
        command = [SONGSTREAM, "listen", str(recording.path), "--server", server.ready["address"], "--speed", "max"]
        command += ["--station", "north", "--ca", str(authority.ca), "--certificate", str(own.certificate)]
        command += ["--key", str(own.key), "--token-file", str(token), "--json"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    account = json.loads(ended.stdout.splitlines()[-1])["account"]
    assert account["committed_s"] == pytest.approx(recording.duration_s)
    assert (account["n_songs"], account["n_streams"]) == (len(recording.songs), 1)
    text = token.read_text().strip().split("_")[2]
    assert text not in ended.stdout + ended.stderr
