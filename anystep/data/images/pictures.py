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
from anystep.data.frames import Direct, sides
from anystep.data.images.shards import ShardImages
from anystep.data.sets import Blocks, StoredSet

GREY = ("1", "L", "LA", "La")  # Pillow's modes
# Pillow knows many more, and runs a program (Ghostscript) for one of them.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
MOST_PIXELS = 2**26  # 8192 x 8192, in 256 MiB: a camera of 61 megapixels fits


def _check_pixels(size: tuple[int, ...], when: str = "") -> None:
    if math.prod(size) > MOST_PIXELS:
        rule = f"an image may have {MOST_PIXELS:,} pixels at most"
        raise UsageError(f"it has {size[0]} x {size[1]} pixels{when}: {rule}")


@dataclass(frozen=True)
class Fit:
    """The shorter side to `resize` pixels, then the centre `crop`: 256 and 224 in the papers.

    Each is a side or (H, W). The other side keeps its share of the shorter one, rounded down as in
    torchvision; with `stretch` both become `resize`. `interpolation`: "bilinear" or "bicubic", with
    Pillow's weights. A picture that has its size already is left as it is.
    """

    resize: int | tuple[int, int] = 256
    crop: int | tuple[int, int] = 224
    interpolation: str = "bilinear"
    stretch: bool = False

    def __post_init__(self) -> None:
        choose({"bilinear": 0, "bicubic": 0}, self.interpolation, "interpolation")

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        tall, wide = sides(self.resize)
        if self.stretch:
            return wide, tall
        if width * tall <= height * wide:
            return wide, int(wide * height / width)
        return int(tall * width / height), tall

    def __call__(self, picture: Any) -> Any:
        """A Pillow image of the size `crop`."""
        size = self._resized(*picture.size)
        _check_pixels(size, " when it is resized")
        if size != picture.size:
            pillow = need("PIL.Image", extra="images", purpose="reading image files")
            picture = picture.resize(size, pillow.Resampling[self.interpolation.upper()])
        height, width = sides(self.crop)
        left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
        return picture.crop((left, top, left + width, top + height))


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


def decode(
    file: str | bytes, where: str, fit: Fit | None = None, channels: int = 3
) -> NDArray[np.uint8]:
    """The image in a file or in its bytes, (channels, H, W): 3, or 1 for its luma (ITU-R 601).

    A grey one of 3 has three equal planes. `where` names it in errors. Of a file with several
    pictures it is the first; transparency is left out.
    """
    with _opened(file, where) as picture:
        converted = picture.convert("L" if channels == 1 else "RGB")
        pixels = np.asarray(converted if fit is None else fit(converted))
    planes = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(planes)


class ImageFiles:
    """Image files or those in shards, decoded at access and fitted: items (channels, H, W) uint8.

    fit   how they get their size; None: as they are
    """

    def __init__(
        self, files: Sequence[str] | ShardImages, fit: Fit | None, channels: int = 3
    ) -> None:
        self.files, self.fit, self.channels = files, fit, channels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return decode(self.files[index], self.where(index), self.fit, self.channels)

    def where(self, index: int) -> str:
        """The name of an image in errors."""
        if isinstance(self.files, ShardImages):
            return self.files.where(index)
        return self.files[index]

    def headers(self) -> Iterator[tuple[str, tuple[int, int], str]]:
        """Name, (width, height) and Pillow's mode of each image of which they can be read."""
        for index in range(len(self)):
            where = self.where(index)
            try:
                with _opened(self.files[index], where) as picture:
                    header = where, picture.size, picture.mode
            except (UsageError, OSError):
                continue  # whoever asks for this image is told
            yield header


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
        try:
            self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        except (TypeError, ValueError) as error:
            raise UsageError(f"PictureSet: mean and std must be numbers: {error}") from error
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
