"""Tell whether a recording's file ends before its own structure says it should.

libsndfile quietly shortens RIFF and AIFF files to what is there, and believes that an Ogg file ends with whatever page
comes last. Read-only; the position of the file is kept.
"""

from typing import BinaryIO, Literal

__all__ = ["is_cut_short"]

# Lengths that writers to a pipe leave in a data chunk because they cannot go back: none, the largest number, and the
# 2 GiB less a little of sox and arecord.
_LARGEST = 0xFFFF_FF00
_PIPED = range(0x7FFF_F000, 0x8000_0001)

_OGG_MAX_PAGE = 65_307
_OGG_END_OF_STREAM = 0x04


def is_cut_short(file: BinaryIO) -> bool:
    """Whether a WAV, RF64, AIFF or Ogg file lacks its end; False for other formats and for lengths left open."""
    position = file.tell()
    try:
        size = file.seek(0, 2)
        file.seek(0)
        magic = file.read(4)
        if magic in {b"RIFF", b"RF64"}:
            return _chunks_cut_short(file, size, b"data", "little")
        if magic == b"FORM":
            return _chunks_cut_short(file, size, b"SSND", "big")
        return magic == b"OggS" and _ogg_cut_short(file, size)
    finally:
        file.seek(position)


def _chunks_cut_short(file: BinaryIO, size: int, data: bytes, order: Literal["little", "big"]) -> bool:
    """Whether the data chunk announces more than there is."""
    position, big_length = 12, 0
    while position + 8 <= size:
        file.seek(position)
        kind = file.read(4)
        length = int.from_bytes(file.read(4), order)
        if kind == b"ds64":  # RF64: the sizes that do not fit into 32 bits
            file.seek(8, 1)
            big_length = int.from_bytes(file.read(8), "little")
        if kind == data:
            if length >= _LARGEST and big_length:
                length = big_length
            elif length == 0 or length >= _LARGEST or length in _PIPED:
                return False
            return position + 8 + length > size
        position += 8 + length + length % 2
    return False


def _ogg_cut_short(file: BinaryIO, size: int) -> bool:
    """Whether the last page is not there in full, or is not marked as the end of the stream (RFC 3533, section 6)."""
    start = max(0, size - 2 * _OGG_MAX_PAGE)
    file.seek(start)
    tail = file.read()
    page = tail.rfind(b"OggS")
    header = tail[page : page + 27]
    if page < 0 or len(header) < 27:
        return True
    segments = tail[page + 27 : page + 27 + header[26]]
    is_whole = len(segments) == header[26] and page + 27 + len(segments) + sum(segments) <= len(tail)
    return not (is_whole and header[5] & _OGG_END_OF_STREAM)
