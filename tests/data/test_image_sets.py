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
    cifar10_flat,
    cifar10_pngs,
    cifar10_python,
    cifar100_binary,
    cifar_images,
    colour,
    save,
)

from anystep._errors import AnystepWarning
from anystep.data.datasets import load_dataset
from anystep.data.frames import Direct
from anystep.data.images.cifar import CIFAR10_CLASSES, CIFAR100_CLASSES
from anystep.data.images.pictures import Fit, ImageFiles, PictureSet

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}
CLASSES = {
    "imagenet-1k": ("n01440764", "n01443537", "n01484850"),
    "cub-200-2011": ("001.Black_footed_Albatross", "002.Laysan_Albatross"),
    "stanford-dogs": ("n02085620-Chihuahua", "n02085782-Japanese_spaniel"),
    "stanford-cars": ("AM General Hummer SUV 2000", "Acura RL Sedan 2012"),
}
PARTS = ("train", "val", "test")
REAL = Path(os.environ.get("ANYSTEP_DATA", "/no/such"), "cifar10")


IMAGES = np.arange(4 * 3 * 2 * 2, dtype=np.uint8).reshape(4, 3, 2, 2)


def loaded(name: str, root: Path, **options):
    return load_dataset(name, binning=Direct(2), root=root, **options)


def members(data: PictureSet) -> list[tuple[bytes, int]]:
    """Pixels and label of every image."""
    return [(data.raw(i).tobytes(), int(data.labels[i])) for i in range(len(data))]


def colours_of(data: PictureSet) -> list[tuple[int, ...]]:
    """The colour of the middle pixel of every image."""
    return [tuple(int(value) for value in data.raw(index)[:, 7, 7]) for index in range(len(data))]


def test_an_item_is_normalised_and_shown_at_every_step_without_a_copy():
    numbers = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 2.0)}
    data = PictureSet(IMAGES, [0, 1, 0, 1], encoding=Direct(5), **numbers)
    frames, label = data[1]
    assert (frames.shape, frames.dtype, label, type(label)) == ((5, 3, 2, 2), np.float32, 1, int)
    assert frames.strides[0] == 0
    assert frames[4, 1, 0, 1] == pytest.approx((17 / 255 - 0.2) / 0.25, rel=1e-6)
    assert not frames.flags.writeable
    view = data.subset([3, 2, 0]).subset([2, 0])
    assert (len(view), view.ids.tolist(), view.labels.tolist()) == (2, [0, 3], [0, 1])
    assert view.raw(1)[0, 0, 0] == 36


@pytest.mark.parametrize("name", CLASSES)
def test_a_release_gives_its_test_images_to_test_and_a_tenth_of_every_class_to_val(name, tmp_path):
    splits = loaded(name, TREES[name](tmp_path), size=14)
    assert (splits.protocol, splits.classes) == (f"{name}/official", CLASSES[name])
    found = {part: colours_of(getattr(splits, part)) for part in PARTS}
    labels = {part: getattr(splits, part).labels for part in PARTS}
    for label in range(len(splits.classes)):
        train, val, test = (
            [one for one, its in zip(found[part], labels[part], strict=True) if its == label]
            for part in PARTS
        )
        assert (len(train), len(val)) == (9, 1)
        assert sorted(train + val) == [colour(label, number, False) for number in range(10)]
        assert sorted(test) == [colour(label, number, True) for number in range(2)]


def test_a_tree_without_parts_is_split_by_the_names_of_its_files(tmp_path):
    splits = loaded("image-folder", TREES["image-folder"](tmp_path / "a"), size=14)
    again = loaded("image-folder", TREES["image-folder"](tmp_path / "elsewhere"))
    assert splits.protocol == "image-folder/stratified-70-10-20"
    assert splits.protocol_hash == again.protocol_hash
    for data in (splits.train, splits.val, splits.test):
        assert data.ids.tolist() == sorted(data.ids.tolist())
        for (red, green, _), label, name in zip(
            colours_of(data), data.labels, data.ids, strict=True
        ):
            assert (red, green) == colour(label, int(Path(name).stem), False)[:2]


