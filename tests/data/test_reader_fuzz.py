"""Whatever a file holds: it gives events or an error that names it, in little memory."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import event_files as files
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anystep.data.readers import READERS, gesture_segments, read_events
from anystep.data.recording import Events

ROWS = [(10 * k, (7 * k) % 34, (5 * k) % 34, k % 2) for k in range(24)]
SENSOR = (128, 128)


def saved(save, *args, **arrays) -> bytes:
    file = io.BytesIO()
    save(file, *args, **arrays)
    return file.getvalue()


def written(rows) -> dict[str, bytes]:
    """A file of every format that we read ourselves."""
    columns = dict(zip("txyp", np.array(rows).T, strict=True))
    packets = files.aedat3_packet(rows[:9]) + files.aedat3_packet(rows[9:])
    return {
        "bin": files.bin_bytes(rows),
        "aedat2": files.aedat2_bytes(rows),
        "aedat2 davis": files.davis_bytes(rows),
        "aedat3": files.AEDAT3_HEADER + packets,
        "npz": saved(np.savez, **columns),
        "npz packed": saved(np.savez_compressed, **columns, sensor=np.array([34, 34])),
        "npy": saved(np.save, np.array(rows)[:, [1, 2, 3, 0]]),
        "npy fields": saved(np.save, np.rec.fromarrays(np.array(rows).T, names=[*"txyp"])),
        "csv": files.csv_bytes(rows, header=b"t,x,y,p\n"),
        "raw": files.evt3_bytes(rows),
        "raw evt2": files.evt2_bytes(rows),
        "dat": files.dat_bytes(rows),
    }


def times(events: list, kind: str) -> list[int]:
    """Of rows, as the file says them."""
    return [1000 * t if kind == "npy" else t for t, *_ in events]


WHOLE = written(ROWS)


def with_faery() -> dict[str, bytes]:
    """The formats that need faery, if it is there."""
    if importlib.util.find_spec("faery") is None:
        return {}
    from faery import EVENTS_DTYPE, file_encoder

    array = np.zeros(len(ROWS), dtype=EVENTS_DTYPE)
    array["t"], array["x"], array["y"], array["on"] = np.array(ROWS).T
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "r.aedat4")
        file_encoder.events_to_file([array], file, (64, 48), zero_t0=False)
        packed = file.read_bytes()
    return {
        "aedat4": packed,
        "aedat4 not packed": files.aedat4_bytes([files.aedat4_packet(ROWS)]),
        "es": files.es_bytes(ROWS),
    }


def with_h5py() -> dict[str, bytes]:
    """HDF5, if h5py is there."""
    if importlib.util.find_spec("h5py") is None:
        return {}
    from h5py import File

    content = io.BytesIO()
    with File(content, "w") as file:
        file["events"] = np.rec.fromarrays(np.array(ROWS).T, names=[*"txyp"])
    return {"h5": content.getvalue()}


ALL = WHOLE | with_faery() | with_h5py()


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def refused(path: Path, error: ValueError) -> None:
    """The error says which file."""
    assert str(error).startswith(str(path)), error


def read_or_refuse(path: Path, kind: str, content: bytes, *, sort: bool = False) -> Events | None:
    """The events of `content`; None when it was refused as it should be. Anything else is the
    test's failure.
    """
    path.write_bytes(content)
    try:
        events = read_events(path, format=kind.split()[0], sensor=SENSOR, sort=sort)
    except ValueError as error:
        return refused(path, error)
    assert 0 < len(events) <= max(len(content), 1)
    return events


@pytest.mark.parametrize("kind", ALL)
def test_a_file_cut_anywhere_never_gives_other_events_than_the_first_ones(kind, folder):
    content = ALL[kind]
    whole = read_or_refuse(folder / "file", kind, content)
    assert whole.t.tolist() == times(ROWS, kind)
    for length in range(1, len(content), 1 + len(content) // 100):
        cut = read_or_refuse(folder / "file", kind, content[:length])
        in_a_number = kind == "csv" and b"\n" not in content[length - 1 : length + 1]
        if cut is not None and not in_a_number:  # a number cut in two is another number
            assert cut.t.tolist() == whole.t[: len(cut)].tolist()
            assert cut.x.tolist() == whole.x[: len(cut)].tolist()


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("word", [2, 4, 8])
def test_words_with_their_bytes_the_wrong_way_round_are_read_or_refused(kind, word, folder):
    """From every fourth place on: a header may or may not be turned with them."""
    content = ALL[kind]
    for start in range(0, min(len(content), 160), 4):
        last = start + (len(content) - start) // word * word
        turned = np.frombuffer(content[start:last], f"u{word}").byteswap().tobytes()
        read_or_refuse(folder / "file", kind, content[:start] + turned + content[last:])


@pytest.mark.parametrize("kind", ALL)
def test_an_event_outside_the_sensor_is_refused_by_place_and_value(kind, folder):
    path = files.put(folder, "file", ALL[kind])
    for sensor, place in (((20, 34), "y"), ((34, 20), "x")):
        column = "txyp".index(place)
        first = next(k for k, row in enumerate(ROWS) if row[column] >= 20)
        match = rf"file: {place}\[{first}\] = {ROWS[first][column]} must be in 0\.\.19"
        with pytest.raises(ValueError, match=match):
            read_events(path, format=kind.split()[0], sensor=sensor)


@pytest.mark.parametrize("kind", WHOLE)
def test_events_in_another_order_are_refused_and_sorted_on_demand(kind, folder):
    """Not what faery reads: in those formats no time can step back."""
    path = files.put(folder, "file", written(ROWS[8:] + ROWS[:8])[kind])
    options = {"format": kind.split()[0], "sensor": SENSOR}
    with pytest.raises(ValueError, match=r"file: t\[16\] = 0 is earlier .*sort=True"):
        read_events(path, **options)
    assert read_events(path, **options, sort=True).t.tolist() == times(ROWS, kind)


def damaged(content: bytes, draw) -> bytes:
    """Flipped bits, pieces in another order, or garbage after a good start."""
    how = draw(st.sampled_from(["bits", "order", "garbage"]))
    if how == "garbage":
        return content[: draw(st.integers(0, 200))] + draw(st.binary(min_size=1, max_size=300))
    if how == "order":
        cuts = sorted(draw(st.lists(st.integers(0, len(content)), max_size=4)))
        pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
        return b"".join(draw(st.permutations(pieces)))
    changed = bytearray(content)
    for bit in draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=6)):
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=100)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(kind, folder, data):
    content = damaged(ALL[kind], data.draw)
    read_or_refuse(folder / "file", kind, content, sort=data.draw(st.booleans()))


@settings(max_examples=60)
@given(text=st.binary(min_size=1, max_size=200), good=st.booleans())
def test_any_table_of_gestures_is_read_or_refused(folder, text, good):
    path = folder / "labels.csv"
    path.write_bytes(b"class,startTime_usec,endTime_usec\n" * good + text)
    try:
        assert len(gesture_segments(path)) <= len(text)
    except ValueError as error:
        refused(path, error)


HUGE = 10**8
PACKET = files.aedat4_packet(ROWS)
MANY = files.zstd_frame(files.aedat4_packet([], number=10**6), 16 * 10**6)
ZEROS = files.zstd_frame(b"", 3 * 2**30)
BOMBS = {
    "aedat3": files.AEDAT3_HEADER + files.aedat3_packet(ROWS[:1], number=HUGE) + b"ab",
    "npy": saved(np.save, np.zeros((10, 4), np.int64)).replace(
        b"(10, 4), }" + b" " * 7, f"({HUGE}, 4), }}".encode()
    ),
    "npz": b"",
    "csv": b"t,x,y,p\n" + b"9" * 10**6,
    "bin": bytes([0, 240, 0, 0, 0]) * 10**6,
    "aedat1": b"#" * 10**6,
    "aedat2": b"#" * 10**6,
    "cifar10-dvs": b"#" * 10**6,
    "aedat4": files.aedat4_bytes([ZEROS], compression=3),
    "aedat4 skip": files.aedat4_bytes([b"\x50\x2a\x4d\x18\2\0\0\0ab" + ZEROS], compression=3),
    "aedat4 packets": files.aedat4_bytes([MANY] * 30, compression=3),
    "aedat4 cut": files.aedat4_bytes([files.zstd_frame(PACKET, 0)[:-3]], compression=3),
    "aedat4 before zstd 1.0": files.aedat4_bytes([b"\x27\xb5\x2f\xfd" + bytes(9)], compression=3),
    "aedat4 claim": files.aedat4_bytes([files.aedat4_packet(ROWS[:1], number=HUGE)[:10]]),
    "aedat4 less than nothing": files.aedat4_bytes([]) + b"\0\0\0\0\xff\xff\xff\xff",
    "aedat4 header": b"#!AER-DAT4.0\r\n\xff\xff\xff\x7f0123456789",
    "h5": b"\x89HDF\r\n\x1a\n" + b"\xff" * 100,
    "raw": b"% evt 3.0\n% geometry 65535x65535\n% end\n0123456789",
    "dat": b"% Version 2\n% Width 65535\n% Height 65535\n\x0c\x08" + b"\xff" * 10,
    "es": b"Event Stream\x02\x00\x00\x00" + b"\x00\xff\xff\xff\x7f" + b"0123456789",
}


def bomb(name: str, path: Path) -> Path:
    """A damaged file, or one that claims or would unpack to far more than it holds."""
    if name != "npz":
        return files.put(path, f"{name.replace(' ', '-')}.{name.split()[0]}", BOMBS[name])
    with zipfile.ZipFile(path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for column in "txyp":
            archive.writestr(f"{column}.npy", saved(np.save, np.zeros(60_000_000, np.uint8)))
    return path / "bomb.npz"


CAPPED = """
import json, resource, sys
from anystep.data.readers import evt3, read_events  # numba is large
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 200 * 2**20,) * 2)
said = {}
for path in sys.argv[1:]:
    try:
        events = read_events(path, format=path.rpartition(".")[2], sensor=(128, 128))
        said[path] = f"{len(events)} events"
    except ValueError as error:
        said[path] = "refused" if str(error).startswith(path) else str(error)
    except MemoryError:
        said[path] = "out of memory"
print(json.dumps(said))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is capped as on Linux")
def test_a_file_that_claims_far_more_than_it_holds_is_refused_in_200_mb(tmp_path):
    assert {name.split()[0] for name in BOMBS} == set(READERS)
    names = [name for name in BOMBS if name.split()[0] in {kind.split()[0] for kind in ALL}]
    paths = [str(bomb(name, tmp_path)) for name in names]
    good = str(files.put(tmp_path, "good.bin", WHOLE["bin"]))
    code = [sys.executable, "-c", CAPPED, *paths, good]
    done = subprocess.run(code, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = {**dict.fromkeys(paths, "refused"), good: f"{len(ROWS)} events"}
    assert json.loads(done.stdout) == said
