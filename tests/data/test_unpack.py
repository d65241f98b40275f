"""Archives from strangers: what leads out, links, bombs and broken ones are refused by name and
leave nothing behind.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anystep.data.fetch import unpack as module
from anystep.data.fetch.unpack import is_archive, unfinished, unpack

TREE = {
    "set/one/a.bin": b"first",
    "set/one/b.bin": b"",
    "set/two/c.bin": os.urandom(200_000),
    "README": b"words",
}
FORMS = ("set.zip", "set.tar", "set.tar.gz", "set.tgz")


def make(path: Path, members: dict[str, bytes]) -> Path:
    """An archive of these files, by its suffix."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
            for name, content in members.items():
                bundle.writestr(name, content)
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as bundle:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            bundle.addfile(entry, io.BytesIO(content))
    return path


def make_tar(path: Path, *entries: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as bundle:
        for entry in entries:
            bundle.addfile(entry, io.BytesIO(bytes(entry.size)))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type = kind
    for key, value in fields.items():
        setattr(found, key, value)
    return found


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def refused(archive: Path, out: Path, match: str, **options) -> None:
    """A ValueError that names the archive, and nothing left: neither in the folder nor around it."""
    around = sorted(os.listdir(out.parent))
    with pytest.raises(ValueError, match=match) as caught:
        unpack(archive, out, **options)
    assert str(archive) in str(caught.value)
    assert os.listdir(out) == []
    assert sorted(os.listdir(out.parent)) == around


@pytest.mark.parametrize("form", FORMS)
def test_an_archive_is_unpacked_as_it_was_packed(tmp_path, out, form):
    assert unpack(make(tmp_path / form, TREE), out, holds=["set"]) == ["README", "set"]
    assert tree(out) == TREE
    assert sorted(os.listdir(out)) == ["README", "set"]


@pytest.mark.parametrize("form", FORMS)
def test_the_library_tools_of_the_system_agree(tmp_path, out, form):
    """The oracle is Python's own unpacking of the same trusted archive."""
    archive = make(tmp_path / form, TREE)
    shutil.unpack_archive(
        archive, tmp_path / "oracle", **({} if form.endswith("zip") else {"filter": "data"})
    )
    unpack(archive, out)
    assert tree(out) == tree(tmp_path / "oracle")


def test_empty_folders_come_along(tmp_path, out):
    archive = make_tar(
        tmp_path / "a.tar",
        entry("set/empty", tarfile.DIRTYPE),
        entry("set/./deep//er", tarfile.DIRTYPE),
    )
    unpack(archive, out)
    assert (out / "set/empty").is_dir()
    assert (out / "set/deep/er").is_dir()


def test_files_do_not_take_over_permissions(tmp_path, out):
    unpack(make_tar(tmp_path / "a.tar", entry("tool", mode=0o6777), entry("shut", mode=0)), out)
    assert stat.S_IMODE((out / "tool").stat().st_mode) & 0o7111 == 0
    assert os.access(out / "shut", os.R_OK | os.W_OK)


def test_what_a_mac_adds_is_left_out(tmp_path, out):
    members = {
        "set/a.bin": b"1",
        "__MACOSX/set/._a.bin": b"2",
        "set/._a.bin": b"3",
        "set/.DS_Store": b"4",
    }
    assert unpack(make(tmp_path / "a.zip", members), out) == ["set"]
    assert tree(out) == {"set/a.bin": b"1"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "set/../../evil",
        "/tmp/evil",
        "C:evil",
        "C:/evil",
        "set\\..\\..\\evil",
        "\\\\host\\evil",
        "set/..",
    ],
)
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, out, form, name):
    refused(
        make(tmp_path / form, {"set/good": b"", name: b"x"}),
        out,
        "leads out of the folder; nothing was unpacked",
    )


@pytest.mark.parametrize("name", ["set/a\nb", "set/a\x7fb", "/".join("a" * 40)])
def test_names_that_nobody_gives_are_refused(tmp_path, out, name):
    refused(
        make(tmp_path / "a.tar", {name: b"x"}),
        out,
        "control character in its name or lies too deep",
    )