@pytest.mark.parametrize("size", [(40, 30), (30, 40)])
def test_the_shorter_side_is_resized_and_the_centre_kept(tmp_path, size):
    from PIL import Image

    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(size[0]), np.arange(size[1])[:, None]
    Image.fromarray(pixels).save(tmp_path / "ramp.png")
    image = ImageFiles([str(tmp_path / "ramp.png")], Fit(30, 20))[0]
    left, top = (size[0] - 20) // 2, (size[1] - 20) // 2
    assert image.shape == (3, 20, 20)
    assert np.array_equal(image[0, 0], np.arange(left, left + 20))
    assert np.array_equal(image[1, :, 0], np.arange(top, top + 20))
    middle = ImageFiles([str(tmp_path / "ramp.png")], Fit(15, 15))[0][:2, 7, 7].astype(int)
    assert (abs(middle - np.array(size) / 2) <= 1).all()


@pytest.mark.parametrize(
    ("name", "resample"), [("imagenet-1k", "BICUBIC"), ("cub-200-2011", "BILINEAR")]
)
def test_a_test_image_is_resized_as_the_authors_code_does(name, resample, tmp_path):
    """ImageNet through timm, bicubic by default; the fine-grained sets through torchvision."""
    from PIL import Image

    root = TREES[name](tmp_path)
    data = loaded(name, root, size=14).test
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    file = next(file for file in root.rglob("*") if file.as_posix().endswith(data.ids[0]))
    Image.fromarray(noise).save(file, format="PNG")
    resized = Image.fromarray(noise).resize((16, 16), Image.Resampling[resample])
    assert np.array_equal(data.raw(0), np.asarray(resized.crop((1, 1, 15, 15))).transpose(2, 0, 1))


