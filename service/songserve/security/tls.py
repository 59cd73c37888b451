"""TLS of the gRPC port, from files that are read again when they change, so that a renewal needs no restart."""

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from songcore.errors import ConfigError
from songserve.security.fingerprint import Fingerprint, fingerprint

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
    following = _Following(files)  # looks before they are read: what changes in between is read again
    return grpc.dynamic_ssl_server_credentials(
        _read(files),
        following.changed,  # type: ignore[arg-type] # the stubs lack that None means no change
        require_client_authentication=files.client_ca is not None,
    )


class _Following:
    def __init__(self, files: TlsFiles) -> None:
        self._files, self._seen, self._problem = files, _fingerprints(files), ""

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what the files have now when they changed; gRPC asks at every handshake, from threads of its own."""
        now = _fingerprints(self._files)
        if now == self._seen:
            self._problem = ""
            return None
        try:
            configuration = _read(self._files)
        except ConfigError as error:
            if str(error) != self._problem:
                log.error("%s; the certificate read before stays in use", error)  # noqa: TRY400 - the message says all
            self._problem = str(error)
            return None
        self._seen, self._problem = now, ""
        log.info("the certificate %s was read again", self._files.certificate)
        return configuration


def _fingerprints(files: TlsFiles) -> tuple[Fingerprint | None, ...]:
    return tuple(fingerprint(path) for path in files.paths)


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