@pytest.mark.parametrize("target", ["/etc/passwd", "../../evil", "good"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_a_tar_are_refused_wherever_they_lead(tmp_path, out, kind, target):
    archive = make_tar(
        tmp_path / "a.tar", entry("good"), entry("link", kind, linkname=target), entry("link/evil")
    )
    refused(archive, out, "member 'link' is a link")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"])
def test_devices_and_unknown_kinds_in_a_tar_are_refused(tmp_path, out, kind):
    refused(make_tar(tmp_path / "a.tar", entry("thing", kind)), out, "is a link, a device")


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o600, stat.S_IFIFO | 0o600])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, out, mode):
    info = zipfile.ZipInfo("link")
    info.create_system, info.external_attr = 3, mode << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as bundle:
        bundle.writestr(info, "/etc/passwd")
    refused(tmp_path / "a.zip", out, "member 'link' is a link or a device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("form", FORMS)
def test_a_name_that_comes_twice_is_refused(tmp_path, out, form):
    path = tmp_path / form
    if form == "set.zip":
        with zipfile.ZipFile(path, "w") as bundle:
            bundle.writestr("a", "1")
            bundle.writestr("./a", "2")
    else:
        with tarfile.open(path, "w" if form == "set.tar" else "w:gz") as bundle:
            bundle.addfile(entry("a"))
            bundle.addfile(entry("./a"))
    refused(path, out, "comes twice")


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
def test_a_name_that_is_a_file_and_a_folder_is_refused(tmp_path, out, names):
    refused(
        make(tmp_path / "a.tar", dict.fromkeys(names, b"x")),
        out,
        r"is a file and a folder|comes twice",
    )


def test_an_encrypted_zip_is_refused(tmp_path, out):
    archive = make(tmp_path / "a.zip", {"secret": b"x" * 50})
    content = bytearray(archive.read_bytes())
    for mark, offset in (
        (b"PK\x03\x04", 6),
        (b"PK\x01\x02", 8),
    ):  # the flags of the member and of the table
        content[content.index(mark) + offset] |= 1
    archive.write_bytes(content)
    refused(archive, out, "member 'secret' is encrypted")


def test_a_zip_in_a_way_of_packing_that_is_unknown_is_refused(tmp_path, out):
    archive = make(tmp_path / "a.zip", {"odd": b"x" * 50})
    content = bytearray(archive.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(mark) + offset] = 97
    archive.write_bytes(content)
    refused(archive, out, "compression method")


@pytest.mark.parametrize("packed", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_zip_in_a_way_of_packing_that_no_release_uses_is_refused_before_it_is_read(
    tmp_path, out, packed
):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", packed) as bundle:
        bundle.writestr("odd", os.urandom(5000))
    refused(
        tmp_path / "a.zip", out, "member 'odd' is packed by another compression method than deflate"
    )


@pytest.mark.parametrize("form", ["bomb.zip", "bomb.tgz"])
def test_a_bomb_is_refused_before_it_goes_off(tmp_path, out, form):
    archive = make(tmp_path / form, {"zeros": bytes(8 << 20)})
    assert archive.stat().st_size < 100_000
    refused(archive, out, r"unpacks to 8,388,608 bytes, allowed are \d")


def test_many_small_members_are_a_bomb_as_well(tmp_path, out):
    refused(
        make(tmp_path / "b.tgz", {f"{k}": bytes(100_000) for k in range(50)}), out, "unpacks to"
    )


def test_a_limit_may_be_given(tmp_path, out):
    archive = make(tmp_path / "a.zip", TREE)
    refused(archive, out, "allowed are 100,000", limit=100_000)
    unpack(archive, out, limit=sum(map(len, TREE.values())))
    assert tree(out) == TREE


def test_too_many_members_are_refused(tmp_path, out, monkeypatch):
    monkeypatch.setattr(module, "MEMBERS", 3)
    for form in FORMS:
        refused(make(tmp_path / form, TREE), out, "more than 3 members")


def test_a_sparse_file_is_refused(tmp_path, out):
    """A gigabyte of holes in a kilobyte."""
    head = tarfile.TarInfo("holes")
    head.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": str(1 << 30),
    }
    body = b"1\n0\n0\n".ljust(512, b"\0")
    head.size = len(body)
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as bundle:
        bundle.addfile(head, io.BytesIO(body))
    refused(tmp_path / "a.tar", out, "sparse")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.97])
def test_an_archive_that_breaks_off_is_refused(tmp_path, out, form, share):
    archive = make(tmp_path / form, TREE)
    content = archive.read_bytes()
    archive.write_bytes(content[: int(share * len(content))])
    refused(archive, out, "is no whole")


def test_a_tar_that_breaks_off_between_two_members_is_refused(tmp_path, out):
    """tarfile takes that for the end."""
    archive = make(tmp_path / "a.tar", {"a": b"x" * 512, "b": b"y" * 512})
    archive.write_bytes(archive.read_bytes()[:1024])
    refused(archive, out, "breaks off before its end mark")


def test_a_tar_with_a_damaged_header_is_refused(tmp_path, out):
    """tarfile takes that for the end as well."""
    archive = make(tmp_path / "a.tar", {"a": b"x" * 512, "b": b"y" * 512})
    content = bytearray(archive.read_bytes())
    content[1024 + 150] ^= 0xFF
    archive.write_bytes(content)
    refused(archive, out, "breaks off before its end mark")