def test_a_grey_image_gets_three_planes_and_one_that_is_none_is_named(tmp_path):
    from PIL import Image

    def read(size: tuple[int, int] = (20, 20), content: bytes | None = None):
        Image.new("L", size, 77).save(tmp_path / "some.png")
        if content is not None:
            (tmp_path / "some.png").write_bytes(content)
        return ImageFiles([str(tmp_path / "some.png")], Fit(16, 16))[0]

    assert (read() == 77).all()
    whole = (tmp_path / "some.png").read_bytes()
    assert read((100, 1)).shape == (3, 16, 16)
    for content in (b"", b"no image", whole[: len(whole) // 2]):
        with pytest.raises(ValueError, match=r"some\.png is not a whole image"):
            read(content=content)


def written_as(format_: str, mode: str = "RGB", size: tuple[int, int] = (8, 8)):
    """A picture in a file, whatever the name says."""
    from PIL import Image

    return lambda file: Image.new(mode, size, 77).save(file, format=format_)


ATTACKS = [
    (
        lambda file: file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "a known",
    ),
    (written_as("GIF", "L"), r"of a known format \(JPEG, PNG, BMP, WEBP, TIFF\)"),
    (written_as("PNG", "1", (9000, 9000)), "it has 9000 x 9000 pixels: an image may have 67,108,"),
    (written_as("PNG", "1", (60_000, 1)), "3840000 x 64 pixels when it is resized: an"),
    (written_as("PNG", "I;16"), r"its pixels are I(;16)? in Pillow's words: write it with 8 bits"),
    (os.mkfifo, "must be a file; it is a folder, a device or a pipe"),
    (lambda file: file.symlink_to("/dev/zero"), "must be a file"),
]


@pytest.mark.parametrize(("attack", "words"), ATTACKS)
def test_a_picture_starts_no_program_takes_no_gigabytes_and_never_hangs(attack, words, tmp_path):
    """PostScript would run Ghostscript; a line of pixels would become 3,840,000 x 64."""
    attack(tmp_path / "some.jpg")
    with pytest.raises(ValueError, match=rf"some\.jpg.* {words}"):
        ImageFiles([str(tmp_path / "some.jpg")], Fit(64, 64))[0]


def pictured(root: Path, *shapes: tuple[int, ...]) -> tuple[Path, np.ndarray]:
    """Noise of these shapes in turn, ten files a class, and what a/0.png holds."""
    from PIL import Image

    chance = np.random.default_rng(0)
    images = [chance.integers(0, 256, shapes[k % len(shapes)], np.uint8) for k in range(20)]
    for k, image in enumerate(images):
        (root / "ab"[k % 2]).mkdir(exist_ok=True)
        Image.fromarray(image).save(root / "ab"[k % 2] / f"{k // 2}.png")
    return root, images[0]


def first_of(root: Path, **options) -> np.ndarray:
    """What is seen of a/0.png, and that items are `raw` / 255 unless statistics are given."""
    splits = loaded("image-folder", root, **options)
    data = next(each for each in map(splits.__getattribute__, PARTS) if "a/0.png" in each.ids)
    index = data.ids.tolist().index("a/0.png")
    assert np.array_equal(data[index][0][0], data.raw(index).astype(np.float32) / 255)
    return data.raw(index)


def test_pictures_of_one_size_keep_every_pixel_and_grey_ones_their_one_channel(tmp_path):
    (tmp_path / "colour").mkdir(), (tmp_path / "grey").mkdir()
    root, image = pictured(tmp_path / "colour", (32, 32, 3))
    for options in ({}, {"size": 32}, {"size": [32, 32], "stretch": True}):
        assert np.array_equal(first_of(root, **options), image.transpose(2, 0, 1))
    root, image = pictured(tmp_path / "grey", (9, 12))
    assert np.array_equal(first_of(root), image[None])
    assert np.array_equal(first_of(root, channels=3), [image] * 3)
    cropped = first_of(root, size=[6, 8], crop=2 / 3)
    assert np.array_equal(cropped, image[None, 2:8, 2:10])
    with pytest.raises(ValueError, match=r"mean must be one number, or one .* the 1 channels"):
        first_of(root, mean=(0.5, 0.5, 0.5))


def test_pictures_that_differ_need_a_size_and_one_in_colour_makes_three_channels(tmp_path):
    from PIL import Image

    root, image = pictured(tmp_path, (8, 16), (12, 6, 3))
    with pytest.raises(
        ValueError, match=r"size must be given .*a/0.png has 16 x 8 pixels, .*6 x 12"
    ):
        first_of(root)
    assert np.array_equal(first_of(root, size=8), [image[:, 4:12]] * 3)
    whole = Image.fromarray(image).resize((4, 4), Image.Resampling.BILINEAR)
    assert np.array_equal(first_of(root, size=4, stretch=True, channels=1), np.asarray(whole)[None])


def cats_and_dogs(root: Path, *parts: str) -> Path:
    """Ten images of each class in each part."""
    for part in parts:
        for group in ("cat", "dog"):
            for number in range(10):
                save(root / part / group / f"{number}.png", (number, 0, 0))
    return root


@pytest.mark.parametrize("name", [*TREES, "cifar10", "cifar100"])
def test_a_root_that_is_not_given_or_empty_or_no_folder_is_an_error_that_says_so(name, tmp_path):
    for root, words in (
        (None, r"root is required.*data\.options\.root"),
        (tmp_path / "none", "root must be a folder that exists"),
        (tmp_path, f".*{tmp_path.name}"),
    ):
        with pytest.raises(ValueError, match=rf"{name}:? .*{words}"):
            loaded(name, root)


def test_a_validation_folder_beside_train_and_test_is_left_alone_and_said_so(tmp_path):
    """So is what a Mac leaves beside an image."""
    for folder in cats_and_dogs(tmp_path, "train", "val", "test").glob("*/*"):
        (folder / "._0.png").write_bytes(b"\0\5\x16\7")
    with pytest.warns(AnystepWarning, match=r"val lies beside train and test and is not read"):
        found = loaded("image-folder", tmp_path, size=4)
    tops = [{each.split("/")[0] for each in getattr(found, part).ids.tolist()} for part in PARTS]
    assert tops == [{"train"}, {"train"}, {"test"}]
    assert [len(getattr(found, part)) for part in PARTS] == [18, 2, 20]


def flat(root: Path) -> None:
    """The validation images of ImageNet as they come out of the archive."""
    for file in (root / "val").rglob("*.JPEG"):
        file.rename(root / "val" / file.name)
    for folder in [each for each in (root / "val").iterdir() if each.is_dir()]:
        folder.rmdir()


def written(place: str, content: str):
    return lambda root: (root / place).write_text(content)


CUB_LABELS = "CUB_200_2011/image_class_labels.txt"
WRONG = [
    ("imagenet-1k", flat, "val is flat: move its images into a folder for each"),
    (
        "imagenet-1k",
        lambda root: save(root / "val/n09999999/a.JPEG", (1, 2, 3)),
        "only one has 'n09999999'",
    ),
    ("imagenet-1k", lambda root: (root / "train/n0").mkdir(), "n0 holds no image"),
    ("cub-200-2011", written(CUB_LABELS, "2 1\n"), "number '1' is missing"),
    ("cub-200-2011", written(CUB_LABELS, "1\n"), "entry 1 must be a number and a value"),
    ("stanford-dogs", written("lists/test_list.mat", "nothing"), "is no MATLAB file"),
]


@pytest.mark.parametrize(("name", "spoil", "words"), WRONG)
def test_a_release_that_is_not_whole_is_refused(name, spoil, words, tmp_path):
    spoil(TREES[name](tmp_path))
    with pytest.raises(ValueError, match=words):
        loaded(name, tmp_path)


def cifar10_shards(root: Path) -> Path:
    """plain_text/*.parquet, as the hub has them."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from PIL import Image

    (root / "plain_text").mkdir(parents=True)
    for part, (images, labels) in cifar_images(10).items():
        rows = []
        for image in images:
            file = io.BytesIO()
            Image.fromarray(image.transpose(1, 2, 0)).save(file, format="PNG")
            rows.append({"bytes": file.getvalue(), "path": "some.png"})
        table = arrow.table({"img": rows, "label": labels})
        parquet.write_table(table, root / "plain_text" / f"{part}-00000-of-00001.parquet")
    return root


def test_the_forms_of_cifar10_are_one_set_with_one_split_decoded_once(tmp_path):
    forms = (cifar10_binary, cifar10_python, cifar10_shards, cifar10_pngs, cifar10_flat)
    found = [
        loaded("cifar10", make(tmp_path / make.__name__), cache=tmp_path, **PLAIN) for make in forms
    ]
    assert len({splits.protocol_hash for splits in found}) == 1
    known = {
        part: set(zip((image.tobytes() for image in images), labels.tolist(), strict=True))
        for part, (images, labels) in cifar_images(10).items()
    }
    for splits in found:
        assert set(members(splits.train) + members(splits.val)) == known["train"]
        assert set(members(splits.test)) == known["test"]
        assert splits.classes == CIFAR10_CLASSES
    times = [file.stat().st_mtime_ns for file in tmp_path.glob("cifar10-*.npy")]
    loaded("cifar10", tmp_path / "cifar10_binary", cache=tmp_path)
    assert [file.stat().st_mtime_ns for file in tmp_path.glob("cifar10-*.npy")] == times
    shard = tmp_path / "cifar10_shards/plain_text/test-00000-of-00001.parquet"
    shard.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(ValueError, match=r"test-00000-of-00001\.parquet is no parquet file"):
        loaded("cifar10", tmp_path / "cifar10_shards", cache=tmp_path)


def test_cifar10_in_pngs_has_ten_classes_of_32_by_32_and_a_picture_that_moved_has_its_new_class(
    tmp_path,
):
    root = cifar10_pngs(tmp_path / "cifar10")
    before = loaded("cifar10", root, cache=tmp_path)
    (root / "test/cat/0003.png").rename(root / "test/dog/0003.png")
    after = loaded("cifar10", root, cache=tmp_path)
    assert np.bincount(after.test.labels).tolist() == [2, 2, 2, 1, 2, 3, 2, 2, 2, 2]
    assert set(before.test.ids) == set(after.test.ids)
    save(root / "train/cat/wide.png", (1, 2, 3))
    with pytest.raises(ValueError, match=r"wide\.png must have 32 x 32 pixels, it has 40 x 30"):
        loaded("cifar10", root, cache=tmp_path)
    (root / "train/cat/wide.png").rename(root / "train/1.png")
    with pytest.raises(ValueError, match=r"train/1\.png: its folder must be a class of cifar10"):
        loaded("cifar10", root, cache=tmp_path)


def test_equal_images_have_ids_of_their_own_and_one_order_whatever_that_of_the_file(tmp_path):
    """One image of training is a test image too, and trains with two labels more."""
    found = []
    for order in (1, -1):
        home = cifar10_binary(tmp_path / str(order)) / "cifar-10-batches-bin"
        first, test = home / "data_batch_1.bin", home / "test_batch.bin"
        content = first.read_bytes()
        twins = [bytes([label]) + content[1:3073] for label in (4, 7)]
        first.write_bytes(content + b"".join(twins[::order]))
        test.write_bytes(content[:3073] + test.read_bytes()[3073:])
        found.append(loaded("cifar10", home.parent, cache=tmp_path))
    assert found[0].protocol_hash == found[1].protocol_hash
    ids = np.concatenate([getattr(found[0], part).ids for part in PARTS]).tolist()
    assert len(set(ids)) == 222
    ends = [each[16:] for each in ids]
    assert sorted(each for each in ends if each) == ["-1", "-2", "t"]


def test_cifar100_has_its_fine_labels_and_a_hundred_names(tmp_path):
    splits = loaded("cifar100", cifar100_binary(tmp_path), cache=tmp_path)
    assert splits.classes == CIFAR100_CLASSES == tuple(sorted(set(CIFAR100_CLASSES)))
    assert len(CIFAR100_CLASSES) == 100
    images, labels = cifar_images(100)["test"]
    known = zip((image.tobytes() for image in images), labels.tolist(), strict=True)
    assert set(members(splits.test)) == set(known)


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (os.fspath(tmp_path / "ran"),)

    root = cifar10_python(tmp_path)
    (root / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps({b"data": Evil()}))
    with pytest.raises(ValueError, match=r"data_batch_3 is no batch .*: it asks for .*mkdir"):
        load_dataset("cifar10", binning=Direct(2), cache=tmp_path, root=root)
    assert not (tmp_path / "ran").exists()


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


SPOILT = [
    (cifar10_binary, "data_batch_2.bin", lambda old: old[:-1], "rows of 3073 bytes, it has 122919"),
    (
        cifar10_binary,
        "data_batch_2.bin",
        lambda old: b"\x0a" + old[1:],
        r"labels must be in 0\.\.9",
    ),
    (cifar10_binary, "data_batch_2.bin", lambda old: None, r"data_batch_2\.bin is missing"),
    (cifar10_python, "test_batch", lambda old: b"", "test_batch is no batch of cifar10"),
    (cifar10_python, "test_batch", lambda old: b"\x80\x02", "test_batch is no batch of cifar10"),
    (cifar10_python, "test_batch", lambda old: pickle.dumps([1]), "is no batch of cifar10"),
    (cifar10_python, "test_batch", lambda old: pickle.dumps({b"labels": [1]}), "is no batch of"),
]


@pytest.mark.parametrize(("make", "name", "change", "words"), SPOILT)
def test_a_spoilt_file_of_cifar_is_named(make, name, change, words, tmp_path):
    (file,) = make(tmp_path).rglob(name)
    content = change(file.read_bytes())
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        loaded("cifar10", tmp_path, cache=tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="set ANYSTEP_DATA to a folder with cifar10")
def test_the_real_cifar10_has_the_published_sizes_and_channel_means(tmp_path):
    pytest.importorskip("pyarrow", reason="extra images is not installed")
    splits = loaded("cifar10", REAL, cache=os.environ.get("ANYSTEP_CACHE", tmp_path))
    sizes = [np.bincount(getattr(splits, part).labels).tolist() for part in PARTS]
    assert sizes == [[4500] * 10, [500] * 10, [1000] * 10]
    sums = sum(
        data.raw(i).sum((1, 2), dtype=np.int64)
        for data in (splits.train, splits.val)
        for i in range(len(data))
    )
    assert np.allclose(sums / (50_000 * 1024 * 255), [0.49140, 0.48216, 0.44653], atol=5e-6)
    assert splits.protocol_hash == "8918a7f3f5650362"
