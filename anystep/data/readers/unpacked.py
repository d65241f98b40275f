"""The most that a compressed block of bytes can unpack to, from its frames' headers alone: nothing
is unpacked here.

LZ4 frames: github.com/lz4/lz4, doc/lz4_Frame_format.md. Zstandard frames: RFC 8878, section 3.1.
"""

from __future__ import annotations

import struct

from anystep._errors import UsageError

_LZ4, _ZSTD = 0x184D2204, 0xFD2FB528
_OLD_ZSTD = {
    0xFD2FB51E,
    *range(0xFD2FB522, 0xFD2FB528),
}  # before 1.0; still read by its library, written by none
_SKIPPED = range(0x184D2A50, 0x184D2A60)
_ZSTD_BLOCK = 128 * 1024
_LZ4_RATIO = 255  # a length of n is n / 255 bytes


def most_unpacked(data: memoryview) -> int:
    """An upper bound of the bytes that `data` unpacks to if it is a chain of LZ4 or zstd frames;
    else 0.

    A packed block counts with the largest size that its frame allows. ValueError: a frame that is
    cut, or of a version of zstd before 1.0.
    """
    at, total = 0, 0
    while at + 4 <= len(data):
        magic = _u32(data, at)
        if magic == _ZSTD:
            at, size = _zstd_frame(data, at + 4)
        elif magic == _LZ4:
            at, size = _lz4_frame(data, at + 4)
        elif magic in _SKIPPED:
            at, size = at + 8 + _u32(data, at + 4), 0
        elif magic in _OLD_ZSTD:
            raise UsageError("zstd before version 1.0 is not read")
        else:
            break
        if at > len(data):
            raise UsageError(f"its compressed data have no byte {at - 1}")
        total += size
    return total


def _zstd_frame(data: memoryview, at: int) -> tuple[int, int]:
    """(the byte after the frame, the most it unpacks to); a block has 3 bytes: last (1 bit), kind
    (2), size (21).
    """
    descriptor = _byte(data, at)
    alone = descriptor >> 5 & 1
    size_of_size = (alone, 2, 4, 8)[descriptor >> 6]
    at += 1 + (1 - alone) + (0, 1, 2, 4)[descriptor & 3] + size_of_size
    total, last = 0, 0
    while not last:
        head = _byte(data, at) | _byte(data, at + 1) << 8 | _byte(data, at + 2) << 16
        last, kind, size = head & 1, head >> 1 & 3, head >> 3
        at += 3 + (
            1 if kind == 1 else size
        )  # kind 0: as it is, 1: one byte again and again, 2: packed
        total += _ZSTD_BLOCK if kind == 2 else size
    return at + 4 * (descriptor >> 2 & 1), total


def _lz4_frame(data: memoryview, at: int) -> tuple[int, int]:
    """(the byte after the frame, the most it unpacks to); a block has 4 bytes: size (31 bits), as
    it is (1 bit).
    """
    flags, largest = _byte(data, at), 1 << 8 + 2 * (_byte(data, at + 1) >> 4 & 7)
    at += 3 + 8 * (flags >> 3 & 1) + 4 * (flags & 1)
    total = 0
    while word := _u32(data, at):
        size, as_it_is = word & 0x7FFFFFFF, word >> 31
        at += 4 + size + 4 * (flags >> 4 & 1)
        total += size if as_it_is else min(largest, _LZ4_RATIO * size)
    return at + 4 + 4 * (flags >> 2 & 1), total


def _byte(data: memoryview, at: int) -> int:
    if at >= len(data):
        raise UsageError(f"its compressed data have no byte {at}")
    return data[at]


def _u32(data: memoryview, at: int) -> int:
    if at + 4 > len(data):
        raise UsageError(f"its compressed data have no byte {at + 3}")
    return int(struct.unpack_from("<I", data, at)[0])
