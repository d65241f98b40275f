"""Every format against events known by hand, and against files of independent writers."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from functools import partial
from pathlib import Path

import event_files as files
import numpy as np
import pytest
from event_files import random_rows, rows_of

from anystep.data.readers import (
    READERS,
    SUFFIXES,
    Segment,
    format_of,
    gesture_segments,
    read_events,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"
BY_HAND = {
    "nmnist.bin": [
        *((1, 0, 0, 1), (256, 33, 33, 0), (65536, 5, 7, 1), (8388607, 5, 7, 0)),
        *((8388607 + 8192, 10, 11, 1), (8388607 + 3 * 8192, 12, 13, 0)),
    ],
    # As CIFAR10-DVS. Rows 0, 127, 1, 1 and columns 0, 127, 2, 2; x = 127 - row, y = 127 - column;
    # the lowest bit is 0 for on.
    "cifar10dvs.aedat": [
        *((10, 127, 127, 1), (10, 0, 0, 0), (256, 126, 125, 1), (65536, 126, 125, 0))
    ],
    "gesture.aedat": [(100, 3, 2, 1), (200, 127, 127, 0), (2**31, 0, 0, 1), (2**31 + 2, 1, 1, 0)],
    "spikingjelly.npz": [(0, 0, 0, 0), (3, 127, 127, 1), (3, 5, 9, 1), (900, 6, 8, 0)],
    "tonic_gesture.npy": [(5000, 0, 0, 1), (5000, 127, 127, 0), (6_000_000, 3, 4, 1)],
}
ROWS = files.BY_HAND
DATA = os.environ.get("ANYSTEP_DATA")
HEADER2 = b"#!AER-DAT2.0\r\n"


def columns(rows, dtype=np.int64) -> dict[str, np.ndarray]:
    return dict(zip("txyp", np.array(rows, dtype).T, strict=True))


def read(folder: Path, name: str, content: bytes, **options):
    return read_events(files.put(folder, name, content), **options)


@pytest.mark.parametrize("name", BY_HAND)
def test_a_file_made_by_hand_holds_the_events_known_by_hand(name):
    turned = "cifar10-dvs" if name.startswith("cifar10") else None
    sensor = (128, 128) if name.endswith("npz") else None
    events = read_events(FIXTURES / name, format=turned, sensor=sensor)
    assert rows_of(events) == BY_HAND[name]
    types = [column.dtype for column in (events.t, events.x, events.y, events.p)]
    assert types == [np.int64, np.int16, np.int16, np.uint8]
    assert events.sensor == ((34, 34) if name == "nmnist.bin" else (128, 128))


def saved(save, *args) -> bytes:
    file = io.BytesIO()
    save(file, *args)
    return file.getvalue()


def raw_davis(rows) -> bytes:
    """The words of brightness events alone."""
    return b"".join(
        struct.pack(">II", (179 - y) << 22 | (239 - x) << 12 | p << 11, t) for t, x, y, p in rows
    )


def in_packets(rows) -> bytes:
    """AEDAT 3 with packets of another kind between those of seven events."""
    packets = [files.aedat3_packet(rows[k : k + 7]) for k in range(0, len(rows), 7)]
    return files.AEDAT3_HEADER + files.aedat3_packet([], kind=0).join(packets)


@pytest.mark.parametrize(
    ("name", "write", "side", "last"),
    [
        ("r.bin", files.bin_bytes, 34, 9_000_000),
        ("r.aedat", files.aedat2_bytes, 128, 2**32),
        ("r.aedat", files.davis_bytes, 180, 2**32),
        ("r.dat", partial(files.aedat2_bytes, header=b"#!AER-DAT1.0\r\n", address="H"), 128, 2**32),
        ("r.aedat", in_packets, 128, 2**31),
    ],
)
def test_what_a_slow_writer_wrote_is_read_back(name, write, side, last, tmp_path):
    rows = random_rows(3000, side, last)
    assert rows_of(read(tmp_path, name, write(rows))) == rows


def test_caltech_recordings_need_their_size_and_say_so(tmp_path):
    content = files.bin_bytes([(1, 200, 150, 1)])
    with pytest.raises(
        ValueError, match=r"200 must be in 0\.\.33, or .*data show --sensor 180,240"
    ):
        read(tmp_path, "r.bin", content)
    assert read(tmp_path, "r.bin", content, sensor=(180, 240)).sensor == (180, 240)


def test_milliseconds_with_a_fraction_become_the_nearest_microsecond(tmp_path):
    path = tmp_path / "r.npy"
    np.save(path, np.array([[0, 0, 1, 0.001], [1, 1, 0, 0.3], [1, 1, 0, 1234.567]]))
    assert read_events(path).t.tolist() == [1, 300, 1_234_567]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [np.int64, np.uint32, ">i8", np.float64])
def test_an_archive_of_any_number_type_gives_the_same_events(save, dtype, tmp_path):
    save(tmp_path / "r.npz", **columns(ROWS, dtype), note=np.array(["ignored"], dtype=object))
    assert rows_of(read_events(tmp_path / "r.npz", sensor=(34, 34))) == ROWS


def test_an_archive_may_keep_its_own_size_and_the_argument_goes_first(tmp_path):
    np.savez(tmp_path / "r.npz", **columns(ROWS), sensor=np.array([48, 64]))
    assert read_events(tmp_path / "r.npz").sensor == (48, 64)
    assert read_events(tmp_path / "r.npz", sensor=(34, 34)).sensor == (34, 34)


@pytest.mark.parametrize(
    ("header", "order"),
    [("t,x,y,p", "txyp"), ("y, x ,P,t,note", "yxptt"), ("t,x@64,y@48,on", "txyp")],
)
def test_a_table_is_read_by_the_names_in_its_first_line(header, order, tmp_path):
    table = "".join(",".join(str(row["txyp".index(name)]) for name in order) + "\n" for row in ROWS)
    path = files.put(tmp_path, "r.csv", f"{header}\n{table}".encode())
    events = read_events(path, sensor=None if "@" in header else (34, 34))
    assert rows_of(events) == ROWS
    assert events.sensor == ((48, 64) if "@" in header else (34, 34))


def test_cifar10_dvs_is_turned_as_spikingjelly_turns_it(tmp_path):
    address = np.random.default_rng(1).integers(0, 2**15, 200)
    body = np.column_stack([address, np.arange(200)]).astype(">u4").tobytes()
    content = b"#!AER-DAT2.0\r\n" + body
    # x, y and p as the masks and shifts of that loader define them
    x, y, p = (address & 0xFE) >> 1, (address & 0x7F00) >> 8, address & 1
    events = read(tmp_path, "r.aedat", content, format="cifar10-dvs")
    assert np.array_equal(np.stack([events.x, events.y, events.p]), [127 - y, 127 - x, 1 - p])
    # and upright, as jAER and libcaer show what a DVS128 saw
    events = read(tmp_path, "r.aedat", content)
    assert np.array_equal(np.stack([events.x, events.y, events.p]), [127 - x, 127 - y, 1 - p])


LONG_LINE = HEADER2 + b"#" + b"k" * 5000 + b"\r\n#End Of ASCII Header\r\n"
DVS, DAVIS = files.aedat2_bytes(ROWS, header=b""), files.davis_bytes(ROWS)[len(HEADER2) :]


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (HEADER2 + b"# AEChip: ch.unizh.ini.jaer.chip.retina.DVS128\r\n" + DVS, (128, 128)),
        (HEADER2 + b"# AEChip: Tmpdiff128\n" + DVS, (128, 128)),
        (b"#!AER-DAT2.0\r\n" + DVS, (128, 128)),
        (LONG_LINE + DVS, (128, 128)),
        (HEADER2 + DAVIS, (180, 240)),
        (files.davis_bytes(ROWS, chip=b"SBRet21"), (180, 240)),
        (files.davis_bytes(ROWS, chip=b"Davis346red", size=(260, 346)), (260, 346)),
    ],
    ids=["DVS128", "Tmpdiff128", "none", "a long line", "DAVIS240C", "SBRet21", "Davis346red"],
)
def test_the_header_of_jaer_says_which_camera_it_was(content, size, tmp_path):
    events = read(tmp_path, "r.aedat", content)
    assert (rows_of(events), events.sensor) == (ROWS, size)


@pytest.mark.parametrize("end", [b"", b"#End Of ASCII Header\r\n"])
def test_an_event_that_begins_as_a_header_line_does_is_no_line_of_the_header(end, tmp_path):
    """Rows 140 to 143 of a DAVIS from below have # as first byte; 0x0A ends no line there."""
    rows = [(10, 0, 180 - 1 - y, 1) for y in (140, 141, 142)] + [(0x0A0A, 1, 1, 1)]
    header = HEADER2 + files.CHIP % b"DAVIS240C" + end
    assert rows_of(read(tmp_path, "r.aedat", header + raw_davis(rows))) == rows


