"""Events in HDF5, laid out as DSEC and aertb do, and what is refused before it is read."""

from __future__ import annotations

import io

import event_files as files
import numpy as np
import pytest
from event_files import rows_of

from anystep.data.readers import read_events

h5py = pytest.importorskip("h5py", reason="needs h5py: the extra `events`")
ROWS = files.BY_HAND
T, X, Y, P = np.array(ROWS).T


def read(folder, write, name="r.h5"):
    """What a file holds that `write` fills."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        write(file)
    return read_events(files.put(folder, name, content.getvalue()), sensor=(34, 34))


def arrays(group, names="txyp", **options) -> None:
    for name, values in zip(names.split() if " " in names else names, (T, X, Y, P), strict=True):
        group.create_dataset(name, data=values, **options)


def dsec(file) -> None:
    arrays(file.create_group("events"), compression="gzip", maxshape=(None,))
    file["ms_to_idx"], file["t_offset"] = np.arange(9), np.int64(49_599_300_523)


def aertb(file, name="3/00042") -> None:
    kinds = [("x", "<u2"), ("y", "<u2"), ("ts", "<f4"), ("p", "i1")]
    table = np.rec.fromarrays([X, Y, T / 1e6, P], dtype=kinds)
    file.create_dataset(name, data=table, compression="gzip")


def monash(file) -> None:
    names = ("ts", T / 1e6), ("xs", X), ("ys", Y), ("ps", P.astype(bool))
    file.create_group("events").update(dict(names))
    file["images/image0"] = np.zeros((3, 3))


def prophesee(file) -> None:
    aertb(file, "CD/events")
    file["EXT_TRIGGER/events"] = np.zeros(2, [("p", "i2"), ("t", "i8"), ("id", "i2")])


@pytest.mark.parametrize("write", [dsec, aertb, monash, prophesee, arrays])
@pytest.mark.parametrize("name", ["r.h5", "r.hdf5"])
def test_the_one_recording_of_a_file_is_found_by_the_names_of_its_columns(write, name, tmp_path):
    assert rows_of(read(tmp_path, write, name)) == ROWS


def of_nothing(group, **options) -> None:
    """Columns of a hundred million events, of which none was ever written."""
    for name in "txyp":
        group.create_dataset(name, shape=(10**8,), dtype="u1", **options)


def packed_strangely(file) -> None:
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((6,))
    made.set_filter(32_001, h5py.h5z.FLAG_OPTIONAL, (2, 2))
    space = h5py.h5s.create_simple((6,))
    h5py.h5d.create(file.id, b"p", h5py.h5t.STD_U8LE, space, made)
    file.update({"t": T, "x": X, "y": Y})


def elsewhere(file) -> None:
    arrays(file)
    del file["p"]
    file.create_dataset("p", (6,), "u1", external=[("/dev/zero", 0, 6)])


def links(file) -> None:
    for name in "txyp":
        file[name] = h5py.ExternalLink("/dev/zero", name)


REFUSED = {
    "a set": (lambda file: (aertb(file), aertb(file, "4/1")), "several recordings .3/00042, 4/1"),
    "pictures": (lambda file: file.update({"images": np.zeros(9)}), "no group and no array with"),
    "MVSEC": (lambda file: file.update({"events": np.zeros((9, 4))}), "no group and no array with"),
    "two times": (
        lambda file: (arrays(file), file.update({"ts": T})),
        "no group and no array with",
    ),
    "an empty set": (of_nothing, "400000000 bytes are too much for so small a file"),
    "large chunks": (
        lambda f: arrays(f, chunks=(10**6,), maxshape=(None,), compression=1),
        "bytes are too much",
    ),
    "a filter": (packed_strangely, "/p is packed with .*: pip install hdf5plugin, and set HDF5_PL"),
    "another file": (elsewhere, "/p lies in another file"),
    "links": (links, "no group and no array with"),
    "text": (lambda f: f.update(dict.fromkeys("txyp", "a")), "no HDF5 file of events"),
    "seconds": (lambda f: f.update({"t": T / 1e6, "x": X, "y": Y, "p": P}), "must be called t_s"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_one_recording_in_one_file_is_refused_by_name(kind, tmp_path):
    write, words = REFUSED[kind]
    with pytest.raises(ValueError, match=rf"r\.h5: .*{words}"):
        read(tmp_path, write)


def test_no_hdf5_file_is_refused_by_name(tmp_path):
    path = files.put(tmp_path, "r.h5", b"\x89HDF\r\n\x1a\n and no more")
    with pytest.raises(ValueError, match=r"r\.h5: no HDF5 file of events"):
        read_events(path)
