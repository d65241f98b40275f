"""Augmentations: laws that all rows keep, and each beside an independent way to say it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anystep.data.augmentation.augment import (
    AUGMENTS,
    NDA,
    Cutout,
    Erase,
    EventDrop,
    OneOf,
    create_augmentation,
)
from anystep.data.augmentation.mixing import CutMix, EventMix, Mixup
from anystep.data.augmentation.warps import (
    Crop,
    Flip,
    ResizedCrop,
    Roll,
    Rotate,
    Shear,
    rolled,
    rotated,
    sheared,
)

CLASSES = 4
ROWS = {name: {"name": name} for name in AUGMENTS} | {
    "one_of": {"name": "one_of", "choices": ["flip", {"name": "roll", "pixels": 2}, "cutout"]},
    "cutout": {"name": "cutout", "size": 4},
    "event_mix": {"name": "event_mix", "p": 1.0},
}
BY_STEP = {"event_drop", "event_mix"}
SOFT = {"mixup", "cutmix", "event_mix"}
MOVING = ["flip", "roll", "crop", "rotate", "shear", "nda", "one_of", "cutout"]
GENERAL = sorted(set(AUGMENTS) - {"randaugment"})  # for colour images alone: a file of its own


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def counts(
    n: int = 16, steps: int = 3, size: tuple[int, int] = (12, 10), seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames of counts that differ from pixel to pixel, and labels."""
    x = torch.randint(0, 50, (steps, n, 2, *size), generator=seeded(seed)).float()
    return x, torch.arange(n) % CLASSES


def row(name: str):
    return create_augmentation([ROWS[name]], classes=CLASSES)


@pytest.mark.parametrize("name", GENERAL)
def test_a_seed_decides_all_and_arguments_and_the_global_generator_are_left_alone(name):
    x, y = counts()
    before, state = (x.clone(), y.clone()), torch.get_rng_state()
    first, again, other = (row(name)(x, y, seeded(seed)) for seed in (1, 1, 2))
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    made, labels = first
    assert not made.equal(other[0])
    assert (made.shape, made.dtype) == (x.shape, x.dtype)
    assert labels.shape == ((len(y), CLASSES) if name in SOFT else y.shape)
    assert x.equal(before[0])
    assert y.equal(before[1])
    assert torch.get_rng_state().equal(state)
    assert row(name).soft_labels is (name in SOFT)


@pytest.mark.parametrize("name", sorted(set(GENERAL) - BY_STEP))
def test_a_static_batch_stays_static_and_is_what_the_repeated_frames_would_give(name):
    x, y = counts(steps=1)
    still = x.expand(4, *x.shape[1:])
    made, _ = row(name)(still, y, seeded(3))
    slow, _ = row(name)(still.contiguous(), y, seeded(3))
    assert made.stride(0) == 0
    assert torch.allclose(made, slow, atol=1e-6)


@pytest.mark.parametrize("each", [EventDrop(), EventMix(CLASSES), OneOf((EventDrop(), Flip()))])
def test_what_treats_frames_differently_refuses_a_static_batch_by_name(each):
    x, y = counts(steps=1)
    with pytest.raises(ValueError, match=f"{each.name} treats the frames of a sample differently"):
        each(x.expand(4, *x.shape[1:]), y, seeded())


@pytest.mark.parametrize("name", MOVING)
def test_whole_counts_stay_whole_and_none_is_invented(name):
    x, y = counts()
    made, _ = row(name)(x, y, seeded(5))
    for n in range(len(y)):
        for t in range(len(x)):
            assert set(made[t, n].flatten().tolist()) <= {0.0, *x[t, n].flatten().tolist()}


@pytest.mark.parametrize("name", sorted(set(GENERAL) - BY_STEP - {"mixup"}))
def test_every_frame_of_a_sample_gets_the_same_and_samples_get_their_own(name):
    one = torch.arange(1, 121.0).view(1, 1, 1, 12, 10)
    x = one.expand(3, 32, 2, 12, 10).contiguous() + torch.tensor([0.0, 200.0]).view(1, 1, 2, 1, 1)
    made, _ = row(name)(x, torch.arange(32) % CLASSES, seeded())
    assert made[0].equal(made[2])
    if name != "cutmix":  # mixing equal pictures changes nothing
        assert len(torch.unique(made[0].flatten(1), dim=0)) >= (2 if name == "flip" else 5)


@pytest.mark.parametrize(
    "still",
    [
        *(Flip(p=0), Roll(0), Crop(0), Rotate(0), Shear(0), Cutout(0), Erase(p=0)),
        *(Mixup(CLASSES, p=0), CutMix(CLASSES, p=0), EventMix(CLASSES, p=0)),
        *(ResizedCrop(scale=1, ratio=1), OneOf((Roll(0), Rotate(0)))),
    ],
    ids=lambda each: each.name,
)
def test_no_strength_is_no_change(still):
    x, y = counts()
    made, labels = still(x, y, seeded())
    assert torch.allclose(made, x, atol=1e-4)
    assert (labels.argmax(1) if labels.dim() == 2 else labels).equal(y)