def test_minus_one_and_plus_one_are_polarities_too(tmp_path):
    signs = [-1, 1, 1, -1, 1, -1]
    for name, dtype in (("a", np.int8), ("b", np.float64)):
        np.savez(tmp_path / f"{name}.npz", **columns(ROWS) | {"p": np.array(signs, dtype)})
        events = read_events(tmp_path / f"{name}.npz", sensor=(34, 34))
        assert events.p.tolist() == [0, 1, 1, 0, 1, 0]
    np.savez(tmp_path / "c.npz", **columns(ROWS) | {"p": [-1, 0, 1, 1, 1, 1]})
    with pytest.raises(ValueError, match=r"p\[0\] = -1 does not fit"):
        read_events(tmp_path / "c.npz", sensor=(34, 34))


FIELDS = {
    "metavision": [("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")],
    "aertb, seconds": [("x", "<u2"), ("y", "<u2"), ("ts", "<f8"), ("p", "i1")],
    "tonic": [("x", "i2"), ("y", "i2"), ("t", "i8"), ("p", "?")],
    "named seconds": [("t_s", "f8"), ("x", "i4"), ("y", "i4"), ("polarity", "i1")],
    "padded": {"names": [*"txyp"], "formats": ["i8", "i2", "i2", "u1"], "itemsize": 16},
}


