"""RandAugment in torch, every image with draws of its own, on 8-bit levels as Pillow has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from anystep._errors import UsageError
from anystep.data.augmentation.warps import Augment, Batch, integers, uniform

# levels (M, 3, H, W), strength (M,), fill (3,) -> levels
Operation = Callable[[Tensor, Tensor, Tensor], Tensor]


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _autocontrast(levels: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
    """The darkest level of every colour to 0, the brightest to 255."""
    low = levels.amin((2, 3), keepdim=True).double()
    high = levels.amax((2, 3), keepdim=True).double()
    scale = 255 / (high - low).clamp(min=1)
    return torch.where(high > low, (levels * scale - low * scale).floor().to(levels), levels)


def _equalise(levels: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
    """Levels spread so that each is as frequent, colour by colour: Pillow's whole-number table."""
    flat = levels.flatten(2).long()
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.long, device=levels.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    brightest = counts.gather(2, flat.amax(2, keepdim=True))
    step = (flat.shape[2] - brightest) // 255
    table = ((step // 2 + counts.cumsum(2) - counts) // step.clamp(min=1)).clamp(max=255)
    spread = table.gather(2, flat).view(levels.shape).to(levels)
    return torch.where(step.unsqueeze(-1) > 0, spread, levels)


def _posterise(levels: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
    """The first 4 - int(4 m / 10) of 8 bits stay."""
    lost = _each(2.0 ** (4 + (4 * strength.abs()).floor()))
    return (levels / lost).floor() * lost


def _solarise(levels: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
    """Levels from 256 - int(256 m / 10) on are inverted."""
    return torch.where(levels < _each(256 - (256 * strength.abs()).floor()), levels, 255 - levels)


def _add(levels: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
    """int(110 m / 10) more for levels below 128."""
    return torch.where(levels < 128, levels + _each((110 * strength.abs()).floor()), levels)


def _grey(levels: Tensor) -> Tensor:
    """(M, 1, H, W): ITU-R 601 luma in Pillow's whole numbers."""
    weights = torch.tensor([19595, 38470, 7471], device=levels.device).view(3, 1, 1)
    luma = ((levels.long() * weights).sum(1, keepdim=True) + 32768) // 65536
    return luma.to(levels)


def _away(levels: Tensor, from_: Tensor, strength: Tensor) -> Tensor:
    """1 + 0.9 strength times as far from `from_`, at least a tenth; fractions are cut off."""
    factor = _each((1 + 0.9 * strength).clamp(min=0.1))
    return (from_ + factor * (levels - from_)).clamp(0, 255).floor()


def _contrast(levels: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
    """Away from the mean grey, rounded."""
    mean = _grey(levels).double().mean((1, 2, 3), keepdim=True)
    return _away(levels, (mean + 0.5).floor().to(levels), strength)


def _sharpness(levels: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
    """Away from a mean of 3 x 3 pixels in which the middle counts 5; pixels at the border stay."""
    kernel = torch.ones(1, 1, 3, 3, dtype=levels.dtype, device=levels.device)
    kernel[..., 1, 1] = 5
    smooth = levels.clone()
    inner = F.conv2d(levels.flatten(0, 1).unsqueeze(1), kernel)
    smooth[..., 1:-1, 1:-1] = (inner / 13 + 0.5).floor().view_as(smooth[..., 1:-1, 1:-1])
    return _away(levels, smooth, strength)


def _cubic(values: Sequence[Tensor], part: Tensor) -> Tensor:
    """Between the middle two of four values, `part` of the way: Keys 1981 with a = -1, as Pillow's
    transforms have it (torch's grid_sample has -0.75).
    """
    p, q, r, s = values
    return q + part * (r - p + part * (2 * (p - q) + r - s + part * (q - p + s - r)))


def _affine(levels: Tensor, rows: Sequence[Sequence[Tensor | float]], fill: Tensor) -> Tensor:
    """Pixel (u, v) shows (a u + b v + c, d u + e v + f); `rows` is ((a, b, c), (d, e, f)), pixel
    centres lie at 1/2. Bicubic as in Pillow: a place outside of the image shows `fill`, and one at
    its border sees the border's pixels repeated.
    """
    height, width = levels.shape[-2:]
    count = torch.zeros(len(levels), dtype=torch.float64, device=levels.device)
    u = torch.arange(width, device=count.device) + 0.5
    v = (torch.arange(height, device=count.device) + 0.5).view(-1, 1)
    turned = [[(count + each).view(-1, 1, 1) for each in row] for row in rows]
    x, y = (a * u + b * v + c for a, b, c in turned)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    left, top = (x - 0.5).floor(), (y - 0.5).floor()
    columns = [(left + k).clamp(0, width - 1).long() for k in range(-1, 3)]
    pixels, lines = levels.double().flatten(2), []
    for k in range(-1, 3):
        start = (top + k).clamp(0, height - 1).long() * width
        places = [(start + column).flatten(1)[:, None].expand(-1, 3, -1) for column in columns]
        found = [pixels.gather(2, place).view(levels.shape) for place in places]
        lines.append(_cubic(found, (x - 0.5 - left)[:, None]))
    made = _cubic(lines, (y - 0.5 - top)[:, None]).floor().to(levels)
    return torch.where(inside[:, None], made, fill.view(3, 1, 1))


def _rotate(levels: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
    angle = torch.deg2rad(30 * strength.double())
    cos, sin = angle.cos(), angle.sin()
    middle = levels.shape[-1] / 2, levels.shape[-2] / 2
    right = middle[0] - cos * middle[0] + sin * middle[1]
    down = middle[1] - sin * middle[0] - cos * middle[1]
    return _affine(levels, ((cos, -sin, right), (sin, cos, down)), fill)


OPERATIONS: dict[str, Operation] = {
    "autocontrast": _autocontrast,
    "equalise": _equalise,
    "invert": lambda levels, m, fill: 255 - levels,
    "rotate": _rotate,
    "posterise": _posterise,
    "solarise": _solarise,
    "add": _add,
    "colour": lambda levels, m, fill: _away(levels, _grey(levels), m),
    "contrast": _contrast,
    "brightness": lambda levels, m, fill: _away(levels, torch.zeros_like(levels), m),
    "sharpness": _sharpness,
    "shear_x": lambda levels, m, fill: _affine(levels, ((1, 0.3 * m, 0), (0, 1, 0)), fill),
    "shear_y": lambda levels, m, fill: _affine(levels, ((1, 0, 0), (0.3 * m, 1, 0)), fill),
    "translate_x": lambda levels, m, fill: _affine(
        levels, ((1, 0, 0.45 * levels.shape[-1] * m), (0, 1, 0)), fill
    ),
    "translate_y": lambda levels, m, fill: _affine(
        levels, ((1, 0, 0), (0, 1, 0.45 * levels.shape[-2] * m)), fill
    ),
}


@dataclass(frozen=True)
class RandAugment(Augment):
    """`layers` times one of 15 operations, each done with probability p. Cubuk et al. 2020.

    The operations, their ranges and p = 1/2 are those of timm's `rand-m9-mstd0.5-inc1`, which TKS
    uses on CIFAR: strength m from N(magnitude, spread) cut to 0..10; m/10 of 30 degrees of
    rotation, 0.3 of shear, 0.45 of the side of translation, 0.9 of change in colour, contrast,
    brightness or sharpness (each up or down), 4 bits of posterising, 256 levels of solarising, 110
    levels of adding below the middle; auto-contrast, equalise and invert have no strength. Moves
    are bicubic, which is what TKS's code asks of timm (unasked, timm draws bilinear or bicubic).

    mean, std   with which the images were normalised: levels are 255 (std x + mean), rounded. Comes
    before `erase`.
    fill        the colour that comes in from outside, in 0..1; None: `mean`, as in timm. TKS's code
    names no mean, so that there it is ImageNet's.
    """

    name: ClassVar[str] = "randaugment"
    mean: Sequence[float]
    std: Sequence[float]
    layers: int = 2
    magnitude: float = 9.0
    spread: float = 0.5
    p: float = 0.5
    fill: Sequence[float] | None = None

    def __post_init__(self) -> None:
        self.chance()
        self.need(self.layers >= 1, "layers", ">= 1")
        self.need(0 <= self.magnitude <= 10, "magnitude", "in 0..10")
        self.need(self.spread >= 0, "spread", ">= 0")
        if self.fill is None:
            object.__setattr__(self, "fill", self.mean)
        for field in ("mean", "std", "fill"):
            try:
                colours = tuple(float(each) for each in getattr(self, field))
            except (TypeError, ValueError):
                colours = ()
            self.need(len(colours) == 3, field, "three numbers, one a colour")
            object.__setattr__(self, field, colours)

    def _apply(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        if len(x) != 1 or x.shape[2] != 3:
            rule = "randaugment is for colour images, the same at every step"
            raise UsageError(f"{rule}, got frames {tuple(x.shape)}")
        mean, std, fill = (
            torch.tensor(each, dtype=x.dtype, device=x.device).view(3, 1, 1)
            for each in (self.mean, self.std, self.fill)
        )
        levels = (255 * (x[0] * std + mean)).round()
        low, high = float(levels.min()), float(levels.max())
        if low < 0 or high > 255:
            rule = "mean and std must be those that the images were normalised with"
            raise UsageError(f"randaugment: {rule}, levels are {low:g}..{high:g}")
        fill = (255 * fill.view(3)).round()
        for _ in range(self.layers):
            levels = self._layer(levels, fill, generator)
        return ((levels / 255 - mean) / std)[None], y

    def _layer(self, levels: Tensor, fill: Tensor, generator: torch.Generator) -> Tensor:
        n = len(levels)
        kind = integers(n, 0, len(OPERATIONS) - 1, generator)
        chosen = uniform(n, 0, 1, generator) < self.p
        normal = torch.randn(n, generator=generator, dtype=torch.float64)
        drawn = normal * self.spread + self.magnitude
        signed = drawn.clamp(0, 10) / 10 * (2 * integers(n, 0, 1, generator) - 1)
        made = levels.clone()
        for number, operation in enumerate(OPERATIONS.values()):
            members = torch.nonzero(chosen & (kind == number))[:, 0]
            if len(members):
                here = members.to(levels.device)
                made[here] = operation(levels[here], signed[members].to(levels), fill).clamp(0, 255)
        return made