@pytest.mark.parametrize("form", ["set.zip", "set.tgz"])
def test_a_flipped_bit_in_the_content_is_seen(tmp_path, out, form):
    archive = make(tmp_path / form, {"a": os.urandom(5000)})
    content = bytearray(archive.read_bytes())
    content[2500] ^= 1
    archive.write_bytes(content)
    refused(archive, out, "is no whole")


SMALL = {"set/one/a.bin": b"first" * 40, "set/" + "n" * 120: b"", "README": bytes(range(256))}


@given(
    form=st.sampled_from(FORMS),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 40), st.binary(max_size=8)),
        min_size=1,
        max_size=6,
    ),
)
def test_a_damaged_archive_is_refused_by_name_or_read_and_never_half(
    tmp_path_factory, form, changes
):
    """Bytes at any place replaced by others, more or fewer."""
    folder = tmp_path_factory.mktemp("fuzz")
    content = bytearray(make(folder / form, SMALL).read_bytes())
    for place, gone, new in changes:
        at = int(place * len(content))
        content[at : at + gone] = new
    (folder / form).write_bytes(content)
    (folder / "out").mkdir()
    trouble = ""
    try:
        unpack(folder / form, folder / "out", holds=["set"])
    except ValueError as error:
        trouble = str(error)
    assert not trouble or (str(folder / form) in trouble and os.listdir(folder / "out") == [])
    assert sorted(os.listdir(folder)) == sorted([form, "out"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"PK\x05\x06", b"PK\x05\x06" + bytes(18), os.urandom(3000), bytes(600)],
)
def test_a_file_that_is_no_archive_is_refused_or_empty(tmp_path, out, form, content):
    (tmp_path / form).write_bytes(content)
    refused(tmp_path / form, out, r"is no whole|must hold", holds=["set"])


def test_a_name_that_is_no_archives_is_refused(tmp_path, out):
    (tmp_path / "a.rar").write_bytes(b"")
    refused(tmp_path / "a.rar", out, r"must end in one of \.zip")
    assert not is_archive("a.rar")


def test_a_header_that_claims_gigabytes_costs_no_memory(tmp_path, out):
    """pax and long names are read whole by tarfile, and a zip's table by zipfile: in a process of
    400 MB.
    """
    head = entry("././@LongLink", tarfile.GNUTYPE_LONGNAME, size=3 << 30).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a.tar").write_bytes(head + bytes(4096))
    (tmp_path / "p.tar").write_bytes(
        entry("x", tarfile.XHDTYPE, size=3 << 30).tobuf(tarfile.USTAR_FORMAT) + bytes(4096)
    )
    record = b"PK\x05\x06" + bytes(6) + b"\x01\x00" + (0xFFFFFFF0).to_bytes(4, "little") + bytes(6)
    (tmp_path / "a.zip").write_bytes(bytes(100) + record)
    code = (
        "import resource, sys\n"
        "from anystep.data.fetch.unpack import unpack\n"
        "resource.setrlimit(resource.RLIMIT_AS, (400 << 20,) * 2)\n"
        "for name in sys.argv[2:]:\n"
        "    try:\n        unpack(name, sys.argv[1])\n        print('unpacked', name)\n"
        "    except ValueError as error:\n        print('refused')\n"
    )
    archives = [str(tmp_path / name) for name in ("a.tar", "p.tar", "a.zip")]
    done = subprocess.run(
        [sys.executable, "-c", code, str(out), *archives],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["refused"] * 3, done.stderr
    assert os.listdir(out) == []


def test_headers_nested_without_end_are_refused(tmp_path, out):
    one = entry("x", tarfile.XHDTYPE, size=0).tobuf(tarfile.USTAR_FORMAT)
    (tmp_path / "a.tar").write_bytes(one * 5000 + bytes(1024))
    refused(tmp_path / "a.tar", out, "is no whole")


def test_what_must_come_out_is_asked_for_by_name(tmp_path, out):
    refused(
        make(tmp_path / "a.zip", TREE),
        out,
        "must hold other, it has README, set",
        holds=["set", "other"],
    )


def test_nothing_that_is_there_is_replaced(tmp_path, out):
    archive = make(tmp_path / "a.zip", TREE)
    (out / "set").mkdir()
    (out / "set/mine").write_bytes(b"mine")
    with pytest.raises(ValueError, match="set is there already and is not replaced"):
        unpack(archive, out, holds=["set"])
    assert tree(out) == {"set/mine": b"mine"}


def test_what_else_lies_at_the_top_is_left_out_if_it_is_there(tmp_path, out):
    """Two archives of one release both bring a README."""
    (out / "README").write_bytes(b"of the first")
    assert unpack(make(tmp_path / "a.zip", TREE), out, holds=["set"]) == ["set"]
    assert (out / "README").read_bytes() == b"of the first"
    assert sorted(os.listdir(out)) == ["README", "set"]


def test_a_link_in_the_place_of_the_folder_is_not_followed(tmp_path, out):
    (tmp_path / "elsewhere").mkdir()
    (out / "set").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is there already"):
        unpack(make(tmp_path / "a.zip", TREE), out, holds=["set"])
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, out, form, monkeypatch):
    copy = module._Extraction.copy

    def full(self, source, path, name, size):
        if name.endswith("c.bin"):
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(self, source, path, name, size)

    monkeypatch.setattr(module._Extraction, "copy", full)
    with pytest.raises(OSError, match=r"could not unpack .*: No space left on device") as caught:
        unpack(make(tmp_path / form, TREE), out)
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(out) == []