@pytest.mark.parametrize("kind", FIELDS)
def test_a_structured_array_is_read_by_its_fields(kind, tmp_path):
    table = np.zeros(len(ROWS), FIELDS[kind])
    for name, values in zip(("t", "x", "y", "p"), np.array(ROWS).T, strict=True):
        field = next(each for each in table.dtype.names if each[0] == name)
        seconds = name == "t" and table[field].dtype.kind == "f"
        table[field] = values / 1e6 if seconds else values
    np.save(tmp_path / "r.npy", table)
    assert rows_of(read_events(tmp_path / "r.npy", sensor=(34, 34))) == ROWS


def lines(order: str, *, between: str = ",", head: str = "", unit: float = 1) -> bytes:
    """A table of ROWS with its columns in this order, the time as so many units."""
    rows = [(t if unit == 1 else f"{t * unit:.9f}", x, y, p) for t, x, y, p in ROWS]
    text = "".join(between.join(str(r["txyp".index(c)]) for c in order) + "\n" for r in rows)
    return (head + text).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metavision.csv", lines("xypt")),
        ("blanks.txt", lines("txyp", between=" ")),
        ("events.txt", lines("txyp", between=" ", unit=1e-6)),
        ("size.txt", lines("txyp", between=" ", unit=1e-6, head="34 34\n")),
        ("numpy.txt", lines("txyp", between=" ", head="# made by hand\n# t x y p\n")),
        ("seconds.csv", lines("pxyt", unit=1e-6, head="polarity,x,y,t_s\n")),
        ("milliseconds.csv", lines("txyp", unit=1e-3, head="t_ms,x,y,on\n")),
    ],
)
def test_a_table_without_names_is_read_where_its_order_and_unit_are_certain(
    name, content, tmp_path
):
    events = read(tmp_path, name, content, sensor=None if name == "size.txt" else (34, 34))
    assert rows_of(events) == ROWS


def test_the_segments_of_a_recording_are_its_labelled_gestures():
    segments = gesture_segments(FIXTURES / "gesture_labels.csv")
    assert segments == [Segment(2, 100, 200), Segment(11, 200, 2**31 + 1)]
    events = read_events(FIXTURES / "gesture.aedat")
    assert [segment.of(events).t.tolist() for segment in segments] == [[100], [200, 2**31]]


