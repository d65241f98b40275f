"""Image sets: releases rebuilt in miniature, and the real CIFAR-10 where it lies."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from image_trees import (
    TREES,
    cifar10_binary,
    cifar10_python,
    cifar100_binary,
    cifar_images,
    colour,
    save,
)

from anystep._errors import AnystepWarning
from anystep.data.datasets import load_dataset
from anystep.data.frames import Direct, FixedDuration
from anystep.data.images.cifar import CIFAR10_CLASSES, CIFAR100_CLASSES
from anystep.data.images.pictures import Fit, ImageFiles, PictureSet
from anystep.data.images.rows import IMAGENET_MEAN, IMAGENET_STD
from anystep.data.loader import in_order, load_batches

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}
OFFICIAL = ["imagenet-1k", "cub-200-2011", "stanford-dogs", "stanford-cars"]
PARTS = ("train", "val", "test")


def picture_set(mean=(0, 0, 0), std=(1, 1, 1)) -> PictureSet:
    images = np.arange(4 * 3 * 2 * 2, dtype=np.uint8).reshape(4, 3, 2, 2)
    return PictureSet(images, [0, 1, 0, 1], encoding=Direct(5), mean=mean, std=std)


def loaded(name: str, tmp_path: Path, **options):
    return load_dataset(
        name, binning=Direct(2), root=TREES[name](tmp_path / name), size=14, **options
    )


def colours_of(data: PictureSet) -> list[tuple[int, ...]]:
    """The colour of the middle pixel of every image."""
    return [tuple(int(value) for value in data.raw(index)[:, 7, 7]) for index in range(len(data))]


def test_an_item_is_normalised_and_shown_at_every_step_without_a_copy():
    frames, label = picture_set((0.1, 0.2, 0.3), (0.5, 0.25, 2.0))[1]
    assert (frames.shape, frames.dtype, label, type(label)) == ((5, 3, 2, 2), np.float32, 1, int)
    assert frames.strides[0] == 0
    assert frames[4, 1, 0, 1] == pytest.approx((17 / 255 - 0.2) / 0.25, rel=1e-6)
    assert not frames.flags.writeable


def test_a_subset_of_a_subset_keeps_labels_ids_and_pictures_together():
    view = picture_set().subset([3, 2, 0]).subset([2, 0])
    assert (len(view), view.ids.tolist(), view.labels.tolist()) == (2, [0, 3], [0, 1])
    assert view.raw(1)[0, 0, 0] == 36


def test_pictures_of_another_number_of_planes_than_the_mean_are_refused():
    with pytest.raises(ValueError, match="mean and std are for 1 planes, an image has 3"):
        picture_set((0.5,), (0.5,))[0]
    with pytest.raises(ValueError, match="std must be as many numbers > 0 as mean"):
        picture_set((0, 0, 0), (1, 1, 0))


def test_the_loader_keeps_a_batch_of_pictures_static_with_workers_and_without():
    batches = [
        next(iter(load_batches(picture_set(), in_order(4, batch_size=4), workers=workers)))[0]
        for workers in (0, 1)
    ]
    assert batches[0].stride(0) == batches[1].stride(0) == 0
    assert batches[0].equal(batches[1])


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_release_gives_its_test_images_to_test_and_a_tenth_of_every_class_to_val(name, tmp_path):
    splits = loaded(name, tmp_path)
    classes = len(splits.classes)
    assert [np.bincount(getattr(splits, part).labels).tolist() for part in PARTS] == [
        [n] * classes for n in (9, 1, 2)
    ]
    assert splits.protocol == f"{name}/official"
    found = {part: colours_of(getattr(splits, part)) for part in PARTS}
    labels = {part: getattr(splits, part).labels for part in PARTS}
    for label in range(classes):
        mine = {
            part: [one for one, its in zip(found[part], labels[part], strict=True) if its == label]
            for part in PARTS
        }
        trained = [colour(label, number, False) for number in range(10)]
        assert sorted(mine["train"] + mine["val"]) == trained
        assert sorted(mine["test"]) == [colour(label, number, True) for number in range(2)]


def test_a_tree_without_parts_is_split_by_the_names_of_its_files(tmp_path):
    splits = loaded("image-folder", tmp_path)
    assert splits.protocol == "image-folder/stratified-70-10-20"
    assert [len(getattr(splits, part)) for part in PARTS] == [14, 2, 4]
    ids = np.concatenate([getattr(splits, part).ids for part in PARTS])
    assert {"circle/0.png", "square/more/9.png"} <= set(ids.tolist())
    for part in PARTS:
        data = getattr(splits, part)
        for (red, green, _), label, name in zip(
            colours_of(data), data.labels, data.ids, strict=True
        ):
            assert (red, green) == colour(label, int(Path(name).stem), False)[:2]


def test_the_split_does_not_depend_on_the_place_or_on_the_order_of_the_folder(tmp_path):
    first = loaded("image-folder", tmp_path)
    again = load_dataset(
        "image-folder", binning=Direct(2), root=TREES["image-folder"](tmp_path / "elsewhere")
    )
    assert first.protocol_hash == again.protocol_hash
    assert first.train.ids.tolist() == again.train.ids.tolist() == sorted(first.train.ids.tolist())


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("stanford-cars", ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")),
        ("cub-200-2011", ("001.Black_footed_Albatross", "002.Laysan_Albatross")),
        ("stanford-dogs", ("n02085620-Chihuahua", "n02085782-Japanese_spaniel")),
    ],
)
def test_the_names_of_the_classes_are_those_of_the_release(name, classes, tmp_path):
    assert loaded(name, tmp_path).classes == classes


def test_photographs_are_normalised_with_the_numbers_of_imagenet(tmp_path):
    data = loaded("imagenet-1k", tmp_path).test
    frames, _ = data[0]
    mean, std = (np.reshape(each, (3, 1, 1)) for each in (IMAGENET_MEAN, IMAGENET_STD))
    expected = (data.raw(0) / 255 - mean) / std
    assert frames.shape == (2, 3, 14, 14)
    assert np.allclose(frames[1], expected, atol=1e-6)


@pytest.mark.parametrize(("size", "shown"), [((40, 30), (33, 10)), ((30, 40), (10, 33))])
def test_the_shorter_side_is_resized_and_the_centre_kept(tmp_path, size, shown):
    from PIL import Image

    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(size[0]), np.arange(size[1])[:, None]
    Image.fromarray(pixels).save(tmp_path / "ramp.png")
    image = ImageFiles([tmp_path / "ramp.png"], Fit(30, 20))[0]
    left, top = (size[0] - 20) // 2, (size[1] - 20) // 2
    assert image.shape == (3, 20, 20)
    assert np.array_equal(image[0, 0], np.arange(left, left + 20))
    assert np.array_equal(image[1, :, 0], np.arange(top, top + 20))
    half = ImageFiles([tmp_path / "ramp.png"], Fit(15, 15))[0]
    middle = half[:, 7, 7].astype(int)
    assert abs(middle[0] - size[0] / 2) <= 1
    assert abs(middle[1] - size[1] / 2) <= 1


def test_a_grey_image_gets_three_planes_and_a_broken_one_is_named(tmp_path):
    from PIL import Image

    Image.new("L", (20, 20), 77).save(tmp_path / "grey.png")
    assert (ImageFiles([tmp_path / "grey.png"], Fit(16, 16))[0] == 77).all()
    whole = (tmp_path / "grey.png").read_bytes()
    for content in (b"", b"no image", whole[: len(whole) // 2]):
        (tmp_path / "broken.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.png is not a whole image"):
            ImageFiles([tmp_path / "broken.png"], Fit())[0]


def test_a_line_of_pixels_is_refused_before_it_becomes_gigabytes(tmp_path):
    from PIL import Image

    Image.new("L", (60_000, 1)).save(tmp_path / "line.png")
    with pytest.raises(ValueError, match=r"line\.png .* it has 60000 x 1 pixels"):
        ImageFiles([tmp_path / "line.png"], Fit())[0]
    Image.new("L", (100, 1)).save(tmp_path / "strip.png")
    assert ImageFiles([tmp_path / "strip.png"], Fit(8, 8))[0].shape == (3, 8, 8)


def cats_and_dogs(root: Path, *parts: str) -> Path:
    """Ten images of each class in each part."""
    for part in parts:
        for group in ("cat", "dog"):
            for number in range(10):
                save(root / part / group / f"{number}.png", (number, 0, 0))
    return root


def test_what_a_mac_leaves_beside_an_image_is_no_image(tmp_path):
    for folder in cats_and_dogs(tmp_path, "train", "test").glob("*/*"):
        (folder / "._0.png").write_bytes(b"\0\5\x16\7")
    found = load_dataset("image-folder", binning=Direct(1), root=tmp_path, size=4)
    assert [len(getattr(found, part)) for part in PARTS] == [18, 2, 20]


@pytest.mark.parametrize("name", [*TREES, "cifar10", "cifar100"])
def test_a_root_that_is_not_given_or_empty_or_no_folder_is_an_error_that_says_so(name, tmp_path):
    images, events = Direct(2), FixedDuration(2, 100)
    for options, words in (
        ({"binning": images}, r"root is required.*data\.options\.root"),
        ({"binning": images, "root": tmp_path / "none"}, "root must be a folder that exists"),
        ({"binning": images, "root": tmp_path}, f".*{tmp_path.name}"),
        ({"binning": events, "root": tmp_path}, "its binning must be direct"),
    ):
        with pytest.raises(ValueError, match=rf"{name}:? .*{words}"):
            load_dataset(name, **options)


def test_a_flat_validation_folder_of_imagenet_is_an_error_with_a_way_out(tmp_path):
    TREES["imagenet-1k"](tmp_path)
    for file in (tmp_path / "val").rglob("*.JPEG"):
        file.rename(tmp_path / "val" / file.name)
    for folder in [each for each in (tmp_path / "val").iterdir() if each.is_dir()]:
        folder.rmdir()
    with pytest.raises(ValueError, match="val is flat: move its images into a folder for each"):
        load_dataset("imagenet-1k", binning=Direct(2), root=tmp_path)


def test_the_unlabelled_test_folder_of_kaggles_imagenet_is_not_looked_at(tmp_path):
    home = tmp_path / "ILSVRC/Data/CLS-LOC"
    TREES["imagenet-1k"](home)
    without = load_dataset("imagenet-1k", binning=Direct(1), root=tmp_path, size=4)
    save(home / "test" / "ILSVRC2012_test_00000001.JPEG", (1, 2, 3))
    found = load_dataset("imagenet-1k", binning=Direct(1), root=tmp_path, size=4)
    assert (found.protocol, found.protocol_hash) == ("imagenet-1k/official", without.protocol_hash)


def test_a_validation_folder_beside_train_and_test_is_left_alone_and_said_so(tmp_path):
    cats_and_dogs(tmp_path, "train", "val", "test")
    with pytest.warns(AnystepWarning, match=r"val lies beside train and test and is not read"):
        found = load_dataset("image-folder", binning=Direct(1), root=tmp_path, size=4)
    tops = [{each.split("/")[0] for each in getattr(found, part).ids.tolist()} for part in PARTS]
    assert tops == [{"train"}, {"train"}, {"test"}]


def test_a_size_that_is_none_is_refused(tmp_path):
    root = TREES["image-folder"](tmp_path)
    for size in (0, 2.5, True):
        with pytest.raises(ValueError, match="size must be a whole number of pixels >= 1, got"):
            load_dataset("image-folder", binning=Direct(1), root=root, size=size)


def test_parts_with_other_classes_and_an_empty_class_are_named(tmp_path):
    root = TREES["imagenet-1k"](tmp_path)
    save(root / "val" / "n09999999" / "a.JPEG", (1, 2, 3))
    with pytest.raises(ValueError, match="only one has 'n09999999'"):
        load_dataset("imagenet-1k", binning=Direct(2), root=root)
    (root / "train" / "n00000001").mkdir()
    with pytest.raises(ValueError, match="n00000001 holds no image"):
        load_dataset("imagenet-1k", binning=Direct(2), root=root)


def test_lists_that_do_not_fit_together_and_lists_that_are_none_are_named(tmp_path):
    root = TREES["cub-200-2011"](tmp_path / "cub")
    lists = root / "CUB_200_2011"
    labels = (lists / "image_class_labels.txt").read_text()
    dogs = TREES["stanford-dogs"](tmp_path / "dogs")
    for name, place, file, content, words in (
        (
            "cub-200-2011",
            root,
            lists / "image_class_labels.txt",
            labels[4:],
            "number '1' is missing",
        ),
        ("cub-200-2011", root, lists / "image_class_labels.txt", "1\n", "entry 1 must be a number"),
        ("stanford-dogs", dogs, dogs / "lists/test_list.mat", "nothing", "is no MATLAB file"),
    ):
        file.write_text(content)
        with pytest.raises(ValueError, match=words):
            load_dataset(name, binning=Direct(2), root=place)


def test_the_binary_and_the_python_form_of_cifar10_are_one_set_with_one_split(tmp_path):
    forms = [cifar10_binary(tmp_path / "a"), cifar10_python(tmp_path / "b")]
    binary, python = (
        load_dataset("cifar10", binning=Direct(2), cache=tmp_path, root=root, **PLAIN)
        for root in forms
    )
    assert binary.protocol_hash == python.protocol_hash
    assert [len(getattr(binary, part)) for part in PARTS] == [180, 20, 20]
    true = {
        image.tobytes(): int(label)
        for part in cifar_images(10).values()
        for image, label in zip(*part, strict=True)
    }
    for splits in (binary, python):
        for part in PARTS:
            data = getattr(splits, part)
            assert [true[data.raw(i).tobytes()] for i in range(len(data))] == data.labels.tolist()
    assert {binary.test.raw(i).tobytes() for i in range(20)} == {
        image.tobytes() for image in cifar_images(10)["test"][0]
    }
    assert binary.classes == CIFAR10_CLASSES


def test_cifar_is_decoded_once_and_read_from_the_cache_after(tmp_path):
    root, cache = cifar10_binary(tmp_path / "a"), tmp_path / "cache"
    load_dataset("cifar10", binning=Direct(2), cache=cache, root=root)
    (file,) = cache.glob("cifar10-*.npy")
    made = file.stat().st_mtime_ns
    load_dataset("cifar10", binning=Direct(3), cache=cache, root=root, **PLAIN)
    assert [each.stat().st_mtime_ns for each in cache.glob("cifar10-*.npy")] == [made]


def test_equal_images_have_ids_of_their_own_also_if_one_trains_and_one_tests(tmp_path):
    root = cifar10_binary(tmp_path)
    home = root / "cifar-10-batches-bin"
    first, test = home / "data_batch_1.bin", home / "test_batch.bin"
    image = first.read_bytes()[:3073]
    first.write_bytes(first.read_bytes() + image)
    test.write_bytes(image + test.read_bytes()[3073:])
    splits = load_dataset("cifar10", binning=Direct(1), root=root, cache=tmp_path / "cache")
    ids = np.concatenate([getattr(splits, part).ids for part in PARTS]).tolist()
    assert len(set(ids)) == 221
    assert sum(each.endswith("-1") for each in ids) == sum(each.endswith("t") for each in ids) == 1


def test_equal_images_with_other_labels_are_in_one_order_whatever_that_of_the_file(tmp_path):
    hashes = []
    for order in (1, -1):
        root = cifar10_binary(tmp_path / str(order))
        first = root / "cifar-10-batches-bin" / "data_batch_1.bin"
        content = first.read_bytes()
        twins = [bytes([label]) + content[1:3073] for label in (4, 7)]
        first.write_bytes(content + b"".join(twins[::order]))
        splits = load_dataset("cifar10", binning=Direct(2), cache=tmp_path, root=root)
        hashes.append(splits.protocol_hash)
    assert hashes[0] == hashes[1]


def test_cifar100_has_its_fine_labels_and_a_hundred_names(tmp_path):
    root = cifar100_binary(tmp_path)
    splits = load_dataset("cifar100", binning=Direct(2), cache=tmp_path, root=root)
    assert [len(getattr(splits, part)) for part in PARTS] == [1800, 200, 200]
    assert splits.classes == CIFAR100_CLASSES == tuple(sorted(set(CIFAR100_CLASSES)))
    assert len(CIFAR100_CLASSES) == 100
    true = {
        image.tobytes(): int(label) for image, label in zip(*cifar_images(100)["test"], strict=True)
    }
    assert [true[splits.test.raw(i).tobytes()] for i in range(200)] == splits.test.labels.tolist()


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (os.fspath(tmp_path / "ran"),)

    root = cifar10_python(tmp_path)
    (root / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps({b"data": Evil()}))
    with pytest.raises(ValueError, match=r"data_batch_3 is no batch .*: it asks for .*mkdir"):
        load_dataset("cifar10", binning=Direct(2), cache=tmp_path, root=root)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02", pickle.dumps([1]), pickle.dumps({b"labels": [1]})]
)
def test_a_damaged_batch_is_named(content, tmp_path):
    root = cifar10_python(tmp_path)
    (root / "cifar-10-batches-py" / "test_batch").write_bytes(content)
    with pytest.raises(ValueError, match="test_batch is no batch of cifar10"):
        load_dataset("cifar10", binning=Direct(2), cache=tmp_path, root=root)


def test_a_small_damaged_batch_takes_no_gigabytes(tmp_path):
    root = cifar10_python(tmp_path)
    batch = root / "cifar-10-batches-py" / "test_batch"
    # A dictionary, to be remembered as number 2^32 - 1.
    batch.write_bytes(b"\x80\x02}r\xff\xff\xff\xff.")
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
from pathlib import Path
from anystep.data.images.cifar import CIFAR10, _read_python
_read_python(CIFAR10, Path({str(batch)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith("anystep._errors.UsageError: ")
    assert "test_batch is no batch of cifar10" in done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content[:-1], "must hold rows of 3073 bytes, it has 122919 bytes"),
        (lambda content: b"\x0a" + content[1:], r"labels must be in 0\.\.9"),
        (lambda content: None, r"data_batch_2\.bin is missing"),
    ],
)
def test_a_missing_or_cut_file_of_the_binary_form_and_a_wrong_label_are_named(
    change, words, tmp_path
):
    root = cifar10_binary(tmp_path)
    second = root / "cifar-10-batches-bin" / "data_batch_2.bin"
    content = change(second.read_bytes())
    if content is None:
        second.unlink()
    else:
        second.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        load_dataset("cifar10", binning=Direct(2), cache=tmp_path, root=root)


def test_parquet_shards_give_what_the_binary_form_gives(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from PIL import Image

    (tmp_path / "plain_text").mkdir()
    for part, (images, labels) in cifar_images(10).items():
        rows = []
        for image in images:
            file = io.BytesIO()
            Image.fromarray(image.transpose(1, 2, 0)).save(file, format="PNG")
            rows.append({"bytes": file.getvalue(), "path": "some.png"})
        table = arrow.table({"img": rows, "label": labels})
        parquet.write_table(table, tmp_path / "plain_text" / f"{part}-00000-of-00001.parquet")
    roots = (tmp_path, cifar10_binary(tmp_path / "b"))
    shards, binary = (
        load_dataset("cifar10", binning=Direct(2), cache=tmp_path, root=root) for root in roots
    )
    assert shards.protocol_hash == binary.protocol_hash
    assert np.array_equal(shards.val[3][0], binary.val[3][0])
    (tmp_path / "plain_text" / "test-00000-of-00001.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(ValueError, match=r"test-00000-of-00001\.parquet is no parquet file"):
        load_dataset("cifar10", binning=Direct(2), cache=tmp_path, root=tmp_path)


def test_the_real_cifar10_has_the_published_sizes_and_channel_means(tmp_path):
    pytest.importorskip("pyarrow", reason="extra images is not installed")
    if not os.environ.get("ANYSTEP_DATA"):
        pytest.skip("ANYSTEP_DATA names no folder with published data sets")
    root = Path(os.environ["ANYSTEP_DATA"]) / "cifar10"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    splits = load_dataset(
        "cifar10", binning=Direct(4), cache=os.environ.get("ANYSTEP_CACHE", tmp_path), root=root
    )
    sizes = [np.bincount(getattr(splits, part).labels).tolist() for part in PARTS]
    assert sizes == [[4500] * 10, [500] * 10, [1000] * 10]
    sums = sum(
        data.raw(i).sum((1, 2), dtype=np.int64)
        for data in (splits.train, splits.val)
        for i in range(len(data))
    )
    assert np.allclose(sums / (50_000 * 1024 * 255), [0.49140, 0.48216, 0.44653], atol=5e-6)
    assert splits.protocol_hash == "8918a7f3f5650362"
