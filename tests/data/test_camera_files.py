"""Files of camera makers, written by faery and by hand from the makers' descriptions."""

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


def write(path: Path, rows, **options) -> Path:
    """A file that faery wrote."""
    from faery import EVENTS_DTYPE, file_encoder

    array = np.zeros(len(rows), dtype=EVENTS_DTYPE)
    array["t"], array["x"], array["y"], array["on"] = np.array(rows).T
    file_encoder.events_to_file([array], path, (64, 48), zero_t0=False, **options)
    return path


@WITH_FAERY
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("aedat4", {"compression": None}),
        *(
            ("aedat4", {"compression": packed})
            for packed in (("lz4", 1), ("zstd", 1), ("zstd", 22))
        ),
        *(("raw", {"version": version}) for version in ("evt2", "evt3")),
        *(("dat", {"version": version}) for version in ("dat1", "dat2")),
        ("es", {}),
        ("csv", {}),
    ],
)
def test_what_faery_wrote_is_read_back(suffix, options, tmp_path):
    rows = random_rows(3000, 34, 2_000_000)
    events = read_events(write(tmp_path / f"r.{suffix}", rows, **options))
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
def test_a_camera_file_that_names_no_size_asks_for_it(tmp_path):
    for name, content in (
        ("r.raw", files.evt3_bytes(ROWS, header=b"% evt 3.0\n")),
        ("r.dat", files.dat_bytes(ROWS, header=b"% Version 2\n")),
    ):
        path = files.put(tmp_path, name, content)
        with pytest.raises(ValueError, match=rf"{name}: .*pass sensor=\(height, width\)"):
            read_events(path)
        assert rows_of(read_events(path, sensor=(48, 64))) == ROWS


MANY = files.aedat4_packet([], number=10**6)  # a head that claims a million events
WHOLE = files.zstd_frame(files.aedat4_packet(ROWS), 0)
SKIPPED = b"\x50\x2a\x4d\x18\2\0\0\0ab"


@WITH_FAERY
@pytest.mark.parametrize(
    ("packets", "word"),
    [
        ([files.zstd_frame(b"", 3 * 2**30)], "too much for so small a file"),
        ([SKIPPED + files.zstd_frame(b"", 3 * 2**30)], "too much for so small a file"),
        ([files.zstd_frame(MANY, 16 * 10**6)] * 3, "too many for so small a file"),
        ([WHOLE[:-3]], "damaged or cut"),
        ([b"\x27\xb5\x2f\xfd" + bytes(9)], "no frame of Zstandard"),
    ],
    ids=["one packet", "after a frame that is skipped", "three packets", "cut", "before zstd 1.0"],
)
def test_an_aedat4_file_that_unpacks_to_far_more_than_it_holds_is_refused(packets, word, tmp_path):
    path = files.put(tmp_path, "r.aedat4", files.aedat4_bytes(packets, compression=3))
    with pytest.raises(ValueError, match=rf"r\.aedat4: .*{word}"):
        read_events(path)


@WITH_FAERY
def test_the_frames_of_these_bombs_are_what_faery_unpacks(tmp_path):
    for packets, count in (
        ([WHOLE, WHOLE], 2 * len(ROWS)),
        ([files.zstd_frame(MANY, 16 * 10**6)], 10**6),
    ):
        path = files.put(tmp_path, "r.aedat4", files.aedat4_bytes(packets, compression=3))
        assert len(read_events(path)) == count


@WITH_FAERY
@pytest.mark.parametrize("claim", [-1, 10**8, 2**31 - 1])
def test_a_packet_that_claims_more_than_the_aedat4_file_holds_is_refused(claim, tmp_path):
    content = bytearray(write(tmp_path / "r.aedat4", ROWS).read_bytes())
    first = 18 + struct.unpack_from("<I", content, 14)[0]
    struct.pack_into("<i", content, first + 4, claim)
    with pytest.raises(ValueError, match=rf"at byte {first}: a packet claims {claim} bytes"):
        read_events(files.put(tmp_path, "r.aedat4", bytes(content)))


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
    with pytest.raises(ImportError, match=r"reading \.es files needs faery: .*anystep\[events\]"):
        read_events(files.put(tmp_path, "r.es", b"Event Stream"))


@WITH_FAERY
def test_a_column_beyond_any_sensor_is_refused_by_its_own_number(tmp_path):
    content = files.es_bytes([(0, 1, 1, 1), (5, 40_000, 1, 1)], sensor=(48, 50_000))
    with pytest.raises(ValueError, match=r"r\.es: x\[1\] = 40000 does not fit int16"):
        read_events(files.put(tmp_path, "r.es", content), sensor=(48, 64))
