"""What a client shows a server, and how it knows the server: files of certificates and of a token."""

import logging
import ssl
import stat
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from songcore.errors import ConfigError

__all__ = ["CallMetadata", "Credentials", "Tls", "advice", "credentials_for"]

log = logging.getLogger(__name__)

CallMetadata = tuple[tuple[str, str], ...]
MAX_TOKEN_BYTES = 1024


@dataclass(frozen=True)
class Tls:
    """Contents of PEM files; None for the roots that gRPC brings, and for no certificate of one's own."""

    ca: bytes | None
    certificate: bytes | None
    key: bytes | None


class Credentials:
    """How to connect, and what to send with each call, from files that are read when they are needed first, or by `read`.

    ``files`` are those of CA, certificate and key, None for an unencrypted connection.
    """

    def __init__(self, files: tuple[Path | None, Path | None, Path | None] | None, token_file: Path | None) -> None:
        self._files, self._token_file = files, token_file
        self._token = ""

    @cached_property
    def tls(self) -> Tls | None:
        """How to connect, None for unencrypted; read once. Raises ConfigError TLS_UNREADABLE."""
        return _read_tls(*self._files) if self._files else None

    def metadata(self) -> CallMetadata:
        """Return the metadata of a call; the token's file is read again each time, so that it can be replaced.

        When it cannot be read any longer the last token is kept; raises ConfigError TOKEN_UNREADABLE or TOKEN_EXPOSED where
        there is none.
        """
        if self._token_file is None:
            return ()
        try:
            self._token = _read_token(self._token_file)
        except ConfigError as error:
            if not self._token:
                raise
            log.warning("%s; going on with the token read before", error)
        return (("authorization", f"Bearer {self._token}"),)

    def read(self) -> Self:
        """Return these, all files read; raises ConfigError TLS_UNREADABLE, TOKEN_UNREADABLE or TOKEN_EXPOSED."""
        _ = self.tls, self.metadata()
        return self


def credentials_for(
    server: str,
    *,
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    token_file: Path | None = None,
    insecure: bool = False,
    late: bool = False,
) -> Credentials:
    """Return what a client needs for ``host:port``: TLS, but on loopback without a CA or certificate, or when insecure.

    With ``late`` the files need not be there yet: the options alone are judged, and `Credentials.read` reads the files.

    Raises ConfigError SETTING_INVALID, TLS_UNREADABLE, TLS_UNWANTED, TOKEN_UNREADABLE or TOKEN_EXPOSED.
    """
    host = _host(server)
    if (certificate is None) != (key is None):
        raise ConfigError("a client certificate and its key belong together; give both", reason="TLS_UNREADABLE")
    named = ca is not None or certificate is not None
    if insecure and named:
        raise ConfigError("--insecure takes no certificates; leave one of them out", reason="TLS_UNWANTED")
    is_clear = not named and (insecure or _is_loopback(host))
    credentials = Credentials(None if is_clear else (ca, certificate, key), token_file)
    return credentials if late else credentials.read()


def advice(reason: str) -> str:
    """Return what a command adds to a server's refusal, with what parts it from that; empty where that says all."""
    return "; give --token-file or SONGSTREAM_TOKEN_FILE" if reason == "TOKEN_MISSING" else ""


def _read_tls(ca: Path | None, certificate: Path | None, key: Path | None) -> Tls:
    try:
        if ca:
            ssl.create_default_context(cafile=str(ca))
        if certificate:
            # gRPC would take a key that does not fit, and then only say that it cannot connect.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=lambda: "")
        return Tls(*(path.read_bytes() if path else None for path in (ca, certificate, key)))
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(str(path) for path in (ca, certificate, key) if path)
        raise ConfigError(
            f"the TLS files {files} cannot be used ({error.strerror or error}); expected PEM, the key unencrypted and that of "
            "the certificate",
            reason="TLS_UNREADABLE",
        ) from error


def _read_token(file: Path) -> str:
    try:
        mode = file.stat().st_mode
        with file.open("rb") as opened:
            text = opened.read(MAX_TOKEN_BYTES + 1).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"the token file {file} cannot be read ({error})", reason="TOKEN_UNREADABLE") from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise ConfigError(
            f"everyone on this machine may read the token in {file}; chmod 600 {file}", reason="TOKEN_EXPOSED"
        )
    if not 0 < len(text) <= MAX_TOKEN_BYTES or not text.isprintable() or " " in text:
        raise ConfigError(
            f"{file} does not hold one token; put there what `songstream token add` printed", reason="TOKEN_UNREADABLE"
        )
    return text


def _host(server: str) -> str:
    """Return the host, without the brackets of IPv6; gRPC would take a port that is not given for 443, and try for ever."""
    host, _, port = server.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    is_bracketed = host == f"[{bare}]"
    if not bare or not port.isascii() or not port.isdecimal() or (":" in bare and not is_bracketed):
        raise ConfigError(
            f"server {server!r} is not of the form host:port, an IPv6 address in brackets", reason="SETTING_INVALID"
        )
    if not 1 <= int(port[:6]) <= 65535:
        raise ConfigError(f"port {port} of server {server!r} is not in 1-65535", reason="SETTING_INVALID")
    return bare


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