def test_moves_are_those_of_numpy():
    x, y = counts(n=30)
    assert Flip(p=1)(x, y, seeded())[0].equal(torch.from_numpy(x.numpy()[..., ::-1].copy()))
    down, right = torch.tensor([0, 3, -5, 12]), torch.tensor([1, -4, 0, 7])
    made = rolled(x[:, :4], down, right).numpy()
    for n in range(4):
        moved = np.roll(x[:, n].numpy(), (int(down[n]), int(right[n])), axis=(-2, -1))
        assert np.array_equal(made[:, n], moved)
    made, _ = Crop(padding=3, fill=-1.0)(x, y, seeded())
    padded = np.pad(x.numpy(), [(0, 0)] * 3 + [(3, 3)] * 2, constant_values=-1)
    for n in range(30):
        windows = [padded[:, n, :, i : i + 12, j : j + 10] for i in range(7) for j in range(7)]
        assert sum(np.array_equal(made[:, n].numpy(), window) for window in windows) == 1


def test_half_are_flipped_and_roll_and_crop_reach_every_place_in_their_range_and_none_beyond():
    x = torch.zeros(1, 3000, 1, 9, 9)
    x[..., 4, 4] = x[..., 0] = 1
    made, _ = Flip()(x, torch.zeros(3000).long(), seeded())
    assert 1380 < int(made[..., 0, 8].sum()) < 1620
    x[..., 0] = 0
    for augment in (Roll(2), Crop(2)):
        made = augment(x, torch.zeros(3000).long(), seeded())[0].sum((0, 1, 2))
        assert (made[2:7, 2:7] > 60).all()
        assert made[2:7, 2:7].sum() == made.sum() == 3000


@pytest.mark.parametrize("size", [(8, 8), (7, 7)])
@pytest.mark.parametrize("turns", [-1, 0, 1, 2, 3])
def test_quarter_turns_are_those_of_numpy(size, turns):
    x, _ = counts(n=2, size=size)
    made = rotated(x, torch.full((2,), 90.0 * turns))
    assert np.array_equal(made.numpy(), np.rot90(x.numpy(), turns, axes=(-2, -1)))
    assert rotated(made, torch.full((2,), -90.0 * turns)).equal(x)


@pytest.mark.parametrize("degrees", [-31.0, 7.0, 15.0, 44.0])
def test_a_rotation_is_that_of_scipy_and_of_pillow(degrees):
    from PIL import Image
    from scipy.ndimage import rotate

    x = np.arange(1, 1 + 31 * 31, dtype=np.float32).reshape(31, 31)
    made = rotated(torch.from_numpy(x)[None, None, None], torch.tensor([degrees]))[0, 0, 0].numpy()
    scipy = rotate(x, degrees, reshape=False, order=0, cval=0)
    pillow = np.asarray(Image.fromarray(x).rotate(degrees, Image.Resampling.NEAREST))
    # At the border scipy and Pillow differ from one another in what is outside.
    inner = (slice(6, -6), slice(6, -6))
    for theirs in (scipy, pillow):
        assert (made[inner] == theirs[inner]).mean() > 0.99


def test_a_shear_moves_every_row_by_its_distance_from_the_middle():
    x, y = counts(n=2, size=(9, 11))
    made = sheared(x, torch.tensor([45.0, -45.0]))
    for i in range(9):
        for n, sign in ((0, 1), (1, -1)):
            move = sign * (i - 4)
            for j in range(11):
                seen = x[:, n, :, i, j + move] if 0 <= j + move < 11 else torch.zeros(3, 2)
                assert made[:, n, :, i, j].equal(seen)
    turned, _ = Shear(30)(x, y, seeded())
    assert turned[..., 4, :].equal(x[..., 4, :])


def box_of(hole: np.ndarray) -> tuple[int, int, int, int]:
    """First row, rows, first column and columns of what is True, which must be a box."""
    rows, columns = (np.flatnonzero(hole.any(axis)) for axis in (1, 0))
    assert hole.sum() == len(rows) * len(columns)
    return int(rows[0]), len(rows), int(columns[0]), len(columns)


def test_cutout_blanks_a_square_about_any_pixel_and_cuts_it_at_the_border():
    x = torch.ones(2, 4000, 1, 12, 10)
    made, _ = Cutout(4)(x, torch.zeros(4000).long(), seeded())
    found = {box_of(hole) for hole in (made[0, :, 0] == 0).numpy()}
    assert all(2 <= tall <= 4 and 2 <= wide <= 4 for _, tall, _, wide in found)
    assert len(found) == 12 * 10


