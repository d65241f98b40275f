"""Parquet shards: written as the hub writes them, read where they lie, or refused by name."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from shutil import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_trees import (
    TREES,
    WORDS,
    colour,
    imagenet_rows,
    imagenet_shards,
    picture,
    rows_of,
    write_part,
    write_shard,
)

from anystep import AnystepWarning
from anystep.data.datasets import load_dataset
from anystep.data.frames import Direct
from anystep.data.images import shards as shards_module
from anystep.data.images.pictures import PictureSet
from anystep.data.images.shards import find_shards, read_shards
from anystep.data.loader import epoch_order, load_batches

pyarrow = pytest.importorskip("pyarrow", reason="extra images is not installed")
pytest.importorskip("pyarrow.parquet", reason="extra images is not installed")
PARTS = ("train", "val", "test")
REAL = Path(os.environ.get("ANYSTEP_DATA", "/no/such"), "cifar10", "plain_text")


def loaded(root: Path, name: str = "image-folder", **options):
    return load_dataset(name, binning=Direct(2), root=root, size=14, **options)


def seen(data: PictureSet) -> dict[str, tuple[tuple[int, ...], int]]:
    """Id -> colour and label."""
    return {
        name: (tuple(data.raw(index)[:, 7, 7].tolist()), int(data.labels[index]))
        for index, name in enumerate(data.ids.tolist())
    }


def seen_in(splits) -> dict[str, tuple[tuple[int, ...], int]]:
    """All three parts."""
    return {name: each for part in PARTS for name, each in seen(getattr(splits, part)).items()}


def test_imagenet_in_shards_and_in_folders_is_one_set_with_one_split(tmp_path):
    """The unlabelled test sets are not opened; the parts keep the order of the shards."""
    stored = loaded(imagenet_shards(tmp_path / "hub"), "imagenet-1k")
    files = loaded(TREES["imagenet-1k"](tmp_path / "files"), "imagenet-1k")
    (tmp_path / "kaggle/ILSVRC/Data").mkdir(parents=True)
    (tmp_path / "files").rename(tmp_path / "kaggle/ILSVRC/Data/CLS-LOC")
    (tmp_path / "kaggle/ILSVRC/Data/CLS-LOC/test").mkdir()
    (tmp_path / "hub/data/test-00000-of-00001.parquet").write_bytes(b"nobody has these labels")
    kaggle = loaded(tmp_path / "kaggle", "imagenet-1k")
    again = loaded(tmp_path / "hub", "imagenet-1k")
    assert len({each.protocol_hash for each in (stored, files, kaggle, again)}) == 1
    assert stored.protocol == files.protocol == "imagenet-1k/official"
    assert stored.classes == WORDS
    assert [seen(getattr(stored, part)) for part in PARTS] == [
        seen(getattr(kaggle, part)) for part in PARTS
    ]
    paths = [path.rpartition("_")[0] for _, path, _ in imagenet_rows("validation")]
    assert [Path(each).stem for each in stored.test.ids] == paths
    same = kaggle.test.ids.tolist().index(stored.test.ids[2])
    assert np.array_equal(stored.test[2][0], kaggle.test[same][0])


def test_what_the_hubs_own_library_writes_is_read_with_its_class_names(tmp_path):
    datasets = pytest.importorskip("datasets", reason="extra images is not installed")
    features = datasets.Features(
        {"label": datasets.ClassLabel(names=["circle", "square"]), "image": datasets.Image()}
    )
    for test, part in enumerate(("train", "test")):
        pictures = [
            {"bytes": picture(colour(k % 2, k // 2, bool(test))), "path": f"{k}.png"}
            for k in range(20)
        ]
        columns = {"label": [k % 2 for k in range(20)], "image": pictures}
        table = datasets.Dataset.from_dict(columns, features=features)
        table.to_parquet(tmp_path / f"{part}-00000-of-00001.parquet", batch_size=6)
    splits = loaded(tmp_path)
    assert splits.classes == ("circle", "square")
    for name, (rgb, label) in seen_in(splits).items():
        number = int(Path(name).stem)
        assert (rgb, label) == (colour(number % 2, number // 2, name[:4] == "test"), number % 2)


@pytest.mark.parametrize(
    ("parts", "protocol", "sizes"),
    [
        (("train", "test"), "image-folder/official", [36, 4, 40]),
        (("train", "validation"), "image-folder/official", [36, 4, 40]),
        (("train", "valid", "test"), "image-folder/given", [40, 40, 40]),
        (("train",), "image-folder/stratified-70-10-20", [28, 4, 8]),
        (("some",), "image-folder/stratified-70-10-20", [28, 4, 8]),
        (("train", "test", "contrast"), "image-folder/official", [36, 4, 40]),
    ],
)
def test_the_names_of_the_shards_say_what_tests_and_what_chooses(parts, protocol, sizes, tmp_path):
    for part in parts:
        write_part(tmp_path, part, rows_of(40))
    splits = loaded(tmp_path)
    assert (splits.protocol, [len(getattr(splits, part)) for part in PARTS]) == (protocol, sizes)


def test_another_test_part_without_labels_is_left_out_and_said(tmp_path):
    for part in ("train", "validation", "test"):
        rows = [
            (content, path, -1 if part == "test" else label) for content, path, label in rows_of(40)
        ]
        write_part(tmp_path, part, rows, names="abcd")
    with pytest.warns(AnystepWarning, match="the labels of the test shards are all -1"):
        splits = loaded(tmp_path)
    assert splits.protocol == "image-folder/official"
    assert {each.partition("/")[0] for each in splits.test.ids} == {"val"}


def test_without_paths_or_with_equal_ones_a_row_number_is_the_id_whatever_the_cut(tmp_path):
    write_part(tmp_path / "a", "train", rows_of(40, paths=False))
    twice = [(content, "same.png", label) for content, _, label in rows_of(40)]
    write_part(tmp_path / "b", "train", twice, shards=3)
    first, again = loaded(tmp_path / "a"), loaded(tmp_path / "b")
    assert first.protocol_hash == again.protocol_hash
    assert seen(first.val) == seen(again.val)
    assert all(int(each.partition("/")[2]) == rgb[1] for each, (rgb, _) in seen(first.val).items())
    assert first.classes == ("0", "1", "2", "3")


def test_a_parquet_file_beside_class_folders_is_not_taken_for_the_images(tmp_path):
    TREES["image-folder"](tmp_path)
    (tmp_path / "metadata.parquet").write_bytes(b"something else")
    assert loaded(tmp_path).classes == ("circle", "square")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: a.unlink(), "train-00000-of-00003.* is missing, one of 1"),
        (lambda a, b: [each.unlink() for each in (a, b)], "one of 2 missing shards"),
        (lambda a, b: a.rename(f"{a}.incomplete"), "incomplete is a download that has not"),
        (lambda a, b: a.rename(a.with_name("train.parquet")), "cannot tell which shards"),
        (lambda a, b: a.rename(a.with_name("train-0000-of-0004.parquet")), "cannot tell which"),
        (lambda a, b: copy(b, f"{b.with_suffix('')}-abc.parquet"), "4 shards of 3"),
    ],
)
def test_shards_that_are_not_all_there_are_refused_by_name(change, message, tmp_path):
    files = write_part(tmp_path, "train", rows_of(40), shards=3)
    change(*files[:2])
    with pytest.raises(ValueError, match=message):
        loaded(tmp_path)


def test_imagenet_without_its_validation_shards_is_refused(tmp_path):
    write_part(tmp_path / "data", "train", rows_of(8))
    with pytest.raises(ValueError, match=r"must hold validation-\*\.parquet, it has train-00000"):
        loaded(tmp_path, "imagenet-1k")
    write_part(tmp_path / "only", "test", rows_of(8))
    with pytest.raises(ValueError, match=r"only must hold train-\*\.parquet, it has test-00000"):
        loaded(tmp_path / "only")


WHITE = picture((255, 255, 255))


BROKEN = "row 5 is not a whole image"
WRONG = [
    ((WHITE, "x.png", 4), "abcd", r"row 5: a label must be in 0\.\.3, .* got 4"),
    ((WHITE, "x.png", -1), "abcd", r"row 5: a label must be in 0\.\.3, .* got -1"),
    ((WHITE, "x.png", 10**12), None, r"row 5: a label must be in 0\.\.4, .* got 1000000000000"),
    ((WHITE, "x.png", None), "abcd", "row 5 has no label"),
    ((b"no image", "x.png", 1), None, BROKEN),
    ((WHITE[:60], "x.png", 1), None, BROKEN),
    ((None, "x.png", 1), None, "row 5 holds no bytes"),
]


@pytest.mark.parametrize(("row", "names", "message"), WRONG)
def test_a_wrong_label_or_image_is_refused_by_file_and_row(row, names, message, tmp_path):
    """An image when it is read."""
    rows = rows_of(24)
    rows[17] = row
    write_part(tmp_path, "train", rows, names=names)
    with pytest.raises(ValueError, match=rf"train-00001-of-00002\.parquet: {message}"):
        seen_in(loaded(tmp_path))


def test_shards_of_other_columns_or_other_classes_are_refused(tmp_path):
    from pyarrow import parquet

    tables = {
        "label: int64": {"label": [1, 2]},
        "img: string": {"img": ["a", "b"], "label": [1, 2]},
        "label: string": {"image": [{"bytes": b"", "path": ""}] * 2, "label": ["cat", "dog"]},
    }
    for says, columns in tables.items():
        parquet.write_table(pyarrow.table(columns), tmp_path / "train-00000-of-00001.parquet")
        with pytest.raises(ValueError, match=rf"train-0.*must have the columns image .*{says}"):
            loaded(tmp_path)
    write_shard(tmp_path / "train-00000-of-00001.parquet", rows_of(8), names="abcd")
    write_shard(tmp_path / "test-00000-of-00001.parquet", rows_of(8), names="abdc")
    with pytest.raises(ValueError, match=r"test-0.* and .*train-0.* must name the same classes"):
        loaded(tmp_path)


def test_a_shard_that_is_cut_or_empty_or_none_is_refused_by_name(tmp_path):
    first, _ = write_part(tmp_path, "train", rows_of(24))
    whole = first.read_bytes()
    empty = write_shard(tmp_path / "empty", []).read_bytes()
    for content in (b"", b"PAR1", empty, whole[:-9], whole[: len(whole) // 2], whole[200:]):
        first.write_bytes(content)
        with pytest.raises(ValueError, match=r"train-00000.*parquet is no parquet file of images"):
            loaded(tmp_path)


def test_a_shard_that_is_cut_or_removed_after_it_was_opened_is_refused_by_row_group(tmp_path):
    first, _ = write_part(tmp_path, "train", rows_of(24), group=4)
    images = read_shards("image-folder", find_shards(tmp_path)).images
    _ = images[0]
    first.write_bytes(first.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"train-00000.*: row 8 and the rest of row group 2: "):
        _ = images[9]
    first.unlink()
    with pytest.raises(ValueError, match="row 4 and the rest of row group 1: "):
        _ = images[4]
    with pytest.raises(IndexError, match=r"an index must be in 0\.\.23, got 24"):
        _ = images[24]


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_a_shard_with_flipped_bits_is_read_or_refused_by_name(places):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train-00000-of-00001.parquet"
        content = bytearray(write_shard(file, rows_of(24, classes=2), names="ab").read_bytes())
        for place in places:
            bit = int(place * 8 * len(content))
            content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        refused, shown = "", {}
        try:
            shown = seen_in(loaded(Path(folder)))
        except ValueError as error:
            refused = str(error)
        assert file.name in refused or len(shown) == 24


@pytest.mark.skipif(
    not REAL.is_dir(), reason="set ANYSTEP_DATA to a folder with cifar10/plain_text"
)
def test_the_real_shards_of_cifar10_are_an_image_folder(monkeypatch):
    monkeypatch.setattr(shards_module, "WINDOW_BYTES", 20 * 2**20)
    splits = load_dataset("image-folder", binning=Direct(2), root=REAL, size=28)
    sizes = [np.bincount(getattr(splits, part).labels).tolist() for part in PARTS]
    assert sizes == [[4500] * 10, [500] * 10, [1000] * 10]
    assert splits.classes[:3] == ("airplane", "automobile", "bird")
    assert splits.protocol == "image-folder/official"
    blocks = splits.train.blocks
    assert (len(np.unique(blocks.of)), blocks.window) == (52, 9)
    batches = epoch_order(len(splits.train), batch_size=64, seed=0, epoch=0, blocks=blocks)[:3]
    x, y = next(iter(load_batches(splits.train, batches)))
    assert x.shape == (2, 64, 3, 28, 28)
    assert y.tolist() == splits.train.labels[batches[0]].tolist()
    assert len(set(y.tolist())) == 10
