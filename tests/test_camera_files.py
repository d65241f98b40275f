"""Files of camera makers. faery's own writer is the independent one; the bytes by hand are from the makers' descriptions."""

from __future__ import annotations

import importlib.util
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import event_files as files
import numpy as np
import pytest
from event_files import random_rows, rows_of

from anystep.data.readers import read_events

ROWS = [(0, 0, 0, 1), (3, 33, 5, 0), (3, 7, 33, 1), (4096, 1, 2, 0), (70_000, 30, 31, 1), (1_000_000, 6, 7, 0)]
WITH_FAERY = pytest.mark.skipif(importlib.util.find_spec("faery") is None, reason="needs faery: the extra `events`")


def aedat4(path: Path, rows) -> Path:
    """A file that faery wrote."""
    from faery import EVENTS_DTYPE, file_encoder

    array = np.zeros(len(rows), dtype=EVENTS_DTYPE)
    array["t"], array["x"], array["y"], array["on"] = np.array(rows).T
    file_encoder.events_to_file([array], path, (64, 48), zero_t0=False)
    return path


@WITH_FAERY
@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("r.aedat4", None),
        ("r.raw", "evt2"),
        ("r.raw", "evt3"),
        ("r.dat", "dat1"),
        ("r.dat", "dat2"),
        ("r.es", None),
        ("r.csv", None),
    ],
)
def test_what_faery_wrote_is_read_back(name, version, tmp_path):
    from faery import EVENTS_DTYPE, file_encoder

    rows = random_rows(400, 34, 2_000_000)
    array = np.zeros(len(rows), dtype=EVENTS_DTYPE)
    array["t"], array["x"], array["y"], array["on"] = np.array(rows).T
    file_encoder.events_to_file([array], tmp_path / name, (64, 48), zero_t0=False, version=version)
    events = read_events(tmp_path / name)
    assert events.sensor == (48, 64)
    assert rows_of(events) == rows


@WITH_FAERY
@pytest.mark.parametrize(
    ("name", "write"),
    [("r.raw", files.evt2_bytes), ("r.raw", files.evt3_bytes), ("r.dat", files.dat_bytes)],
    ids=["evt2", "evt3", "dat"],
)
def test_a_camera_file_made_by_hand_holds_its_events(name, write, tmp_path):
    events = read_events(files.put(tmp_path, name, write(ROWS)))
    assert (rows_of(events), events.sensor) == (ROWS, (48, 64))


@WITH_FAERY
def test_a_camera_file_that_names_no_size_asks_for_it(tmp_path):
    for name, content in (
        ("r.raw", files.evt3_bytes(ROWS, header=b"% evt 3.0\n")),
        ("r.dat", files.dat_bytes(ROWS, header=b"% Version 2\n")),
    ):
        path = files.put(tmp_path, name, content)
        with pytest.raises(ValueError, match=rf"{name}: .*pass sensor=\(height, width\)"):
            read_events(path)
        assert rows_of(read_events(path, sensor=(48, 64))) == ROWS


@WITH_FAERY
@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (slice(0, -160), "truncated: the header names byte [0-9]+ as the end of the events, the file has"),
        (slice(0, 90), "the header at byte 14 is damaged"),
    ],
)
def test_a_cut_aedat4_file_is_refused_before_faery_sees_it(cut, message, tmp_path, monkeypatch):
    path = aedat4(tmp_path / "r.aedat4", ROWS)
    monkeypatch.setitem(sys.modules, "faery", None)
    with pytest.raises(ValueError, match=rf"r\.aedat4: {message}"):
        read_events(files.put(tmp_path, "r.aedat4", path.read_bytes()[cut]))


@WITH_FAERY
@pytest.mark.parametrize("claim", [-1, 10**8, 2**31 - 1])
def test_a_packet_that_claims_more_than_the_aedat4_file_holds_is_refused(claim, tmp_path):
    content = bytearray(aedat4(tmp_path / "r.aedat4", ROWS).read_bytes())
    first = 18 + struct.unpack_from("<I", content, 14)[0]
    struct.pack_into("<i", content, first + 4, claim)
    with pytest.raises(ValueError, match=rf"r\.aedat4: truncated: the packet at byte {first} claims {claim} bytes"):
        read_events(files.put(tmp_path, "r.aedat4", bytes(content)))


@pytest.mark.parametrize(
    ("name", "base", "raised"),
    [("PanicException", BaseException, ValueError), ("KeyboardInterrupt", KeyboardInterrupt, KeyboardInterrupt)],
)
def test_a_panic_of_faery_is_a_refusal_and_an_interrupt_is_none(name, base, raised, tmp_path, monkeypatch):
    def panic(*_, **__):
        raise type(name, (base,), {})("index out of bounds")

    monkeypatch.setitem(sys.modules, "faery", SimpleNamespace(events_stream_from_file=panic))
    with pytest.raises(raised, match="index out of bounds"):
        read_events(files.put(tmp_path, "r.es", b"Event Stream"))


def test_without_faery_a_camera_file_says_which_extra_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faery", None)
    with pytest.raises(ImportError, match=r'reading \.es files needs faery: pip install "anystep\[events\]"'):
        read_events(files.put(tmp_path, "r.es", b"Event Stream"))
