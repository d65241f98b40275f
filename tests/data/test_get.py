"""`data get` from end to end: a small release on a server of ours, fetched, killed half-way, and
read by the row.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from event_trees import OPTIONS, TREES
from flaky_server import flaky_server

from anystep.data.datasets import DATASETS, load_dataset
from anystep.data.fetch.download import parse_checksum
from anystep.data.fetch.get import get_dataset
from anystep.data.fetch.releases import RELEASES, Archive, Release
from anystep.data.fetch.unpack import is_archive
from anystep.data.frames import Direct, EqualCount
from anystep.data.images.rows import LAYOUTS

QUICK = {"timeout": 0.2, "pause": 0.0}


def cifar_rows(count: int, seed: int) -> bytes:
    """Rows of the binary release: a label and 3,072 pixels."""
    draw = np.random.default_rng(seed)
    rows = draw.integers(0, 256, (count, 3073), dtype=np.uint8)
    rows[:, 0] = np.arange(count) % 10
    return rows.tobytes()


def tar_gz(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as bundle:
        for name, content in files.items():
            head = tarfile.TarInfo(name)
            head.size = len(content)
            bundle.addfile(head, io.BytesIO(content))
    return out.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
    return out.getvalue()


BATCHES = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]
CIFAR = tar_gz(
    {f"cifar-10-batches-bin/{name}": cifar_rows(20, seed) for seed, name in enumerate(BATCHES)}
)


def archive(name: str, content: bytes, url: str | None, *holds: str) -> Archive:
    return Archive(name, holds, f"sha256:{hashlib.sha256(content).hexdigest()}", len(content), url)


@pytest.fixture
def server():
    with flaky_server() as flaky:
        yield flaky


@pytest.fixture
def cifar(server, monkeypatch):
    """A tiny CIFAR-10 in place of the true one, on our server."""
    server.files["/c.tar.gz"] = CIFAR
    file = archive(
        "cifar-10-binary.tar.gz", CIFAR, f"{server.url}/c.tar.gz", "cifar-10-batches-bin"
    )
    monkeypatch.setitem(RELEASES, "cifar10", Release(page="http://page", files=(file,)))
    return file


def test_a_release_is_fetched_unpacked_and_read_by_its_row(cifar, tmp_path):
    said, told = [], []
    done = get_dataset(
        "cifar10",
        tmp_path / "c",
        say=said.append,
        progress=lambda *both: told.append(both),
        **QUICK,
    )
    row = {"name": cifar.name, "bytes": len(CIFAR), "checksum": cifar.checksum, "state": "fetched"}
    assert done["files"] == [row]
    assert done == json.loads(json.dumps(done))
    assert told[-1] == (len(CIFAR), len(CIFAR))
    assert [line.partition(":")[2].split()[0] for line in said] == ["fetching", "unpacking"]
    binning = Direct(1)
    splits = load_dataset("cifar10", binning=binning, cache=tmp_path / "cache", **done["options"])
    assert (len(splits.train) + len(splits.val), len(splits.test)) == (100, 20)


def test_a_second_call_fetches_nothing(cifar, server, tmp_path):
    get_dataset("cifar10", tmp_path, **QUICK)
    asked = len(server.asked)
    (tmp_path / cifar.name).unlink()  # whoever needs the space
    done = get_dataset("cifar10", tmp_path, **QUICK)
    assert len(server.asked) == asked
    assert done["files"][0]["state"] == "already there"
    assert done["files"][0]["bytes"] == len(CIFAR)


def test_an_archive_that_was_put_there_is_checked_and_unpacked(cifar, server, tmp_path):
    (tmp_path / cifar.name).write_bytes(CIFAR)
    assert get_dataset("cifar10", tmp_path, **QUICK)["files"][0]["state"] == "found"
    assert server.asked == []
    assert (tmp_path / "cifar-10-batches-bin/test_batch.bin").is_file()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (CIFAR[:-1], "must have .* it is not whole"),
        (CIFAR[:-1] + b"x", "its sha256 must be .* got"),
    ],
)
def test_a_wrong_archive_that_was_put_there_is_refused_and_kept(
    cifar, server, tmp_path, content, words
):
    (tmp_path / cifar.name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        get_dataset("cifar10", tmp_path, **QUICK)
    assert (tmp_path / cifar.name).read_bytes() == content
    assert not (tmp_path / "cifar-10-batches-bin").exists()


def test_a_process_killed_while_it_fetches_goes_on_where_it_was(cifar, server, tmp_path):
    server.stall = [100_000]
    code = (
        "import sys\nfrom anystep.data.fetch.get import get_dataset\nfrom anystep.data.fetch.releases import *\n"
        "file = Archive('cifar-10-binary.tar.gz', ('cifar-10-batches-bin',), sys.argv[1], None, sys.argv[2])\n"
        "RELEASES['cifar10'] = Release(files=(file,))\n"
        "def die(done, total):\n    if done >= 100_000: import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
        "get_dataset('cifar10', sys.argv[3], progress=die)\n"
    )
    arguments = [sys.executable, "-c", code, str(cifar.checksum), str(cifar.url), str(tmp_path)]
    assert subprocess.run(arguments, timeout=60).returncode == -9
    part = (tmp_path / f"{cifar.name}.part").stat().st_size
    assert part >= 100_000
    get_dataset("cifar10", tmp_path, **QUICK)
    assert server.asked[-1]["Range"] == f"bytes={part}-"
    assert (tmp_path / "cifar-10-batches-bin/test_batch.bin").is_file()


def test_an_unpacking_that_was_killed_is_not_taken_for_a_finished_one(cifar, server, tmp_path):
    get_dataset("cifar10", tmp_path, **QUICK)
    os.rename(tmp_path / "cifar-10-batches-bin", tmp_path / "moved")
    (tmp_path / f".{cifar.name}.unpacking/cifar-10-batches-bin").mkdir(parents=True)
    assert get_dataset("cifar10", tmp_path, **QUICK)["files"][0]["state"] == "found"
    for name in BATCHES:
        assert (tmp_path / "cifar-10-batches-bin" / name).read_bytes() == (
            tmp_path / "moved" / name
        ).read_bytes()


def test_a_move_that_was_killed_is_finished(cifar, server, tmp_path):
    get_dataset("cifar10", tmp_path, **QUICK)
    (tmp_path / f".{cifar.name}.ready").mkdir()
    (tmp_path / f".{cifar.name}.ready/README").write_bytes(b"words")
    assert get_dataset("cifar10", tmp_path, **QUICK)["files"][0]["state"] == "found"
    assert (tmp_path / "README").read_bytes() == b"words"
    assert not (tmp_path / f".{cifar.name}.ready").exists()


def test_a_broken_server_ends_with_what_else_can_be_done(cifar, server, tmp_path):
    server.status = [404]
    with pytest.raises(
        ConnectionError, match=r"404 .*Or fetch cifar-10-binary\.tar\.gz from http://page yourself"
    ):
        get_dataset("cifar10", tmp_path, **QUICK)


def test_a_file_without_a_known_checksum_is_refused_before_anything_is_fetched(
    cifar, server, tmp_path, monkeypatch
):
    unknown = Archive("b.zip", ("b",), None, None, f"{server.url}/b.zip")
    monkeypatch.setitem(RELEASES, "cifar10", Release(page="p", files=(cifar, unknown)))
    with pytest.raises(
        ValueError,
        match=r"no checksum of b\.zip is known, so it is not fetched. Fetch it from http",
    ):
        get_dataset("cifar10", tmp_path / "new", **QUICK)
    assert server.asked == []
    assert not (tmp_path / "new").exists()


def test_what_only_a_person_can_fetch_says_how_and_is_taken_from_there(monkeypatch, tmp_path):
    csv = b"class,startTime_usec,endTime_usec\n"
    content = tar_gz({"DvsGesture/user01_led_labels.csv": csv})
    release = RELEASES["dvs-gesture"]
    file = archive("DvsGesture.tar.gz", content, None, "DvsGesture")
    monkeypatch.setitem(
        RELEASES, "dvs-gesture", Release(page=release.page, files=(file,), by_hand=release.by_hand)
    )
    with pytest.raises(
        ValueError, match=r"only a browser opens.*ibm.*Put DvsGesture\.tar\.gz into"
    ) as caught:
        get_dataset("dvs-gesture", tmp_path)
    assert f"then run anystep data get dvs-gesture {tmp_path}" in str(caught.value)
    (tmp_path / "DvsGesture.tar.gz").write_bytes(content)
    assert get_dataset("dvs-gesture", tmp_path)["files"][0]["state"] == "found"
    assert (tmp_path / "DvsGesture/user01_led_labels.csv").read_bytes() == csv


def test_of_several_files_those_that_are_there_are_unpacked_and_the_others_named(
    monkeypatch, tmp_path
):
    one, two = tar_gz({"one/a": b"1"}), b"a table"
    files = (archive("one.tgz", one, None, "one"), archive("two.mat", two, None))
    monkeypatch.setitem(
        RELEASES, "stanford-cars", Release(page="p", files=files, by_hand="ask somebody")
    )
    (tmp_path / "one.tgz").write_bytes(one)
    with pytest.raises(ValueError, match=r"ask somebody\. Page: p\. Put two\.mat into"):
        get_dataset("stanford-cars", tmp_path)
    assert (tmp_path / "one/a").read_bytes() == b"1"
    (tmp_path / "two.mat").write_bytes(two)
    assert [each["state"] for each in get_dataset("stanford-cars", tmp_path)["files"]] == [
        "already there",
        "found",
    ]


def test_what_needs_an_account_says_what_to_fetch(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"imagenet-1k must be fetched by hand from https://image-net\.org.*train/<wnid>",
    ):
        get_dataset("imagenet-1k", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "name", ["digits-dvs", "digits", "events-folder", "image-folder", "cifar10-sim"]
)
def test_what_needs_nothing_says_so(name, tmp_path):
    done = get_dataset(name, tmp_path / "new")
    assert done["files"] == []
    assert done["next"].startswith(name)
    assert not (tmp_path / "new").exists()


def test_an_unknown_name_gets_the_nearest(tmp_path):
    with pytest.raises(
        ValueError, match=r"unknown dataset to get .cifar11.\. Did you mean 'cifar10'"
    ):
        get_dataset("cifar11", tmp_path)


def test_a_file_in_the_place_of_the_folder_is_named(cifar, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="which is a file"):
        get_dataset("cifar10", tmp_path / "file")


def test_two_at_once_in_one_folder_do_not_mix(cifar, server, tmp_path):
    caught = []

    def second(*_):
        if not caught:
            with pytest.raises(OSError, match="another anystep data get is at work") as info:
                get_dataset("cifar10", tmp_path, **QUICK)
            caught.append(info.value.errno)

    get_dataset("cifar10", tmp_path, progress=second, **QUICK)
    assert caught[0] in (errno.EAGAIN, errno.EACCES)


# ---- the table


@pytest.mark.parametrize("name", DATASETS)
def test_every_row_of_the_data_sets_has_a_release_or_a_reason(name):
    release = RELEASES[name]
    assert release.nothing or release.page.startswith("http")
    assert release.nothing or release.files or release.by_hand


FILES = [(name, file) for name, release in RELEASES.items() for file in release.files]


@pytest.mark.parametrize(
    ("name", "file"), FILES, ids=lambda value: value if isinstance(value, str) else value.name
)
def test_every_file_of_a_release_is_whole_in_the_table(name, file):
    assert parse_checksum(file.checksum, file.name)
    assert "/" not in file.name
    assert bool(file.holds) == is_archive(file.name)
    assert file.size is None or file.size > 0
    assert re.match(r"https?://", file.url) if file.url else RELEASES[name].by_hand


def test_no_two_files_are_expected_to_be_the_same():
    checksums = [file.checksum for _, file in FILES]
    assert len(set(checksums)) == len(checksums)
    urls = [file.url for _, file in FILES if file.url]
    assert len(set(urls)) == len(urls)


# ---- what is unpacked is where the row looks for it


def put(monkeypatch, tmp_path, name: str, contents: dict[str, dict[str, bytes] | bytes]) -> Path:
    """Release `name` with the table's file names and `holds`, but these contents, put into a folder
    and got from there.
    """
    files = []
    for file in RELEASES[name].files:
        inside = contents[file.name]
        packed = (
            inside
            if isinstance(inside, bytes)
            else zipped(inside)
            if file.name.endswith(".zip")
            else tar_gz(inside)
        )
        if file.name.endswith(".tar"):
            packed = tar_of(inside)
        (tmp_path / file.name).write_bytes(packed)
        files.append(archive(file.name, packed, None, *file.holds))
    monkeypatch.setitem(RELEASES, name, Release(files=tuple(files)))
    get_dataset(name, tmp_path)
    return tmp_path


def tar_of(files: dict[str, bytes]) -> bytes:
    return gzip.decompress(tar_gz(files))


@pytest.mark.parametrize("name", ["nmnist", "ncaltech101", "cifar10-dvs", "dvs-gesture"])
def test_an_event_set_lies_where_its_row_looks(monkeypatch, tmp_path, name):
    """The trees that the tests of the rows are made on, packed as the release is."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    TREES[name]["released"](source)
    contents: dict[str, dict[str, bytes] | bytes] = {}
    for file in RELEASES[name].files:
        (top,) = file.holds
        base = source / top if (source / top).is_dir() else source
        paths = [path for path in base.rglob("*") if path.is_file()]
        contents[file.name] = {
            f"{top}/{path.relative_to(base).as_posix()}": path.read_bytes() for path in paths
        }
    options = {"binning": EqualCount(1), "cache": tmp_path / "cache", **OPTIONS.get(name, {})}
    got = load_dataset(name, root=put(monkeypatch, target, name, contents), **options)
    given = load_dataset(name, root=source, **options)
    assert got.protocol_hash == given.protocol_hash
    assert [len(part) for part in (got.train, got.val, got.test)] == [
        len(p) for p in (given.train, given.val, given.test)
    ]