def test_every_format_can_be_asked_for_by_name_and_by_suffix():
    assert set(SUFFIXES.values()) == set(READERS) - {"cifar10-dvs"}
    assert read_events(FIXTURES / "nmnist.bin", format="bin").sensor == (34, 34)
    names = (FIXTURES / "cifar10dvs.aedat", FIXTURES / "gesture.aedat", "SOME.BIN")
    assert [format_of(name) for name in names] == ["aedat2", "aedat3", "bin"]


def test_an_unknown_format_suffix_or_version_is_refused_with_what_is_known(tmp_path):
    old = files.put(tmp_path, "r.aedat", b"#!AER-DAT5.0\r\n")
    for path, name, words in (
        (FIXTURES / "nmnist.bin", "aedat", r"unknown event format 'aedat'\. Did you mean 'aedat"),
        ("r.rec", None, r"unknown suffix '\.rec' in r\.rec; or say format="),
        (old, None, r"unknown AEDAT version '5\.0' in .*r\.aedat"),
        (FIXTURES / "gesture.aedat", "aedat2", r"must be AEDAT 2\.0, the file says 3\.1"),
        (FIXTURES / "cifar10dvs.aedat", "aedat3", r"must be AEDAT 3\.1, the file says 2\.0"),
    ):
        with pytest.raises(ValueError, match=words):
            read_events(path, format=name)


@pytest.mark.parametrize("name", ["r.bin", "r.aedat", "r.es"])
def test_what_is_no_file_with_something_in_it_is_refused_by_name(name, tmp_path):
    path = tmp_path / name
    with pytest.raises(FileNotFoundError):
        read_events(path)
    for make, undo, words in (
        (path.mkdir, path.rmdir, "must be a recording, it is a directory"),
        (path.touch, path.unlink, "the file is empty"),
        (lambda: os.mkfifo(path), path.unlink, "must be a recording, it is no regular file"),
    ):
        make()
        with pytest.raises(ValueError, match=f"{name}: {words}"):
            read_events(path)
        undo()


