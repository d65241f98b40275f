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

from anystep.data.datasets import DATASETS, load_dataset
from anystep.data.fetch.download import parse_checksum
from anystep.data.fetch.get import get_dataset
from anystep.data.fetch.releases import RELEASES, Archive, Release
from anystep.data.fetch.unpack import is_archive
from anystep.data.frames import Direct, EqualCount

EVENT_SETS = ("nmnist", "ncaltech101", "cifar10-dvs", "dvs-gesture")
IMAGE_SETS = ("cub-200-2011", "stanford-dogs", "stanford-cars")
TREES = {name: event_trees.TREES[name]["released"] for name in EVENT_SETS}
TREES |= {name: image_trees.TREES[name] for name in IMAGE_SETS}
TREES |= {"cifar10": image_trees.cifar10_binary, "cifar100": image_trees.cifar100_binary}


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


def stated(name: str, content: bytes, url: str | None, *holds: str) -> Archive:
    """The row of a file that has this content."""
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return Archive(name, holds, checksum, len(content), url)


@pytest.fixture
def released(monkeypatch, tmp_path):
    """released(name, folder): a small release of `name` in the table, packed into `folder`."""

    def release(name: str, folder: Path, url: str | None = None) -> list[Archive]:
        TREES[name](tmp_path / "source")
        files = []
        for file in RELEASES[name].files:
            content = packed(file, tmp_path / "source", tmp_path)
            (folder / file.name).write_bytes(content)
            files.append(stated(file.name, content, url, *file.holds))
        row = Release(page="http://page", files=tuple(files), by_hand="ask somebody")
        monkeypatch.setitem(RELEASES, name, row)
        return files

    for each in ("source", "there"):
        (tmp_path / each).mkdir()
    return release


@pytest.fixture
def server():
    with flaky_server() as flaky:
        yield flaky


@pytest.fixture
def get(server, tmp_path, released):
    """get(**options): a tiny CIFAR-10 from our server into the folder c; `get.file` is its row."""
    (file,) = released("cifar10", tmp_path / "there", f"{server.url}/c")
    server.files["/c"] = (tmp_path / "there" / file.name).read_bytes()

    def run(**options):
        return get_dataset("cifar10", tmp_path / "c", timeout=0.2, pause=0.0, **options)

    run.file = file
    return run


def states(done) -> list[str]:
    return [each["state"] for each in done["files"]]


def test_a_release_is_fetched_and_unpacked_once(get, server, tmp_path):
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
    assert len(server.asked) == 1


def test_a_wrong_archive_that_was_put_there_is_refused_and_kept(get, tmp_path):
    (tmp_path / "c").mkdir()
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
    Path(f"{hidden}.ready/README").write_bytes(b"words")
    assert states(get()) == ["found"]
    assert (tmp_path / "c/README").read_bytes() == b"words"
    assert states(get()) == ["already there"]


def test_a_broken_server_ends_with_what_else_can_be_done(get, server):
    server.status = [404]
    with pytest.raises(ConnectionError, match=r"404 .*Or fetch cifar-10.* from http://page"):
        get()


def test_two_at_once_in_one_folder_do_not_mix(get):
    caught = []

    def second(*_):
        if not caught:
            with pytest.raises(OSError, match="another anystep data get is at work") as info:
                get()
            caught.append(info)

    assert states(get(progress=second)) == ["fetched"]
    assert caught


def test_what_only_a_person_can_fetch_says_how_and_is_taken_from_there(released, tmp_path):
    there = tmp_path / "there"
    released("stanford-cars", there)
    table = (there / "cars_test_annos_withlabels.mat").rename(tmp_path / "table.mat")
    with pytest.raises(ValueError, match=r"ask somebody\. Page: http://page\. Put cars_test_annos"):
        get_dataset("stanford-cars", there)
    assert (there / "cars_train").is_dir()
    table.rename(there / "cars_test_annos_withlabels.mat")
    assert states(get_dataset("stanford-cars", there)) == ["already there"] * 3 + ["found"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("imagenet-1k", "by hand from https://image-net"), ("cifar11", "Did you mean 'cifar10'")],
)
def test_what_cannot_be_fetched_says_why(name, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        get_dataset(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_needs_nothing_says_so(tmp_path):
    done = get_dataset("digits-dvs", tmp_path / "new")
    assert (done["files"], done["next"][:10]) == ([], "digits-dvs")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", DATASETS)
def test_every_row_of_the_data_sets_has_a_release_or_a_reason(name):
    release = RELEASES[name]
    assert release.nothing or (
        release.page.startswith("http") and (release.files or release.by_hand)
    )
    for file in release.files:
        assert parse_checksum(file.checksum, file.name)
        assert bool(file.holds) == is_archive(file.name)
        assert re.match(r"https?://", file.url) if file.url else release.by_hand


def test_no_two_files_are_expected_to_be_the_same():
    files = [file for release in RELEASES.values() for file in release.files]
    for column in ([file.checksum for file in files], [file.url for file in files if file.url]):
        assert len(set(column)) == len(column)


@pytest.mark.parametrize("name", TREES)
def test_a_release_lies_where_its_row_looks(released, tmp_path, name):
    """The trees that the tests of the rows are made on, packed as the release is."""
    released(name, tmp_path / "there")
    get_dataset(name, tmp_path / "there")
    binning = EqualCount(1) if name in EVENT_SETS else Direct(1)
    options = {"binning": binning, "cache": tmp_path / "cache"} | event_trees.OPTIONS.get(name, {})
    roots = (tmp_path / "there", tmp_path / "source")
    got, given = (load_dataset(name, root=root, **options) for root in roots)
    assert got.protocol_hash == given.protocol_hash
    assert len(got.test) == len(given.test) > 0
