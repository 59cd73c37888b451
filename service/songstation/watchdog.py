"""Signs of life for systemd (sd_notify(3)): a station whose capture stands still is restarted."""

import socket
from contextlib import suppress

__all__ = ["Watchdog"]


class Watchdog:
    """Tell systemd, at the socket it named in NOTIFY_SOCKET; silent where there is none."""

    def __init__(self, address: str | None) -> None:
        # A name that begins with @ is in Linux' abstract namespace.
        self._address = "\0" + address[1:] if address and address.startswith("@") else address

    def ready(self) -> None:
        """Say that the station runs."""
        self._say("READY=1")

    def tell(self, status: str, *, is_alive: bool) -> None:
        """Say how it is, and whether it still does."""
        self._say(f"WATCHDOG=1\nSTATUS={status}" if is_alive else f"STATUS={status}")

    def stopping(self) -> None:
        """Say that it is ending."""
        self._say("STOPPING=1")

    def _say(self, text: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as speaker:
            speaker.sendto(text.encode(), self._address)