def test_erase_puts_noise_into_a_box_of_a_quarter_of_the_samples():
    x = torch.full((1, 4000, 3, 32, 32), 7.0)
    made, _ = Erase()(x, torch.zeros(4000).long(), seeded())
    changed = (made != x)[0]
    assert changed.all(1).equal(changed.any(1))
    some = changed[:, 0].flatten(1).any(1)
    assert 900 < int(some.sum()) < 1100
    areas, values = changed[some, 0].double().mean((1, 2)), made[0][changed]
    assert float(areas.min()) > 0.01
    assert float(areas.max()) < 0.36
    assert abs(float(areas.mean()) - (0.02 + 1 / 3) / 2) < 0.02
    assert abs(float(values.mean())) < 0.01
    assert abs(float(values.std()) - 1) < 0.01
    for hole in changed[some, 0][:50].numpy():
        box_of(hole)


def test_a_resized_crop_of_a_ramp_is_a_ramp_between_two_of_its_values():
    ramp = torch.arange(16.0).expand(1, 200, 1, 16, 16)
    made = ResizedCrop()(ramp, torch.zeros(200).long(), seeded())[0][0, :, 0]
    assert float(made.min()) >= 0
    assert float(made.max()) <= 15
    slopes = (made[:, :, 9] - made[:, :, 6]).mean(1) / 3
    assert 0.2 < float(slopes.min()) < 0.5
    assert 0.9 < float(slopes.max()) <= 1.0001
    assert (made[:, 0] == made[:, 15]).all()
    half = torch.nn.functional.interpolate(ramp[0, :1, :, 4:12, 4:12], size=16, mode="bilinear")
    assert torch.allclose(half[0, 0, :, 1:-1], 4 - 0.25 + torch.arange(16)[1:-1] / 2)


def test_one_of_gives_each_choice_its_share_and_nda_flips_half():
    x, y = counts(n=1500, steps=1, size=(6, 6))
    made, _ = OneOf((Flip(p=1), Roll(0), Cutout(100, fill=-1.0)))(x, y, seeded())
    flipped = sum(made[:, n].equal(x[:, n].flip(-1)) for n in range(1500))
    same = sum(made[:, n].equal(x[:, n]) for n in range(1500))
    assert 430 < flipped < 570
    assert 430 < same < 570
    assert int((made == -1).all((0, 2, 3, 4)).sum()) == 1500 - flipped - same
    still, _ = NDA(pixels=0, rotate=0, shear=0)(x, y, seeded())
    assert 680 < sum(still[:, n].equal(x[:, n].flip(-1)) for n in range(1500)) < 820


def test_event_drop_only_drops_and_never_everything():
    x, y = counts(n=400, steps=10)
    made, labels = EventDrop()(x, y, seeded())
    assert labels.equal(y)
    assert (made <= x).all()
    assert made.equal(made.round())
    one = torch.zeros(10, 200, 2, 8, 8)
    one[5, :, 1, 4, 4] = 1
    assert EventDrop()(one, torch.zeros(200).long(), seeded())[0].equal(one)
    same = sum(made[:, n].equal(x[:, n]) for n in range(400))
    assert 80 < same < 180  # a quarter, and stretches and rectangles that miss
    lost = (made == 0) & (x > 0)
    by_frame = lost.sum((2, 3, 4)).double() / (x > 0).sum((2, 3, 4))
    whole = (by_frame == 1).any(0)
    assert 50 < int(whole.sum()) < 130
    for n in torch.nonzero(whole)[:, 0].tolist():
        gone = torch.nonzero(by_frame[:, n] == 1)[:, 0]
        assert int(gone[-1] - gone[0]) == len(gone) - 1
        assert made[by_frame[:, n] == 0, n].equal(x[by_frame[:, n] == 0, n])


def test_event_drop_has_its_four_ways_and_their_shares():
    x = torch.full((10, 2000, 1, 20, 40), 100.0)
    made, _ = EventDrop()(x, torch.zeros(2000).long(), seeded())
    kept = made.sum((0, 2, 3, 4)) / x.sum((0, 2, 3, 4))
    thinned = ((made > 0) & (made < 100)).flatten(3).any(3).any(0).any(1)
    shares = (10 * kept[thinned]).round() / 10
    assert torch.allclose(kept[thinned], shares, atol=0.005)
    assert torch.bincount((10 * shares).long(), minlength=10)[1:].min() > 25
    in_space = ~thinned & (made[0] == 0).flatten(1).any(1) & (made[0] > 0).flatten(1).any(1)
    sizes = {box_of(hole)[1::2] for hole in (made[0, in_space, 0] == 0).numpy()}
    assert {(1, 2), (2, 4), (3, 6), (4, 8), (5, 10)} <= sizes
    assert (max(tall for tall, _ in sizes), max(wide for _, wide in sizes)) == (5, 10)
    assert [430 < int(each.sum()) < 570 for each in (thinned, in_space)] == [True, True]


def test_a_list_of_rows_is_applied_in_order_with_one_generator():
    x, y = counts()
    rows = ["flip", {"name": "roll", "pixels": 3}, {"name": "cutout", "size": 4}]
    chance = seeded(9)
    expected = Cutout(4)(*Roll(3)(*Flip()(x, y, chance), chance), chance)
    made = create_augmentation(rows, classes=CLASSES)(x, y, seeded(9))
    assert made[0].equal(expected[0])
    assert create_augmentation([], classes=CLASSES)(x, y, seeded())[0] is x
