"""Files of camera makers. faery's own writer is the independent one; the bytes by hand are from the
makers' descriptions.
"""

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
from anystep.data.readers.unpacked import most_unpacked

ROWS = [
    (0, 0, 0, 1),
    (3, 33, 5, 0),
    (3, 7, 33, 1),
    (4096, 1, 2, 0),
    (70_000, 30, 31, 1),
    (1_000_000, 6, 7, 0),
]
SIX = [*ROWS[:-1], (80_000, 6, 7, 0)]
FIXTURES = {
    "table.csv": files.csv_bytes(SIX),
    "dv.aedat4": files.aedat4_bytes([files.aedat4_packet(SIX[:4]), files.aedat4_packet(SIX[4:])]),
    "evt2.raw": files.evt2_bytes(SIX),
    "evt3.raw": files.evt3_bytes(SIX),
    "cd.dat": files.dat_bytes(SIX),
    "dvs.es": files.es_bytes(SIX),
}
WITH_FAERY = pytest.mark.skipif(
    importlib.util.find_spec("faery") is None, reason="needs faery: the extra `events`"
)


def aedat4(path: Path, rows, compression=("lz4", 1)) -> Path:
    """A file that faery wrote."""
    from faery import EVENTS_DTYPE, file_encoder

    array = np.zeros(len(rows), dtype=EVENTS_DTYPE)
    array["t"], array["x"], array["y"], array["on"] = np.array(rows).T
    file_encoder.events_to_file([array], path, (64, 48), zero_t0=False, compression=compression)
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
@pytest.mark.parametrize("name", FIXTURES)
def test_a_camera_file_made_by_hand_holds_the_events_known_by_hand(name):
    path = Path(__file__).parents[1] / "fixtures" / name
    assert (
        path.read_bytes() == FIXTURES[name]
    )  # what the description of the format gives for these events
    events = read_events(path)
    assert (rows_of(events), events.sensor) == (SIX, (48, 64))


@WITH_FAERY
@pytest.mark.parametrize("compression", [None, ("lz4", 1), ("zstd", 3)])
def test_an_aedat4_file_is_read_whatever_packs_it(compression, tmp_path):
    rows = random_rows(3000, 34, 2_000_000)
    assert rows_of(read_events(aedat4(tmp_path / "r.aedat4", rows, compression))) == rows


