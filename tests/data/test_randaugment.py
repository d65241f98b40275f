"""RandAugment: every operation beside Pillow's, and that images of a batch draw for themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from anystep.data.augmentation.augment import create_augmentation
from anystep.data.augmentation.randaugment import OPERATIONS, RandAugment

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
GROUND = (120, 110, 100)
M = 0.9  # strength 9 of 10


def pictures(count: int = 6, size: tuple[int, int] = (24, 20)) -> torch.Tensor:
    """Levels (count, 3, H, W): smooth, noisy, dull and one-coloured ones."""
    chance = np.random.default_rng(0)
    made = [
        chance.integers(0, 256, (3, *size)),
        chance.integers(90, 140, (3, *size)),
        np.full((3, *size), 77),
    ]
    ramp = np.add.outer(np.arange(size[0]) * 3, np.arange(size[1]) * 5)
    made += [np.stack([ramp, ramp[::-1], 200 - ramp]) for _ in range(count - 3)]
    return torch.from_numpy(np.stack(made)).clamp(0, 255).float()


def pillow(levels: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray(each.numpy().astype(np.uint8).transpose(1, 2, 0)) for each in levels]


def add(image: Image.Image, sign: int) -> Image.Image:
    return image.point([min(255, i + 99) if i < 128 else i for i in range(256)] * 3)


def moved(image: Image.Image, *numbers: float) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, numbers, Image.Resampling.BICUBIC, fillcolor=GROUND
    )


TRUE = {
    "autocontrast": lambda image, sign: ImageOps.autocontrast(image),
    "equalise": lambda image, sign: ImageOps.equalize(image),
    "invert": lambda image, sign: ImageOps.invert(image),
    "posterise": lambda image, sign: ImageOps.posterize(image, 1),
    "solarise": lambda image, sign: ImageOps.solarize(image, 26),
    "add": add,
    "colour": lambda image, sign: ImageEnhance.Color(image).enhance(1 + sign * 0.81),
    "contrast": lambda image, sign: ImageEnhance.Contrast(image).enhance(1 + sign * 0.81),
    "brightness": lambda image, sign: ImageEnhance.Brightness(image).enhance(1 + sign * 0.81),
    "sharpness": lambda image, sign: ImageEnhance.Sharpness(image).enhance(1 + sign * 0.81),
    "rotate": lambda image, sign: image.rotate(
        sign * 27, Image.Resampling.BICUBIC, fillcolor=GROUND
    ),
    "shear_x": lambda image, sign: moved(image, 1, sign * 0.27, 0, 0, 1, 0),
    "shear_y": lambda image, sign: moved(image, 1, 0, 0, sign * 0.27, 1, 0),
    "translate_x": lambda image, sign: moved(image, 1, 0, sign * 0.405 * 20, 0, 1, 0),
    "translate_y": lambda image, sign: moved(image, 1, 0, 0, 0, 1, sign * 0.405 * 24),
}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_pillows(name, sign):
    levels, ground = pictures(), torch.tensor(GROUND).float()
    made = OPERATIONS[name](levels, torch.full((len(levels),), sign * M), ground).clamp(0, 255)
    images = [np.asarray(TRUE[name](image, sign)).transpose(2, 0, 1) for image in pillow(levels)]
    apart = (made - torch.from_numpy(np.stack(images))).abs()
    assert float(apart.max()) <= 1
    assert (apart > 0).double().mean() < 0.01


def test_equal_images_of_a_batch_draw_their_own_operations_and_strengths():
    image = pictures()[0] / 255
    x = image.expand(1, 500, 3, 24, 20).expand(4, 500, 3, 24, 20)
    made, _ = RandAugment(layers=1, p=1.0, **PLAIN)(
        x, torch.zeros(500).long(), torch.Generator().manual_seed(0)
    )
    assert made.stride(0) == 0
    assert len(torch.unique((made[0] * 255).round().flatten(1), dim=0)) > 250


def test_a_quarter_of_the_images_stays_as_it_was_and_few_more():
    """Invert undoes itself, and auto-contrast has nothing to do here: 1/4 + 2 (1/4) (1/15) + (1/4)
    (2/15^2) = 0.286.
    """
    x = (pictures()[:1] / 255).expand(1, 2000, 3, 24, 20).contiguous()
    made, labels = RandAugment(**PLAIN)(x, torch.arange(2000), torch.Generator().manual_seed(0))
    same = int(((made - x).abs().amax((0, 2, 3, 4)) < 1e-6).sum())
    assert 510 < same < 640
    assert labels.equal(torch.arange(2000))
    still, _ = RandAugment(p=0.0, **PLAIN)(x, labels, torch.Generator().manual_seed(0))
    assert torch.allclose(still, x, atol=1e-6)


def test_the_same_seed_gives_the_same_bits_and_the_global_generator_is_left_alone():
    x, y, state = (pictures() / 255)[None], torch.zeros(6).long(), torch.get_rng_state()
    first, again, other = (
        RandAugment(**PLAIN)(x, y, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2)
    )
    assert first.equal(again)
    assert not first.equal(other)
    assert x.equal((pictures() / 255)[None])
    assert torch.get_rng_state().equal(state)


def test_what_comes_in_from_outside_has_the_colour_that_is_asked_for_or_the_mean():
    black = torch.zeros(1, 200, 3, 8, 8)
    for options, grey in (({}, 0.6), ({"fill": (0.2, 0.2, 0.2)}, 0.2)):
        augment = RandAugment((0.6,) * 3, (1.0,) * 3, layers=1, p=1.0, **options)
        made, _ = augment(black - 0.6, torch.arange(200), torch.Generator().manual_seed(0))
        levels = (255 * (made[0] + 0.6)).round()
        partly = (levels.amin((1, 2, 3)) == 0) & (levels.amax((1, 2, 3)) > 0)  # a move, no other
        assert partly.any()
        assert set(levels[partly].unique().tolist()) == {0.0, round(255 * grey)}


def test_normalised_images_come_back_normalised():
    numbers = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in numbers.values())
    x, y = (pictures() / 255)[None], torch.zeros(6).long()
    augment = create_augmentation([{"name": "randaugment", "p": 1.0}], classes=2, **numbers)
    made, _ = augment((x - mean) / std, y, torch.Generator().manual_seed(1))
    levels = 255 * (made * std + mean)
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert -1e-3 <= float(levels.min()) <= float(levels.max()) <= 255.001
