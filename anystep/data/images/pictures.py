"""Pictures: image files decoded when they are asked for, from folders or out of parquet shards."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._extras import need
from anystep.data.images.shards import ShardImages

MOST_OBLONG = (
    100  # a line of 60,000 pixels in a file of 140 bytes would take 12 GB at a height of 256
)


@dataclass(frozen=True)
class Fit:
    """The test transform of the papers (256 and 224): the shorter side to `resize` pixels
    (bilinear), then the centre `crop`.

    The longer side is int(resize * longer / shorter), as in torchvision.
    """

    resize: int = 256
    crop: int = 224

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.resize:
            raise UsageError(f"images: crop must be in 1..resize ({self.resize}), got {self.crop}")

    def decode(self, file: str | io.BytesIO, where: str) -> NDArray[np.uint8]:
        """The image in a file, (3, crop, crop); a grey one has three equal planes. Error: no whole
        image, by `where` it is.
        """
        pillow = need("PIL.Image", extra="images", purpose="reading image files")
        try:
            with pillow.open(file) as picture:
                return self._pixels(picture.convert("RGB"), pillow.Resampling.BILINEAR)
        except (
            OSError,
            SyntaxError,
            ValueError,
            pillow.DecompressionBombError,
        ) as error:  # SyntaxError: a broken PNG
            raise UsageError(f"{where} is not a whole image: {error}") from error

    def _pixels(self, picture: Any, filtered: Any) -> NDArray[np.uint8]:
        shorter = min(picture.size)
        if max(picture.size) > MOST_OBLONG * shorter:
            width, height = picture.size
            raise UsageError(
                f"it has {width} x {height} pixels: no side may be more than {MOST_OBLONG} times the other"
            )
        size = tuple(int(self.resize * side / shorter) for side in picture.size)
        if size != picture.size:
            picture = picture.resize(size, filtered)
        left, top = (round((side - self.crop) / 2) for side in size)
        pixels = np.asarray(picture.crop((left, top, left + self.crop, top + self.crop)))
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))


class ImageFiles:
    """Image files, decoded at access and fitted by `Fit`: items (3, crop, crop) uint8. Error: no
    whole image, by name.
    """

    def __init__(
        self, files: Sequence[str | os.PathLike[str]], *, resize: int = 256, crop: int = 224
    ) -> None:
        self.files = [os.fspath(file) for file in files]
        self.fit = Fit(resize, crop)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.fit.decode(self.files[index], self.files[index])


class ParquetPictures:
    """The images of parquet shards, as `ImageFiles` those of files. Error: no whole image, by shard
    and row.
    """

    def __init__(self, images: ShardImages, *, resize: int = 256, crop: int = 224) -> None:
        self.images = images
        self.fit = Fit(resize, crop)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.fit.decode(io.BytesIO(self.images[index]), self.images.where(index))