def test_cifar100_lies_where_its_row_looks(monkeypatch, tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (1000, 3074), dtype=np.uint8)
    rows[:, 1] = rows[:, -2] = np.arange(1000) % 100
    files = {
        "cifar-100-binary/train.bin": rows.tobytes(),
        "cifar-100-binary/test.bin": rows[:100, ::-1].tobytes(),
    }
    root = put(monkeypatch, tmp_path, "cifar100", {"cifar-100-binary.tar.gz": files})
    splits = load_dataset("cifar100", binning=Direct(1), cache=tmp_path / "cache", root=root)
    assert len(splits.test) == 100


def test_cub_lies_where_its_row_looks(monkeypatch, tmp_path):
    files = {
        "CUB_200_2011/images.txt": b"1 001.A/a.jpg\n2 002.B/b.jpg\n",
        "CUB_200_2011/image_class_labels.txt": b"1 1\n2 2\n",
        "CUB_200_2011/train_test_split.txt": b"1 1\n2 0\n",
        "CUB_200_2011/classes.txt": b"1 001.A\n2 002.B\n",
        "attributes.txt": b"",
    }
    root = put(monkeypatch, tmp_path, "cub-200-2011", {"CUB_200_2011.tgz": files})
    assert LAYOUTS["cub-200-2011"]("cub-200-2011", root).classes == ("001.A", "002.B")


def test_dogs_lie_where_their_row_looks(monkeypatch, tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat

    def table(*paths):
        out = io.BytesIO()
        savemat(
            out,
            {
                "file_list": np.array(paths, dtype=object)[:, None],
                "labels": np.arange(1, len(paths) + 1)[:, None],
            },
        )
        return out.getvalue()

    lists = {f"{part}_list.mat": table("n01-A/1.jpg", "n02-B/2.jpg") for part in ("train", "test")}
    root = put(
        monkeypatch,
        tmp_path,
        "stanford-dogs",
        {"images.tar": {"Images/n01-A/1.jpg": b"x"}, "lists.tar": lists},
    )
    found = LAYOUTS["stanford-dogs"]("stanford-dogs", root)
    assert found.classes == ("n01-A", "n02-B")
    assert found.files[0].is_file()