@WITH_FAERY
@pytest.mark.parametrize("compression", [("lz4", 1), ("lz4", 12), ("zstd", 1), ("zstd", 22)])
def test_what_packed_packets_unpack_to_is_known_before_they_are(compression, tmp_path):
    events = 20_000
    content = aedat4(
        tmp_path / "r.aedat4", random_rows(events, 34, 2_000_000), compression
    ).read_bytes()
    at, most = 18 + struct.unpack_from("<I", content, 14)[0], 0
    while most < 16 * events:
        size = struct.unpack_from("<i", content, at + 4)[0]
        packed = content[at + 8 : at + 8 + size]
        most, at = most + most_unpacked(memoryview(packed)), at + 8 + size
    assert most <= 4 * 16 * events
    assert at <= len(content)
    skipped = b"\x50\x2a\x4d\x18\2\0\0\0ab"
    assert most_unpacked(memoryview(packed + skipped + packed)) == 2 * most_unpacked(
        memoryview(packed)
    )
    for cut in (5, 8, len(packed) // 2, len(packed) - 5):
        with pytest.raises(ValueError, match="compressed data have no byte"):
            most_unpacked(memoryview(packed[:cut]))


def test_bytes_that_no_packer_wrote_unpack_to_nothing_and_an_old_one_is_refused():
    assert most_unpacked(memoryview(files.aedat4_packet(ROWS))) == 0
    assert most_unpacked(memoryview(b"")) == 0
    assert most_unpacked(memoryview(files.zstd_frame(b"abc", 300_000))) == 300_003
    assert (
        most_unpacked(memoryview(files.lz4_frame(2))) == 2 * 255 * 15697
    )  # below the 4 MiB that a block may be
    with pytest.raises(ValueError, match=r"zstd before version 1\.0 is not read"):
        most_unpacked(memoryview(b"\x27\xb5\x2f\xfd" + bytes(9)))


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
        (
            slice(0, -160),
            "truncated: the header names byte [0-9]+ as the end of the events, the file has",
        ),
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
    with pytest.raises(
        ValueError, match=rf"r\.aedat4: truncated: the packet at byte {first} claims {claim} bytes"
    ):
        read_events(files.put(tmp_path, "r.aedat4", bytes(content)))


def test_a_header_of_many_openings_and_no_end_takes_no_time(tmp_path):
    head = (
        struct.pack("<I", 4) + bytes(60) + b"<dv" * 2_000_000
    )  # a search from each of them would take hours
    content = b"#!AER-DAT4.0\r\n" + struct.pack("<I", len(head)) + head
    with pytest.raises(ValueError, match=r"r\.aedat4: the header at byte 14 is damaged"):
        read_events(files.put(tmp_path, "r.aedat4", content))


MANY = files.aedat4_packet([], number=10**6)  # a head that claims a million events


@WITH_FAERY
@pytest.mark.parametrize(
    ("packets", "compression", "message"),
    [
        (
            [files.zstd_frame(b"", 3 * 2**30)],
            3,
            "the packet at byte 558 has 98317 bytes that unpack to 3221225472",
        ),
        ([files.lz4_frame(7)], 1, "the packet at byte 558 has .* bytes that unpack to 28019145"),
        (
            [files.zstd_frame(MANY, 16 * 10**6)] * 3,
            3,
            "2181 bytes that unpack to more than 16777216 are no recording",
        ),
        (
            [files.zstd_frame(b"", 100)[:-3]],
            3,
            "the packet at byte 558 is damaged: its compressed data have no byte",
        ),
    ],
    ids=["one packet of zstd", "one packet of lz4", "three packets that are small enough", "cut"],
)
def test_an_aedat4_file_that_unpacks_to_far_more_than_it_holds_is_refused(
    packets, compression, message, tmp_path
):
    path = files.put(tmp_path, "r.aedat4", files.aedat4_bytes(packets, compression=compression))
    with pytest.raises(ValueError, match=rf"r\.aedat4: {message}"):
        read_events(path)


@WITH_FAERY
def test_the_frames_of_these_bombs_are_what_faery_unpacks(tmp_path):
    whole = files.aedat4_bytes([files.zstd_frame(files.aedat4_packet(ROWS), 0)], compression=3)
    assert rows_of(read_events(files.put(tmp_path, "r.aedat4", whole))) == ROWS
    million = files.aedat4_bytes([files.zstd_frame(MANY, 16 * 10**6)], compression=3)
    assert len(read_events(files.put(tmp_path, "r.aedat4", million))) == 10**6
    with pytest.raises(ValueError, match=r'faery cannot read it: bad packet prefix .* got "aaaa"'):
        read_events(
            files.put(tmp_path, "r.aedat4", files.aedat4_bytes([files.lz4_frame(1)], compression=1))
        )


@pytest.mark.parametrize(
    ("name", "base", "raised"),
    [
        ("PanicException", BaseException, ValueError),
        ("KeyboardInterrupt", KeyboardInterrupt, KeyboardInterrupt),
    ],
)
def test_a_panic_of_faery_is_a_refusal_and_an_interrupt_is_none(
    name, base, raised, tmp_path, monkeypatch
):
    def panic(*_, **__):
        raise type(name, (base,), {})("index out of bounds")

    monkeypatch.setitem(sys.modules, "faery", SimpleNamespace(events_stream_from_file=panic))
    with pytest.raises(raised, match="index out of bounds"):
        read_events(files.put(tmp_path, "r.es", b"Event Stream"))


def test_without_faery_a_camera_file_says_which_extra_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faery", None)
    with pytest.raises(
        ImportError, match=r'reading \.es files needs faery: pip install "anystep\[events\]"'
    ):
        read_events(files.put(tmp_path, "r.es", b"Event Stream"))


@WITH_FAERY
def test_a_column_beyond_any_sensor_is_refused_by_its_own_number(tmp_path):
    path = files.put(
        tmp_path, "r.es", files.es_bytes([(0, 1, 1, 1), (5, 40_000, 1, 1)], sensor=(48, 50_000))
    )
    with pytest.raises(ValueError, match=r"r\.es: x\[1\] = 40000 does not fit int16"):
        read_events(path, sensor=(48, 64))
