"""`data get` from end to end: small releases, fetched or found, unpacked and read by their rows."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import event_trees
import image_trees
import pytest
from flaky_server import flaky_server

from anystep._errors import RunError
from anystep.data.datasets import DATASETS, load_dataset
from anystep.data.fetch import download
from anystep.data.fetch.get import get_dataset
from anystep.data.fetch.releases import RELEASES, Archive, Release
from anystep.data.fetch.unpack import is_archive
from anystep.data.frames import Direct, EqualCount

EVENT_SETS = ("nmnist", "ncaltech101", "cifar10-dvs", "dvs-gesture")
TREES = {
    **{name: event_trees.TREES[name]["released"] for name in EVENT_SETS},
    **{
        name: image_trees.TREES[name] for name in ("cub-200-2011", "stanford-dogs", "stanford-cars")
    },
    "cifar10": image_trees.cifar10_binary,
    "cifar100": image_trees.cifar100_binary,
}


def states(done) -> list[str]:
    return [each["state"] for each in done["files"]]


def packed(file: Archive, source: Path, folder: Path) -> bytes:
    """What `file` of a release holds, from the unpacked release in `source`."""
    if not file.holds:
        return (source / file.name).read_bytes()
    inside = folder / f"{file.name}-inside"
    for top in file.holds:
        place = next(source.rglob(top), source)
        inside.mkdir(exist_ok=True)
        (shutil.copytree if place.is_dir() else shutil.copy)(place, inside / top)
    kind = {".zip": "zip", ".tar": "tar"}.get(Path(file.name).suffix, "gztar")
    return Path(shutil.make_archive(str(inside), kind, inside)).read_bytes()


@pytest.fixture
def released(monkeypatch, tmp_path):
    """released(name): a small release of `name` in the table, packed into the folder `there`."""
    for each in ("source", "there"):
        (tmp_path / each).mkdir()

    def release(name: str, url: str | None = None) -> list[Archive]:
        TREES[name](tmp_path / "source")
        files = []
        for file in RELEASES[name].files:
            content = packed(file, tmp_path / "source", tmp_path)
            (tmp_path / "there" / file.name).write_bytes(content)
            checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
            files.append(Archive(file.name, file.holds, checksum, len(content), url))
        row = Release(page="http://page", files=tuple(files), by_hand="ask somebody")
        monkeypatch.setitem(RELEASES, name, row)
        return files

    return release


@pytest.fixture
def get(monkeypatch, tmp_path, released):
    """get(**options): a tiny CIFAR-10 from our server into the folder c; `get.file` is its row."""
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with flaky_server() as server:

        def run(**options):
            return get_dataset("cifar10", tmp_path / "c", **options)

        (run.file,) = released("cifar10", f"{server.url}/c")
        server.files["/c"] = (tmp_path / "there" / run.file.name).read_bytes()
        run.server = server
        yield run


def test_a_release_is_fetched_and_unpacked_once(get, tmp_path):
    said, told = [], []
    done = get(say=said.append, progress=lambda *both: told.append(both))
    file = get.file
    row = {"name": file.name, "bytes": file.size, "checksum": file.checksum, "state": "fetched"}
    assert done["files"] == [row]
    assert done == json.loads(json.dumps(done))
    assert told[-1] == (file.size, file.size)
    assert [line.partition(":")[2].split()[0] for line in said] == ["fetching", "unpacking"]
    (tmp_path / "c" / file.name).unlink()  # whoever needs the space
    assert get()["files"] == [{**row, "state": "already there"}]
    assert len(get.server.asked) == 1


def test_a_broken_server_says_what_else_can_be_done_and_a_wrong_archive_is_refused(get, tmp_path):
    get.server.status = [404]
    with pytest.raises(ConnectionError, match=r"404 .*Or fetch cifar-10.* from http://page"):
        get()
    (tmp_path / "c" / get.file.name).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"its sha256 must be .* got"):
        get()
    assert [each.name for each in (tmp_path / "c").glob("c*")] == [get.file.name]


def test_an_unpacking_that_was_killed_is_done_again_or_finished(get, tmp_path):
    hidden = tmp_path / f"c/.{get.file.name}"
    Path(f"{hidden}.unpacking/cifar-10-batches-bin").mkdir(parents=True)
    assert states(get()) == ["fetched"]
    assert len(list((tmp_path / "c/cifar-10-batches-bin").iterdir())) == 6
    Path(f"{hidden}.ready").mkdir()
    assert [states(get()) for _ in range(2)] == [["found"], ["already there"]]


def test_two_at_once_in_one_folder_do_not_mix(get):
    caught = []

    def second(*_):
        if not caught:
            with pytest.raises(
                RunError, match=r"is in use by process \d+ on .+: wait for its end"
            ) as info:
                get()
            caught.append(info)

    assert states(get(progress=second)) == ["fetched"]
    assert caught


def test_what_only_a_person_can_fetch_says_how_and_is_taken_from_there(released, tmp_path):
    there = tmp_path / "there"
    released("stanford-cars")
    table = (there / "cars_test_annos_withlabels.mat").rename(tmp_path / "table.mat")
    with pytest.raises(ValueError, match=r"ask somebody\. Page: http://page\. Put cars_test_annos"):
        get_dataset("stanford-cars", there)
    assert (there / "cars_train").is_dir()
    table.rename(there / "cars_test_annos_withlabels.mat")
    assert states(get_dataset("stanford-cars", there)) == ["already there"] * 3 + ["found"]


def test_what_cannot_be_fetched_says_why_and_makes_no_folder(tmp_path):
    for name, why in (("imagenet-1k", "by hand from https://image-net"), ("cifar11", "'cifar10'")):
        with pytest.raises(ValueError, match=why):
            get_dataset(name, tmp_path / "new")
    done = get_dataset("digits-dvs", tmp_path / "new")
    assert (done["files"], done["next"][:10]) == ([], "digits-dvs")
    assert not (tmp_path / "new").exists()


def test_every_row_of_the_data_sets_has_a_release_or_a_reason():
    files = [file for release in RELEASES.values() for file in release.files]
    for column in ([file.checksum for file in files], [file.url for file in files if file.url]):
        assert len(set(column)) == len(column)
    for name in DATASETS:
        release = RELEASES[name]
        said = release.page.startswith("http") and (release.files or release.by_hand)
        assert release.nothing or said
        for file in release.files:
            assert re.fullmatch("md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", file.checksum)
            assert bool(file.holds) == is_archive(file.name)
            assert re.match(r"https?://", file.url) if file.url else release.by_hand


@pytest.mark.parametrize("name", TREES)
def test_a_release_lies_where_its_row_looks(released, tmp_path, name):
    """The trees that the tests of the rows are made on, packed as the release is."""
    released(name)
    get_dataset(name, tmp_path / "there")
    binning = EqualCount(1) if name in EVENT_SETS else Direct(1)
    options = {"binning": binning, "cache": tmp_path / "cache"} | event_trees.OPTIONS.get(name, {})
    roots = (tmp_path / "there", tmp_path / "source")
    got, given = (load_dataset(name, root=root, **options) for root in roots)
    assert got.protocol_hash == given.protocol_hash
    assert len(got.test) == len(given.test) > 0
