"""Pictures: image files decoded when they are asked for, and the data set that normalises them."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anystep._errors import UsageError
from anystep._extras import need
from anystep._files import regular
from anystep._lookup import choose
from anystep.data.frames import Direct
from anystep.data.images.shards import ShardImages
from anystep.data.sets import Blocks, StoredSet

# Pillow knows many more, and runs a program (Ghostscript) for one of them.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
MOST_PIXELS = 2**26  # 8192 x 8192, in 256 MiB: a camera of 61 megapixels fits


def _check_pixels(size: tuple[int, ...], when: str = "") -> None:
    if math.prod(size) > MOST_PIXELS:
        rule = f"an image may have {MOST_PIXELS:,} pixels at most"
        raise UsageError(f"it has {size[0]} x {size[1]} pixels{when}: {rule}")


@dataclass(frozen=True)
class Fit:
    """The papers' test transform: the shorter side to `resize` pixels, then the centre `crop`.

    256 and 224 in the papers. The longer side is int(resize * longer / shorter), as in torchvision.
    `interpolation`: "bilinear" or "bicubic", with Pillow's weights.
    """

    resize: int = 256
    crop: int = 224
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        choose({"bilinear": 0, "bicubic": 0}, self.interpolation, "interpolation")

    def __call__(self, picture: Any) -> Any:
        """A Pillow image of crop x crop pixels."""
        shorter = min(picture.size)
        size = tuple(int(self.resize * side / shorter) for side in picture.size)
        _check_pixels(size, f" when its shorter side has {self.resize}")
        if size != picture.size:
            pillow = need("PIL.Image", extra="images", purpose="reading image files")
            picture = picture.resize(size, pillow.Resampling[self.interpolation.upper()])
        left, top = (round((side - self.crop) / 2) for side in size)
        return picture.crop((left, top, left + self.crop, top + self.crop))


@contextmanager
def _opened(file: str | bytes, where: str) -> Iterator[Any]:
    """A Pillow image whose header was read and judged, and whose pixels were not."""
    pillow = need("PIL.Image", extra="images", purpose="reading image files")
    bomb = (pillow.DecompressionBombError, pillow.DecompressionBombWarning)
    content = io.BytesIO(file) if isinstance(file, bytes) else regular(file)
    try:
        with pillow.open(content, formats=FORMATS) as picture:
            _check_pixels(picture.size)
            if picture.mode[0] in "IF":
                kind = f"its pixels are {picture.mode} in Pillow's words"
                raise UsageError(f"{kind}: write it with 8 bits a colour")
            yield picture
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    except pillow.UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise UsageError(f"{where} is not a whole image of a known format ({known})") from error
    except (OSError, SyntaxError, ValueError, *bomb) as error:  # SyntaxError: a broken PNG
        raise UsageError(f"{where} is not a whole image: {error}") from error


def decode(file: str | bytes, where: str, fit: Fit | None = None) -> NDArray[np.uint8]:
    """The image in a file or in its bytes, (3, H, W); a grey one has three equal planes.

    `where` names it in errors. Of a file with several pictures it is the first; transparency is
    left out.
    """
    with _opened(file, where) as picture:
        coloured = picture.convert("RGB")
        pixels = np.asarray(coloured if fit is None else fit(coloured))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


class ImageFiles:
    """Image files or those in shards, decoded at access and fitted: items (3, crop, crop) uint8."""

    def __init__(self, files: Sequence[str] | ShardImages, fit: Fit) -> None:
        self.files, self.fit = files, fit

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        file = self.files[index]
        where = self.files.where(index) if isinstance(self.files, ShardImages) else str(file)
        return decode(file, where, self.fit)


class PictureSet(StoredSet):
    """Images with labels, normalised when they are read and shown T times without a copy.

        item = ((image / 255 - mean) / std shown T times (T, P, H, W) float32, label)

    pictures    M images (P, H, W) uint8: an array, a memory map, or files decoded at access
    labels      (M,)
    ids         (M,) names, in the order of which a split counts; None: the numbers
    mean, std   a number for each of the P planes
    blocks      which images lie together on disk, if an epoch must read those together
    """

    columns = ("_rows",)
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __init__(
        self,
        pictures: NDArray[np.uint8] | ImageFiles,
        labels: ArrayLike,
        *,
        encoding: Direct,
        mean: Sequence[float],
        std: Sequence[float],
        ids: ArrayLike | None = None,
        blocks: Blocks | None = None,
    ) -> None:
        super().__init__(len(pictures), labels, ids)
        self._pictures, self.encoding, self.blocks = pictures, encoding, blocks
        self._rows = np.arange(len(pictures))
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        if len(self.mean) != len(self.std) or not all(each > 0 for each in self.std):
            rule = "std must be as many numbers > 0 as mean"
            raise UsageError(f"PictureSet: {rule}, got {list(std)} beside {list(mean)}")

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], int]:
        image = self.raw(index)
        if len(image) != len(self.mean):
            rule = f"mean and std are for {len(self.mean)} planes"
            raise UsageError(f"PictureSet: {rule}, an image has {len(image)}")
        mean, std = (
            np.array(each, dtype=np.float32).reshape(-1, 1, 1) for each in (self.mean, self.std)
        )
        return self.encoding((image.astype(np.float32) / 255 - mean) / std), int(self.labels[index])

    def raw(self, index: int) -> NDArray[np.uint8]:
        """The image as it is stored, (P, H, W) uint8."""
        return np.asarray(self._pictures[int(self._rows[index])])

    def subset(self, indices: ArrayLike) -> Self:
        """The images `indices` (B,), in that order, over the same store."""
        view = super().subset(indices)
        view.blocks = None if self.blocks is None else self.blocks.subset(indices)
        return view
