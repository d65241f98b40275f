"""Events as text: a row an event, with commas or blanks between (`.csv`, `.txt`)."""

from __future__ import annotations

import re
import warnings
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep.data.readers.columns import columns_of, named
from anystep.data.readers.source import Recorded, Size

_LONGEST_LINE = 4096
_LARGEST = 2.0**53  # from here on a float skips whole numbers
# In which order people write columns without their names.
_ORDERS = ("txyp", "xypt", "xytp")
_NAME_THEM = "write a first line with their names, like t,x,y,p (t_s: time in seconds)"


class _Start(NamedTuple):
    """What the first lines of a table say: the places of the columns t, x, y and p by their names
    (of none where there are no names), (height, width), whether commas part the columns, and the
    first row, where it was read.
    """

    places: dict[str, int]
    sensor: Size | None
    comma: bool
    row: str


def _start(file: TextIO) -> _Start:
    sensor = None
    while line := file.readline(_LONGEST_LINE):
        text = line.lstrip("#").strip().lower()
        comma = "," in text
        fields = [field.strip().partition("@") for field in text.split("," if comma else None)]
        names = [name for name, _, _ in fields]
        if found := named(names):
            width, height = (fields[names.index(found[side])][2] for side in "xy")
            if re.fullmatch("[0-9]+ [0-9]+", f"{height} {width}"):
                sensor = int(height), int(width)
            return _Start({each: names.index(each) for each in found.values()}, sensor, comma, "")
        if line.startswith("#"):
            continue
        if sensor is None and re.fullmatch("[0-9]{1,5}[ \t]+[0-9]{1,5}", text):
            sensor = int(names[1]), int(names[0])
            continue
        if len(fields) != 4 or not re.fullmatch(r"[-+.0-9eE, \t]+", text):
            raise UsageError(f"the first line must name t, x, y and p, got {line[:60]!r}")
        return _Start({}, sensor, comma, line)
    raise UsageError("it has no row of numbers")


def _fits(table: NDArray[np.float64], order: str) -> bool:
    """Whether the columns can be what this order says."""
    t, x, y, p = (table[:, order.index(name)] for name in "txyp")
    places = np.concatenate([x, y])
    whole = (places == np.floor(places)).all() and places.min() >= 0 and places.max() <= 32767
    signs = np.isin(p, (0, 1)).all() or np.isin(p, (-1, 1)).all()
    return bool(whole and signs and t.min() >= 0 and (np.diff(t) >= 0).all())


def _names_of(table: NDArray[np.float64], comma: bool) -> list[str]:
    """What four columns without names hold, if only one of the usual orders fits.

    A time with fractions is known to be in seconds only in rows `t x y p` with blanks between, as
    the event camera data set of Mueggler et al. 2017 has them (`events.txt`).
    """
    fitting = [order for order in _ORDERS if _fits(table, order)]
    if len(fitting) != 1:
        raise UsageError(f"columns t, x, y and p cannot be told apart: {_NAME_THEM}")
    names, t = list(fitting[0]), table[:, fitting[0].index("t")]
    if (t != np.floor(t)).any():
        if comma or names[0] != "t":
            raise UsageError(f"the unit of the time is not known: {_NAME_THEM}")
        names[0] = "t_s"
    return names


def read_csv(path: Path) -> Recorded:
    """A table with commas or blanks: the first line names t (us), x, y and p in any order.

    p may be called on or polarity, t may be t_ms or t_s. The size is what the first line says as
    faery writes it (`t,x@34,y@24,on`: 34 wide, 24 high), or a line of width and height before the
    rows. Lines that start with # may come first. Without names the order must be clear from the
    numbers.
    """
    try:
        with path.open(encoding="utf-8") as file, warnings.catch_warnings():
            places, said, comma, row = _start(file)
            warnings.simplefilter("ignore", UserWarning)  # "no data" is refused below, by name
            table = np.loadtxt(
                chain([row] if row else [], file),
                delimiter="," if comma else None,
                usecols=list(places.values()) or None,
                ndmin=2,
                comments=None,
            ).reshape(-1, 4)
        names = list(places) or _names_of(table, comma)
        if (table >= _LARGEST).any():
            raise UsageError(f"a number is larger than 2^53: {table.max()}")
        columns = columns_of(dict(zip(names, table.T, strict=True)))
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{path}: no table of events: {error}") from error
    return Recorded(columns, said)
