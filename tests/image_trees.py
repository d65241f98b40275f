"""Image releases in miniature: a picture's colour says what it is."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anystep.data.images.cifar import CIFAR10_CLASSES

PER_CLASS = (10, 2)  # training and test images of every class
BREEDS = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel")


def colour(label: int, number: int, test: bool) -> tuple[int, int, int]:
    """Red is the class, green the number, blue 200 for test."""
    return 60 * label + 30, 10 * number + 5, 200 if test else 0


def picture(rgb: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> bytes:
    """A plain image of that colour, as PNG, so that no colour is lost."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", size, rgb).save(file, format="PNG")
    return file.getvalue()


def save(path: Path, rgb: tuple[int, int, int]) -> None:
    """A picture in a file, PNG whatever the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(rgb))


def tree(
    root: Path, classes: tuple[str, ...], parts: tuple[str, str], suffix: str = ".jpg"
) -> Path:
    """<root>/<part>/<class>/*: class folders for both parts."""
    for test, (part, count) in enumerate(zip(parts, PER_CLASS, strict=True)):
        for label, name in enumerate(classes):
            for number in range(count):
                file = root / part / name / f"{name}_{number}{suffix}"
                save(file, colour(label, number, bool(test)))
    return root


def imagenet(root: Path) -> Path:
    """train/<wnid>/*.JPEG and val/<wnid>/*.JPEG."""
    return tree(root, ("n01440764", "n01443537", "n01484850"), ("train", "val"), ".JPEG")


def image_folder(root: Path) -> Path:
    """<class>/* without parts, one class with a folder inside."""
    for label, name in enumerate(("circle", "square")):
        for number in range(10):
            inside = "more" if number == 9 and label else "."
            save(root / name / inside / f"{number}.png", colour(label, number, False))
    return root


def cub(root: Path) -> Path:
    """CUB-200-2011: images/ and the lists beside it."""
    base, names = root / "CUB_200_2011", ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    rows: list[tuple[str, int, int]] = []
    for label, name in enumerate(names):
        for k in range(sum(PER_CLASS)):
            train = k < PER_CLASS[0]
            file = f"{name}/{name[4:]}_{k:04d}.jpg"
            save(base / "images" / file, colour(label, k % PER_CLASS[0], not train))
            rows.append((file, label + 1, int(train)))
    lists = ("images", "image_class_labels", "train_test_split")
    tables = dict(zip(lists, zip(*rows, strict=True), strict=True)) | {"classes": names}
    for file, values in tables.items():
        lines = [f"{number} {value}\n" for number, value in enumerate(values, 1)]
        (base / f"{file}.txt").write_text("".join(lines))
    return root


def dogs(root: Path) -> Path:
    """Images/<wnid-breed>/*.jpg, lists/train_list.mat and test_list.mat."""
    from scipy.io import savemat

    (root / "lists").mkdir(parents=True)
    for test, part in enumerate(("train", "test")):
        files = {}
        for label, breed in enumerate(BREEDS):
            for number in range(PER_CLASS[test]):
                name = f"{breed}/{breed.partition('-')[0]}_{test}{number}.jpg"
                save(root / "Images" / name, colour(label, number, bool(test)))
                files[name] = [float(label + 1)]
        cells = np.array([*files], dtype=object).reshape(-1, 1)
        table = {"file_list": cells, "labels": np.array([*files.values()])}
        savemat(root / "lists" / f"{part}_list.mat", table)
    return root


def cars(root: Path) -> Path:
    """cars_train/, cars_test/, devkit/ and cars_test_annos_withlabels.mat."""
    from scipy.io import savemat

    names = np.empty((1, 2), dtype=object)
    names[0] = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})
    files = {
        "cars_train": root / "devkit" / "cars_train_annos.mat",
        "cars_test": root / "cars_test_annos_withlabels.mat",
    }
    for test, (folder, file) in enumerate(files.items()):
        count = PER_CLASS[test]
        rows = np.empty((1, 2 * count), dtype=[("class", object), ("fname", object)])
        for k in range(2 * count):
            label, number = k % 2, k // 2
            rows[0, k] = (float(label + 1), f"{k + 1:05d}.jpg")
            save(root / folder / f"{k + 1:05d}.jpg", colour(label, number, bool(test)))
        savemat(file, {"annotations": rows})
    return root


def cifar_images(classes: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Training and test images (M, 3, 32, 32) of noise, with labels that go round."""
    chance, made = np.random.default_rng(0), {}
    for part, count in (("train", 20 * classes), ("test", 2 * classes)):
        images = chance.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        made[part] = images, np.arange(count) % classes
    return made


def cifar10_binary(root: Path) -> Path:
    """cifar-10-batches-bin: a label byte and 3,072 pixels a row, five training files."""
    home = root / "cifar-10-batches-bin"
    home.mkdir(parents=True)
    (images, labels), test = cifar_images(10).values()
    batches = {f"data_batch_{k + 1}": slice(40 * k, 40 * k + 40) for k in range(5)}
    parts = {name: (images[rows], labels[rows]) for name, rows in batches.items()}
    for name, part in {**parts, "test_batch": test}.items():
        rows = (bytes([label]) + image.tobytes() for image, label in zip(*part, strict=True))
        (home / f"{name}.bin").write_bytes(b"".join(rows))
    return root


def cifar10_python(root: Path) -> Path:
    """cifar-10-batches-py: pickled dictionaries, in another order than the binary files."""
    home = root / "cifar-10-batches-py"
    home.mkdir(parents=True)
    (images, labels), test = cifar_images(10).values()
    parts = {f"data_batch_{k + 1}": (images[k::5], labels[k::5]) for k in range(5)}
    for name, (pixels, classes) in {**parts, "test_batch": test}.items():
        batch = {b"data": pixels.reshape(-1, 3072), b"labels": classes.tolist()}
        batch |= {b"batch_label": b"training"} if name in parts else {}
        (home / name).write_bytes(pickle.dumps(batch, protocol=2))
    return root


def cifar10_pngs(root: Path, layout: str = "{part}/{name}/{number:04}.png") -> Path:
    """train/airplane/0000.png and so on; pjreddie's copy has train/0_airplane.png."""
    from PIL import Image

    for part, (images, labels) in cifar_images(10).items():
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            name = CIFAR10_CLASSES[label]
            file = root / layout.format(part=part, name=name, number=number)
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(file)
    return root


def cifar10_flat(root: Path) -> Path:
    """train/0_airplane.png and so on, with a hidden file beside."""
    cifar10_pngs(root, "{part}/{number}_{name}.png")
    (root / "train" / "._0_airplane.png").write_bytes(b"\0\5\x16\7")
    return root


def cifar100_binary(root: Path) -> Path:
    """cifar-100-binary: a coarse and a fine label byte before the pixels."""
    home = root / "cifar-100-binary"
    home.mkdir(parents=True)
    for part, (images, labels) in cifar_images(100).items():
        rows = [
            bytes([label // 5, label]) + image.tobytes()
            for image, label in zip(images, labels, strict=True)
        ]
        (home / f"{part}.bin").write_bytes(b"".join(rows))
    return root


Row = tuple[bytes | None, str | None, int | None]  # bytes of an image file, its path, its label
WNIDS = ("n01440764", "n01443537", "n01484850")
WORDS = ("tench, Tinca tinca", "goldfish, Carassius auratus", "great white shark")


def write_shard(
    file: Path, rows: Sequence[Row], *, group: int = 4, names: Sequence[str] | None = None
) -> Path:
    """A parquet file as the hub has them, with the class names in the footer."""
    import pyarrow
    from pyarrow import parquet

    images = [{"bytes": content, "path": path} for content, path, _ in rows]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    labels = pyarrow.array([label for *_, label in rows], pyarrow.int64())
    table = pyarrow.table({"image": pyarrow.array(images, kind), "label": labels})
    if names is not None:
        written = {"names": list(names), "_type": "ClassLabel"}
        features = {"image": {"_type": "Image"}, "label": written}
        text = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": text})
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, file, row_group_size=group)
    return file


def write_part(
    folder: Path, part: str, rows: Sequence[Row], *, shards: int = 2, **options: Any
) -> list[Path]:
    """<part>-00000-of-00002.parquet and so on, the rows in order."""
    cuts = [len(rows) * k // shards for k in range(shards + 1)]
    files = [folder / f"{part}-{k:05d}-of-{shards:05d}.parquet" for k in range(shards)]
    return [
        write_shard(file, rows[a:b], **options)
        for file, a, b in zip(files, cuts, cuts[1:], strict=False)
    ]


def rows_of(count: int, classes: int = 4, *, paths: bool = True) -> list[Row]:
    """Images of one colour whose red is the label and whose green is the number."""
    return [
        (picture((k % classes, k % 256, 7)), f"{k}.png" if paths else None, k % classes)
        for k in range(count)
    ]


def imagenet_rows(part: str) -> list[Row]:
    """The images of `imagenet` under the names that the hub gives them, mixed."""
    rows: list[Row] = []
    for label, wnid in enumerate(WNIDS):
        for number in range(PER_CLASS[part != "train"]):
            content = picture(colour(label, number, part != "train"))
            rows.append((content, f"{wnid}_{number}_{wnid}.JPEG", label))
    return [rows[int(k)] for k in np.random.default_rng(0).permutation(len(rows))]


def imagenet_shards(root: Path) -> Path:
    """data/train-*, validation-* and test-*.parquet; the test images have the label -1."""
    for part in ("train", "validation"):
        write_part(root / "data", part, imagenet_rows(part), names=WORDS)
    unlabelled: list[Row] = [(picture((1, 2, 3)), "ILSVRC2012_test_00000001.JPEG", -1)]
    write_part(root / "data", "test", unlabelled, shards=1, names=WORDS)
    return root


TREES = {
    "imagenet-1k": imagenet,
    "image-folder": image_folder,
    "cub-200-2011": cub,
    "stanford-dogs": dogs,
    "stanford-cars": cars,
}
