"""TLS of the gRPC port, from files that are read again when they change, so that a renewal needs no restart."""

import logging
import ssl
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc

from songcore.errors import ConfigError
from songserve.security.followed_files import FollowedFiles

__all__ = ["TlsFiles", "server_credentials"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TlsFiles:
    """Where the certificate is (with its chain, PEM), its key, and the authority whose clients are let in, if only those."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files there are."""
        return (self.certificate, self.key, *((self.client_ca,) if self.client_ca else ()))


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials that follow the files; connections made before a change keep what they have.

    Raises ConfigError TLS_UNREADABLE when they cannot be used at the beginning; later that is logged once, the last good ones
    are kept, and the files are tried again at each handshake.
    """
    following = _Following(files)
    return grpc.dynamic_ssl_server_credentials(
        following.files.content,
        following.changed,  # type: ignore[arg-type] # the stubs lack that None means no change
        require_client_authentication=files.client_ca is not None,
    )


class _Following:
    def __init__(self, files: TlsFiles) -> None:
        self._certificate = files.certificate
        self.files = FollowedFiles(files.paths, partial(_read, files), kept="the certificate read before stays in use")

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what the files have now when they changed; gRPC asks at every handshake, from threads of its own."""
        if not self.files.look():
            return None
        log.info("the certificate %s was read again", self._certificate)
        return self.files.content


def _read(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    try:
        content = [path.read_bytes() for path in files.paths]
        # gRPC would take a key that does not fit and then fail at every handshake without saying why.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key, password=_no_password)
        if files.client_ca:
            ssl.create_default_context(cafile=str(files.client_ca))
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"the TLS files {', '.join(map(str, files.paths))} cannot be used ({error.strerror or error}); expected a "
            "certificate and its unencrypted key, both PEM, and readable by this user",
            reason="TLS_UNREADABLE",
        ) from error
    certificate, key = content[:2]
    client_ca = content[2] if files.client_ca else None
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=client_ca)


def _no_password() -> str:
    """Keep OpenSSL from asking at the terminal."""
    return ""