def test_a_disk_that_is_too_small_is_named_before_the_first_byte(tmp_path, out, monkeypatch):
    archive = make(tmp_path / "a.zip", TREE)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 5, 5)
    )
    with pytest.raises(OSError, match=r"needs 200,010 bytes and the disk of .* has 5 left"):
        unpack(archive, out)
    assert os.listdir(out) == []


def test_ctrl_c_leaves_nothing(tmp_path, out, monkeypatch):
    monkeypatch.setattr(
        module._Extraction, "copy", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        unpack(make(tmp_path / "a.zip", TREE), out)
    assert os.listdir(out) == []


SLOW = """
import sys, time
from anystep.data.fetch import unpack
copy = unpack._Extraction.copy
def slow(self, source, path, name, size):
    copy(self, source, path, name, size)
    if name.endswith("b.bin"):
        time.sleep(60)
unpack._Extraction.copy = slow
unpack.unpack(sys.argv[1], sys.argv[2], holds=["set"])
"""


def test_a_killed_process_leaves_nothing_that_looks_finished_and_the_next_one_starts_over(
    tmp_path, out
):
    archive = make(tmp_path / "a.zip", TREE)
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(archive), str(out)])
    end = time.monotonic() + 30
    while not (out / ".a.zip.unpacking/set/one/b.bin").exists() and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert os.listdir(out) == [".a.zip.unpacking"]
    (out / ".a.zip.unpacking/set/one/half").write_bytes(b"rubbish")
    unpack(archive, out, holds=["set"])
    assert tree(out) == TREE


def test_a_process_killed_while_it_moves_is_finished_by_the_next_one(tmp_path, out, monkeypatch):
    archive = make(tmp_path / "a.zip", TREE)
    rename, moved = os.rename, []

    def dies(source, target):
        if moved:
            raise KeyboardInterrupt
        moved.append(target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", dies)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, out, holds=["set"])
    monkeypatch.undo()
    assert unfinished(archive, out)
    assert unpack(archive, out, holds=["set"]) == ["set"]
    assert tree(out) == TREE
    assert not unfinished(archive, out)


@pytest.mark.parametrize("form", ["set.zip", "set.tar.gz"])
def test_the_memory_for_a_large_member_is_bounded(tmp_path, out, form):
    archive = make(tmp_path / form, {"big": os.urandom(1 << 20) * 6})
    tracemalloc.start()
    unpack(archive, out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (out / "big").stat().st_size == 6 << 20
    assert peak < 2 << 20


def test_the_memory_for_many_members_is_bounded(tmp_path, out):
    """tarfile would keep them all: here 5,000, each with a kilobyte of names."""
    name = "/".join("n" * 50 for _ in range(19))
    archive = make_tar(tmp_path / "a.tar", *(entry(name, tarfile.DIRTYPE) for _ in range(5000)))
    tracemalloc.start()
    unpack(archive, out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20


def test_the_memory_for_headers_that_hold_for_all_is_bounded(tmp_path, out):
    """tarfile would keep them all: here 100 of 100 kB."""
    parts = []
    for number in range(100):
        line = f"key{number:03}={'x' * 100_000}\n"
        body = f"{len(line) + 7} {line}".encode()
        head = entry("g", tarfile.XGLTYPE, size=len(body)).tobuf(tarfile.USTAR_FORMAT)
        parts += [
            head,
            body.ljust(-(-len(body) // 512) * 512, b"\0"),
            entry("d", tarfile.DIRTYPE).tobuf(),
        ]
    (tmp_path / "a.tar").write_bytes(b"".join(parts) + bytes(1024))
    tracemalloc.start()
    unpack(tmp_path / "a.tar", out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 << 20


def test_the_checksum_at_the_end_of_a_gzip_is_compared(tmp_path, out):
    archive = make(tmp_path / "a.tgz", TREE)
    content = bytearray(archive.read_bytes())
    content[-6] ^= 1
    archive.write_bytes(content)
    refused(archive, out, "CRC check failed")
