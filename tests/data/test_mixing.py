"""Augmentations that mix two samples: pictures say whose they are, and labels must say the same."""

from __future__ import annotations

import pytest
import torch

from anystep.data.augmentation.augment import create_augmentation
from anystep.data.augmentation.mixing import CutMix, EventMix, Mixup

CLASSES = 4


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def counts(n: int = 16, steps: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames of counts and labels."""
    x = torch.randint(0, 50, (steps, n, 2, 12, 10), generator=seeded()).float()
    return x, torch.arange(n) % CLASSES


def test_mixup_is_the_same_mean_of_pictures_and_of_labels():
    n = 50  # a picture says which sample it is
    x = torch.eye(n).view(1, n, 1, n, 1).expand(2, n, 1, n, 1).contiguous()
    made, labels = Mixup(n, alpha=0.4)(x, torch.arange(n), seeded())
    assert torch.allclose(made[0, :, 0, :, 0], labels, atol=1e-6)
    assert torch.allclose(labels.sum(1), torch.ones(n))
    assert ((labels > 0).sum(1) <= 2).all()
    assert int(((labels > 0.001) & (labels < 0.999)).any(1).sum()) > 30


def test_cutmix_labels_are_shares_of_the_area_and_its_part_is_a_box():
    n = 60
    x = torch.arange(1.0, n + 1).view(1, n, 1, 1, 1).expand(2, n, 1, 20, 16).contiguous()
    made, labels = CutMix(n)(x, torch.arange(n), seeded())
    for k in range(n):
        shares = [(made[0, k] == value + 1).double().mean() for value in range(n)]
        assert torch.allclose(labels[k], torch.tensor(shares).float(), atol=1e-6)
        hole = (made[0, k, 0] != k + 1).numpy()
        assert hole.sum() == hole.any(0).sum() * hole.any(1).sum()
    assert int((labels.max(1).values < 0.99).sum()) > 20


def test_event_mix_takes_each_voxel_from_one_of_two_and_weighs_labels_by_events():
    n, (x, _) = 24, counts(n=24, steps=5)
    marked = x + 1 + 100 * torch.arange(n).view(1, n, 1, 1, 1)  # a value says whose it is
    made, labels = EventMix(n, p=1.0)(marked, torch.arange(n), seeded())
    owner = (made - 1).div(100, rounding_mode="floor").long()
    for k in range(n):
        others = set(owner[:, k].flatten().tolist()) - {k}
        assert len(others) <= 1
        inside = owner[:, k] != k
        assert inside[:, 0].equal(inside[:, 1])
        if others:
            (other,) = others
            assert made[:, k][inside].equal(marked[:, other][inside])
            own = float(marked[:, k][inside].double().sum() / marked[:, k].double().sum())
            its = float(marked[:, other][inside].double().sum() / marked[:, other].double().sum())
            assert float(labels[k, other]) == pytest.approx(its / (1 - own + its), abs=1e-6)
            assert float(labels[k].sum()) == pytest.approx(1, abs=1e-6)


def test_event_mix_never_leaves_a_recording_empty():
    x = torch.zeros(6, 40, 2, 8, 8)
    x[0, :, 0, 0, 0] = 1
    x[:, 1:, 1, 5, 5] = 2
    x[1:, 0] = 0
    for seed in range(20):
        made, labels = EventMix(CLASSES, p=1.0)(x, torch.arange(40) % CLASSES, seeded(seed))
        assert (made.sum((0, 2, 3, 4)) > 0).all()
        assert torch.isfinite(labels).all()


def test_the_blob_of_event_mix_has_the_share_that_was_drawn():
    x, _ = counts(n=5, steps=4)
    share = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    blob = EventMix(CLASSES).blob(x, share, seeded())
    found = blob.flatten(1).sum(1).tolist()
    assert (found[0], found[-1]) == (0, 480)
    wanted = zip(found, [0, 48, 240, 432, 480], strict=True)
    assert all(least <= each <= least + 16 for each, least in wanted)


def test_mixed_labels_can_be_mixed_again():
    x, y = counts()
    made = create_augmentation(["mixup", "cutmix"], classes=CLASSES)(x, y, seeded())[1]
    assert torch.allclose(made.sum(1), torch.ones(16))