GOOD3 = files.AEDAT3_HEADER
BAD = {
    "half.bin": (files.bin_bytes(ROWS)[:-1], "truncated: the event at byte 25 has 4 of its 5"),
    "only-marks.bin": (bytes([0, 240, 0, 0, 0]) * 3, "holds no events"),
    "no-header.aedat": (b"\0" * 16, "no AEDAT file: the first line must be"),
    "half.aedat": (files.aedat2_bytes(ROWS)[:-3], "the event at byte 70 has 5 of its 8 bytes"),
    "only-a-header.aedat": (HEADER2, "holds no events"),
    "only-special.aedat": (HEADER2 + bytes([0, 0, 128, 0, 0, 0, 0, 1]), "holds no events"),
    "little-endian.aedat": (
        files.aedat2_bytes(ROWS, order="<"),
        "event 0 after byte 30 .*little-end",
    ),
    "open-header.aedat": (HEADER2 + b"# no end", "the header line at byte 14 has no end"),
    "cochlea.aedat": (
        HEADER2 + b"# AEChip: ch.unizh.ini.jaer.chip.cochlea.CochleaAMS1c\n" + bytes(8),
        "recordings of 'cochleaams1c' are not read; of these they are: DVS128",
    ),
    "no-camera.aedat": (HEADER2 + b"\0\0\3\xff\0\0\0\1" * 9, "a cochlea's .* `# AEChip: DVS128`"),
    "no-chip.aedat": (files.davis_bytes(ROWS, chip=b""), "from another camera.*DAVIS240C"),
    "half-a-header.aedat": (GOOD3 + b"\1\0\1", "the packet at byte 105 has no whole header of 28"),
    "claims-10^8.aedat": (
        GOOD3 + files.aedat3_packet(ROWS[:1], number=10**8) + b"ab",
        "at byte 105 claims 100000000 events of 8 bytes, 10 bytes are left",
    ),
    "no-packet.aedat": (GOOD3 + b"\xff" * 40, "no packet at byte 105: type -1"),
    "large-camera.aedat": (GOOD3 + files.aedat3_packet([(5, 200, 1, 1)]), "200 .*--sensor 180,240"),
    "none-valid.aedat": (GOOD3 + files.aedat3_packet(ROWS, valid=0), "holds no events"),
    "no-zip.npz": (b"PK\3\4 and no more", "no archive of arrays"),
    "text.npy": (b"\x93NUMPY\1\0\x10\0{'descr': 1     ", "no array of events"),
    "no-names.csv": (b"1,2,3,1\n", "cannot be told apart: write a first line .* like t,x,y,p"),
    "no-size.csv": (b"t,x,y,p\n1,2,3,1\n", "does not say how large the camera was"),
    "a-word.csv": (b"t,x@9,y@9,p\n1,2,3,1\n1,two,3,1\n", "could not convert .*two.* at row 1"),
    "a-fraction.csv": (b"t,x@9,y@9,p\n1.5,2,3,1\n", "t.0. = 1.5 must be .* seconds .* t_s"),
    "half-a-pixel.csv": (b"t,x@9,y@9,p\n1,2.5,3,1\n", "x.0. = 2.5 must be a whole number"),
    "which-is-which.csv": (b"0,0,0,0\n5,0,0,0\n", "cannot be told apart: write a first line"),
    "which-unit.csv": (b"0.5,2,3,1\n0.7,9,1,0\n", "the unit of the time is not known: write"),
    "too-large.csv": (b"t,x@9,y@9,p\n9007199254740993,2,3,1\n", "larger than 2.53"),
    "readme.txt": (b"what these are", "the first line must name t, x, y and p"),
    "txyp.npy": (saved(np.save, np.array(ROWS)), "third column is not 0 or 1: save .*npz"),
    "only-names.csv": (b"t,x@9,y@9,p\n", "holds no events"),
    "another.aedat4": (b"#!AER-DAT3.1\r\n", "no AEDAT file: the first line must be '#!AER-DAT4.0'"),
    "half-a-header.aedat4": (b"#!AER-DAT4.0\r\n\xff\xff\xff\xff", "damaged or cut at byte 14"),
    "no-version.raw": (b"% geometry 34x24\n\0\0\0\0", "the header does not say its version"),
    "no-version.dat": (b"% Width 34\n\x0c\x08", "the header does not say its version"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_its_name_and_the_place(name, tmp_path):
    content, message = BAD[name]
    path = files.put(tmp_path, name, content)
    with pytest.raises(ValueError, match=message) as caught:
        read_events(path)
    assert str(caught.value).startswith(str(path))


ONE = {name: [1] for name in "txyp"}


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ({"t": [1], "x": [1]}, "no archive of events: it must have .* got t, x"),
        ({**ONE, "t": [1, 2]}, "columns of one length"),
        ({name: [] for name in "txyp"}, "holds no events"),
        (dict.fromkeys("txyp", 1), "columns of one length"),
        ({**ONE, "t": np.array([None])}, "are no object of shape"),
        ({**ONE, "sensor": [1, 2, 3]}, "no archive of events"),
        (ONE, r"sensor=\(180, 240\)"),
    ],
)
def test_a_bad_archive_is_refused_by_name(arrays, word, tmp_path):
    np.savez(tmp_path / "r.npz", **arrays)
    sensor = None if arrays is ONE or "sensor" in arrays else (34, 34)
    with pytest.raises(ValueError, match=rf"r\.npz: .*{word}"):
        read_events(tmp_path / "r.npz", sensor=sensor)


def test_an_archive_that_lies_about_the_size_of_an_array_is_refused(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in "txyp":
            archive.writestr(f"{name}.npy", bytes(8_765_432))
    true, said = (8_765_432).to_bytes(4, "little"), (200).to_bytes(4, "little")
    assert file.getvalue().count(true) == 8  # of four arrays, before its bytes and in the directory
    with pytest.raises(ValueError, match=r"r\.npz: no archive of arrays"):
        read(tmp_path, "r.npz", file.getvalue().replace(true, said), sensor=(34, 34))


@pytest.mark.skipif(not DATA, reason="set ANYSTEP_DATA to a folder with NMNIST/{Train,Test}")
@pytest.mark.parametrize(
    ("part", "counts"), [("Train", (1000, 4_133_231)), ("Test", (100, 385_596))]
)
def test_the_real_n_mnist_recordings_decode_to_exactly_the_published_events(part, counts):
    paths = sorted(Path(DATA or "", "NMNIST", part).glob("*/*.bin"))
    recordings = [read_events(path) for path in paths]
    assert (len(recordings), sum(len(each) for each in recordings)) == counts
    assert {each.sensor for each in recordings} == {(34, 34)}
