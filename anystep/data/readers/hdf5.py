"""Events in HDF5 (`.h5`, `.hdf5`), as DSEC and aertb keep them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from anystep._errors import UsageError
from anystep._extras import need
from anystep.data.readers.columns import ANY_NAME, columns_of, named
from anystep.data.readers.source import Recorded, largest_unpacked

_PLUGIN = "pip install hdf5plugin, and set HDF5_PLUGIN_PATH to what its PLUGIN_PATH says"


def _columns_in(h5py: Any, item: Any) -> dict[str, Any]:
    """The columns of events of a group of arrays, or of an array with fields; else none.

    Only what lies in the file itself: a link may lead anywhere.
    """
    names: list[str] = []
    if isinstance(item, h5py.Dataset):
        names = [name for name in item.dtype.names or () if name in ANY_NAME]
        return dict.fromkeys(names, item) if named(names) else {}
    for name in ANY_NAME & set(item):
        hard = isinstance(item.get(name, getlink=True), h5py.HardLink)
        if hard and isinstance(item[name], h5py.Dataset) and item[name].dtype.names is None:
            names.append(name)
    return {name: item[name] for name in names} if named(names) else {}


def _recordings(h5py: Any, file: Any) -> dict[str, dict[str, Any]]:
    """Where events lie in a file, at most three places, and their columns."""
    found: dict[str, dict[str, Any]] = {}

    def look(name: str, item: Any) -> bool | None:
        if columns := _columns_in(h5py, item):
            found[name] = columns
        return True if len(found) > 2 else None

    look("/", file)
    file.visititems(look)
    return found


def _bytes_of(h5py: Any, array: Any) -> int:
    """What an array needs in memory. Refused: one in another file, and one that was packed in a way
    that h5py does not know, as those of DSEC are.
    """
    if array.external or array.is_virtual:
        raise UsageError(f"{array.name} lies in another file")
    made = array.id.get_create_plist()
    for code, _, _, name in map(made.get_filter, range(made.get_nfilters())):
        if not h5py.h5z.filter_avail(code):
            raise UsageError(f"{array.name} is packed with {name.decode()}: {_PLUGIN}")
    return max(array.nbytes, math.prod(array.chunks or (0,)) * array.dtype.itemsize)


def read_h5(path: Path) -> Recorded:
    """The one recording in a file: a group with the arrays t (us), x, y and p, as DSEC has
    `events`, or one array with such fields, as aertb has (`ts`: seconds).

    `t_offset` of DSEC is not added: time is the clock of the array.
    """
    h5py = need("h5py", extra="events", purpose=f"reading {path.suffix} files")
    try:
        with h5py.File(path, "r", locking=False) as file:
            found = _recordings(h5py, file)
            if len(found) != 1:
                several = f"it holds several recordings ({', '.join(found)}, ...): save each apart"
                nothing = "it has no group and no array with the columns t, x, y and p"
                raise UsageError(several if found else nothing)
            arrays = next(iter(found.values()))
            apart = {array.name: array for array in arrays.values()}.values()
            claimed = sum(_bytes_of(h5py, array) for array in apart)
            if claimed > largest_unpacked(path):
                raise UsageError(f"{claimed} bytes are too much for so small a file")
            columns = {n: each[n if each.dtype.names else ()] for n, each in arrays.items()}
        return Recorded(columns_of(columns), None)
    except Exception as error:  # whatever h5py raises for a damaged file: named, not hidden
        raise UsageError(f"{path}: no HDF5 file of events: {error}") from error
