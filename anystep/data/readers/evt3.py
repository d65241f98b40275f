"""The loop that decodes EVT3; a module of its own because numba is slow to load."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from anystep.data.readers.source import Columns

_LARGEST_X = 32_000  # far beyond every sensor, and vectors still end within int16
_READ = types.Array(types.uint16, 1, "C", readonly=True, aligned=False)
_FILLED = (types.int64[::1], types.int16[::1], types.int16[::1], types.uint8[::1])


@njit(types.int64(_READ, *_FILLED), nogil=True, cache=True)
def _decode(words: Any, t: Any, x: Any, y: Any, p: Any) -> int:
    """How many events the words hold; they are written into columns that have a length."""
    count = turns = polarity = 0
    high = low = row = base = -1  # until they are said
    for word in words:
        kind = word >> 12
        value: Any = np.int64(word & 0xFFF)
        if kind == 8:
            turns += 4096 * (value + turns - high < -2048)
            high = value + turns
        elif kind == 6:
            low = value
        elif kind == 0:
            row = value & 0x7FF
        elif kind == 3:
            base, polarity = value & 0x7FF, value >> 11
        elif kind == 2 or kind == 4 or kind == 5:
            bits, column, on = np.int64(1), value & 0x7FF, value >> 11
            if kind != 2:
                length = 12 if kind == 4 else 8
                bits, column, on = value & ((1 << length) - 1), base, polarity
                base = min(base + length, _LARGEST_X) if base >= 0 else base
            if high < 0 or low < 0 or row < 0 or column < 0:
                continue
            while bits:
                if bits & 1:
                    if len(t):
                        t[count], x[count], y[count], p[count] = high << 12 | low, column, row, on
                    count += 1
                bits, column = bits >> 1, column + 1
    return count


def decode_evt3(words: NDArray[np.uint16]) -> Columns:
    """The events in words of EVT3.

    Bits 15..12 of a word say its kind: 0 row; 2 an event, 10..0 x, 11 polarity; 3 the same as the
    base of vectors; 4 and 5 vectors of 12 and 8 pixels from the base on, which moves; 6 and 8 the
    lower and the upper 12 bits of the time, which start again at 0 every 16.8 s. Events are left
    out until all that they need was said.
    """
    types_of = {"t": np.int64, "x": np.int16, "y": np.int16, "p": np.uint8}
    nothing = [np.empty(0, dtype) for dtype in types_of.values()]
    count = _decode(words, *nothing)
    columns = {name: np.empty(count, dtype) for name, dtype in types_of.items()}
    _decode(words, *columns.values())
    return columns
