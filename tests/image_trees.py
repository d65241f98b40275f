"""Image releases in miniature: a picture's colour says what it is."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

PER_CLASS = (10, 2)  # training and test images of every class
BREEDS = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel")


def colour(label: int, number: int, test: bool) -> tuple[int, int, int]:
    """Red is the class, green the number, blue 200 for test."""
    return 60 * label + 30, 10 * number + 5, 200 if test else 0


def save(path: Path, rgb: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> None:
    """A plain image of that colour: PNG bytes whatever the name says, so that no colour is lost."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, rgb).save(path, format="PNG")


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
    lines: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": []}
    number = 0
    for label, name in enumerate(names):
        for k in range(sum(PER_CLASS)):
            number += 1
            test = k >= PER_CLASS[0]
            file = f"{name}/{name[4:]}_{k:04d}.jpg"
            save(base / "images" / file, colour(label, k % PER_CLASS[0], test))
            lines["images"].append(f"{number} {file}")
            lines["image_class_labels"].append(f"{number} {label + 1}")
            lines["train_test_split"].append(f"{number} {int(not test)}")
    lines["classes"] = [f"{label + 1} {name}" for label, name in enumerate(names)]
    for file, text in lines.items():
        (base / f"{file}.txt").write_text("\n".join(text) + "\n")
    return root


def dogs(root: Path) -> Path:
    """Images/<wnid-breed>/*.jpg, lists/train_list.mat and test_list.mat."""
    from scipy.io import savemat

    (root / "lists").mkdir(parents=True)
    for test, part in enumerate(("train", "test")):
        files, labels = [], []
        for label, breed in enumerate(BREEDS):
            for number in range(PER_CLASS[test]):
                name = f"{breed}/{breed.partition('-')[0]}_{test}{number}.jpg"
                save(root / "Images" / name, colour(label, number, bool(test)))
                files.append(name)
                labels.append([float(label + 1)])
        cells = np.empty((len(files), 1), dtype=object)
        cells[:, 0] = files
        table = {"file_list": cells, "labels": np.array(labels)}
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
    chance = np.random.default_rng(0)
    sizes = {"train": 20 * classes, "test": 2 * classes}
    return {
        part: (
            chance.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8),
            np.arange(count) % classes,
        )
        for part, count in sizes.items()
    }


def cifar10_binary(root: Path) -> Path:
    """cifar-10-batches-bin: a label byte and 3,072 pixels a row, five training files."""
    home = root / "cifar-10-batches-bin"
    home.mkdir(parents=True)
    parts = cifar_images(10)
    rows = {
        part: [bytes([label]) + image.tobytes() for image, label in zip(*parts[part], strict=True)]
        for part in parts
    }
    for k in range(5):
        batch = b"".join(rows["train"][40 * k : 40 * k + 40])
        (home / f"data_batch_{k + 1}.bin").write_bytes(batch)
    (home / "test_batch.bin").write_bytes(b"".join(rows["test"]))
    return root


def cifar10_python(root: Path) -> Path:
    """cifar-10-batches-py: pickled dictionaries, in another order than the binary files."""
    home = root / "cifar-10-batches-py"
    home.mkdir(parents=True)
    images, labels = cifar_images(10)["train"]
    for k in range(5):
        rows = slice(k, None, 5)
        batch = {
            b"data": images[rows].reshape(-1, 3072),
            b"labels": labels[rows].tolist(),
            b"batch_label": b"training",
        }
        (home / f"data_batch_{k + 1}").write_bytes(pickle.dumps(batch, protocol=2))
    images, labels = cifar_images(10)["test"]
    batch = {b"data": images.reshape(-1, 3072), b"labels": labels.tolist()}
    (home / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
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


def picture(rgb: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> bytes:
    """The file that `save` writes."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", size, rgb).save(file, format="PNG")
    return file.getvalue()


def write_shard(
    file: Path,
    rows: Sequence[Row],
    *,
    group: int = 4,
    names: Sequence[str] | None = None,
    column: str = "image",
) -> Path:
    """A parquet file as the hub has them, with the class names in the footer."""
    import pyarrow
    from pyarrow import parquet

    images = [{"bytes": content, "path": path} for content, path, _ in rows]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    labels = pyarrow.array([label for *_, label in rows], pyarrow.int64())
    table = pyarrow.table({column: pyarrow.array(images, kind), "label": labels})
    if names is not None:
        features: dict[str, Any] = {
            column: {"_type": "Image"},
            "label": {"names": list(names), "_type": "ClassLabel"},
        }
        table = table.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
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
