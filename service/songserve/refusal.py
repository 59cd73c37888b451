"""How the service says no: raised by what decides, turned into a gRPC status at the edge."""

from songcore.errors import SongError

__all__ = ["Refusal"]


class Refusal(SongError):  # noqa: N818 - it is an answer, as often as a fault
    """A request or stream ends here, for a documented reason; ``metadata`` is what a program needs to go on."""

    def __init__(self, message: str, *, reason: str, **metadata: object) -> None:
        super().__init__(message, reason=reason)
        self.metadata = {key: str(value) for key, value in metadata.items()}
