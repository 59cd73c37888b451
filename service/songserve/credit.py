"""How much a station may send ahead: much while the server keeps up, little while it does not. Pure."""

from dataclasses import dataclass

__all__ = ["Credit", "granted"]

LEAST_CHUNKS = 2
LEAST_SHARE = 1 / 16


@dataclass(frozen=True)
class Credit:
    """What may lie beyond the last received chunk."""

    chunks: int
    n_bytes: int


def granted(full: Credit, load: float, *, max_chunk_bytes: int) -> Credit:
    """Return the credit at a load from 0, idle, to 1 and more, overloaded; never less than a pair of chunks.

    Up to half of the load all is given, so that ordinary hours see no change.
    """
    share = min(1.0, max(LEAST_SHARE, 2 * (1 - load)))
    return Credit(
        max(min(LEAST_CHUNKS, full.chunks), round(full.chunks * share)),
        max(min(LEAST_CHUNKS * max_chunk_bytes, full.n_bytes), round(full.n_bytes * share)),
    )
