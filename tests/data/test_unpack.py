"""Archives: unpacked whole or not at all, inside of the folder, and within a limit."""

from __future__ import annotations

import io
import os
import resource
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from anystep.data.fetch.unpack import unfinished, unpack

TREE = {"set/one/a.bin": b"first", "set/b.bin": b"", "set/c.bin": os.urandom(200_000)}
TREE |= {"README": b"words"}
every_form = pytest.mark.parametrize("form", ["set.zip", "set.tar", "set.tar.gz", "set.tgz"])


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
            entry.size, entry.mode = len(content), 0o6777
            bundle.addfile(entry, io.BytesIO(content))
    return path


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def refused(archive: Path, out: Path, match: str, error=ValueError, **options) -> None:
    """An error that names the archive, and nothing left: neither in the folder nor around it."""
    around = sorted(os.listdir(out.parent))
    with pytest.raises(error, match=match) as caught:
        unpack(archive, out, **options)
    assert str(archive) in str(caught.value)
    assert (os.listdir(out), sorted(os.listdir(out.parent))) == ([], around)


@every_form
def test_an_archive_is_unpacked_as_it_was_packed_without_what_a_mac_adds(tmp_path, out, form):
    junk = {"__MACOSX/set/._a.bin": b"2", "set/._a.bin": b"3", "set/.DS_Store": b"4"}
    assert unpack(make(tmp_path / form, TREE | junk), out, holds=["set"]) == ["README", "set"]
    assert tree(out) == TREE
    assert stat.S_IMODE((out / "README").stat().st_mode) & 0o7022 == 0


def test_nothing_is_written_outside_of_the_folder(tmp_path, out):
    """A tar is refused; of a zip the name is cut to what lies inside, as zipfile does."""
    for name in ("../evil", "set/../../evil"):
        refused(make(tmp_path / "a.tar", {name: b"x"}), out, "cannot be unpacked: .*outside")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
        link = tarfile.TarInfo("link")
        link.type, link.linkname = kind, "../../evil"
        with tarfile.open(tmp_path / "a.tar", "w") as bundle:
            bundle.addfile(link)
        refused(tmp_path / "a.tar", out, "cannot be unpacked")
    unpack(make(tmp_path / "a.zip", {"../evil": b"x", "set/../../evil": b"x"}), out)
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "a.zip", "out"]


def test_a_bomb_ends_at_the_limit(tmp_path, out):
    for form, members in (("a.zip", 1), ("b.zip", 80), ("a.tgz", 1), ("b.tgz", 80)):
        zeros = {f"{number}": bytes((8 << 20) // members) for number in range(members)}
        refused(make(tmp_path / form, zeros), out, r"unpacks to [\d,]* bytes or more, allowed are")


@every_form
def test_a_broken_archive_or_another_one_or_a_full_disk_leaves_nothing(tmp_path, out, form):
    """The limit of a file's size stands for the disk: the same call fails."""
    archive = make(tmp_path / form, TREE)
    refused(archive, out, "must hold other, it has README, set", holds=["set", "other"])
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
    try:
        refused(archive, out, "could not unpack", OSError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    archive.write_bytes(archive.read_bytes()[:100_000])
    refused(archive, out, "cannot be unpacked")


def test_nothing_that_is_there_is_replaced(tmp_path, out):
    """What must come out may not be there; what else lies at the top stays as it was."""
    (out / "README").write_bytes(b"of the first")
    archive = make(tmp_path / "a.zip", TREE)
    assert unpack(archive, out, holds=["set"]) == ["set"]
    assert (out / "README").read_bytes() == b"of the first"
    with pytest.raises(ValueError, match="set is there already"):
        unpack(archive, out, holds=["set"])


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
