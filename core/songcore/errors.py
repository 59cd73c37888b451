"""The one error tree of songstream.

::

    SongError
    ├── InputError     the caller's audio or request; fix the input
    ├── BundleError    a model bundle that must not be served; rebuild or replace it
    └── ConfigError    the operator's settings or machine; change the setting

A message says what was found, what was expected and what to do. ``reason`` is the stable name that programs match on;
the gRPC edge sends it as ``ErrorInfo.reason``.
"""

__all__ = ["BundleError", "ConfigError", "InputError", "SongError"]


class SongError(Exception):
    """Every error that songstream raises on purpose; ``reason`` is its stable, upper-case name."""

    default_reason = "SONG_ERROR"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or self.default_reason


class InputError(SongError):
    """The caller's recording, chunk or request cannot be processed."""

    default_reason = "INPUT_INVALID"


class BundleError(SongError):
    """A bundle is incomplete, altered, of an unknown schema, or does not reproduce its golden songs."""

    default_reason = "BUNDLE_INVALID"


class ConfigError(SongError):
    """A setting, path, port or device of this machine cannot be used."""

    default_reason = "CONFIG_INVALID"
