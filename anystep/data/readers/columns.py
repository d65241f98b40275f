"""Columns by their names: which of them is t, x, y and p, and in which unit the time is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep.data.readers.source import Columns

NAMES: dict[str, tuple[str, ...]] = {
    "t": ("t", "ts", "timestamp", "timestamps", "t_us", "t_ms", "t_s"),
    "x": ("x", "xs"),
    "y": ("y", "ys"),
    "p": ("p", "ps", "pol", "polarity", "on"),
}
ANY_NAME = frozenset(name for names in NAMES.values() for name in names)
_RULE = "it must have t (in us; else t_ms or t_s), x, y and p (or on, or polarity) once each"
_UNITS = {"t_ms": 1000, "t_s": 1_000_000}  # us in one; of other names 1
_LATEST_US = 1e18  # 30,000 years


def named(there: Iterable[str]) -> dict[str, str] | None:
    """What t, x, y and p are called among the names that are there; None if one is not clear.

    >>> named(["x", "y", "timestamp", "polarity", "note"])
    {'t': 'timestamp', 'x': 'x', 'y': 'y', 'p': 'polarity'}
    """
    there = list(there)
    found = {column: [each for each in there if each in names] for column, names in NAMES.items()}
    if any(len(names) != 1 for names in found.values()):
        return None
    return {column: names[0] for column, names in found.items()}


def microseconds(t: NDArray[Any], name: str) -> NDArray[Any]:
    """Times in us, in the unit that the name of the column says.

    `ts` with fractions is in seconds, as aertb and the event camera simulators of Monash keep it.
    Fractions in any other column of microseconds are refused: nobody knows their unit.
    """
    unit = _UNITS.get(name, 1)
    with np.errstate(invalid="ignore"):
        broken = (t != np.floor(t)) if t.dtype.kind == "f" else np.zeros(0, np.bool_)
    if broken.any() and unit == 1:
        if name != "ts":
            index = int(broken.argmax())
            hint = "a column of seconds must be called t_s, of milliseconds t_ms"
            raise UsageError(f"t[{index}] = {t[index]} must be a whole number of us; {hint}")
        unit = _UNITS["t_s"]
    if unit == 1:
        return t
    strange = ~((t >= 0) & (t < _LATEST_US / unit))
    if strange.any():
        index = int(strange.argmax())
        rule = f"must be in 0..{_LATEST_US / unit:.0e} in the unit of {name}"
        raise UsageError(f"t[{index}] = {t[index]} {rule}")
    if t.dtype.kind != "f":
        return t.astype(np.int64) * unit
    # The nearest one: decimal fractions lose less than half a microsecond in binary.
    return np.rint(t.astype(np.float64) * unit).astype(np.int64)


def columns_of(table: Mapping[str, NDArray[Any]]) -> Columns:
    """The columns t (us), x, y and p of a table, whatever `NAMES` calls them there."""
    names = named(table)
    if names is None:
        raise UsageError(f"{_RULE}, got {', '.join(table) or 'no name'}")
    columns = {column: table[name] for column, name in names.items()}
    return {**columns, "t": microseconds(columns["t"], names["t"])}
