from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from anystep.data.frames import resize

CHANCE = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(3, 2, 128, 128), (1, 2, 34, 20), (2, 1, 5, 1)])
@pytest.mark.parametrize("size", [1, 2, 7, 48, 130])
def test_both_interpolations_are_those_of_torch(shape, size):
    frames = CHANCE.integers(0, 60_000, shape).astype(np.uint16)
    tensor = torch.as_tensor(frames.astype(np.float32))
    assert np.array_equal(
        resize(frames, size, "nearest"), interpolate(tensor, (size, size), mode="nearest").numpy()
    )
    expected = interpolate(
        tensor.double(), (size, size), mode="bilinear", align_corners=True
    ).numpy()
    assert np.allclose(resize(frames, size, "bilinear"), expected, rtol=1e-5, atol=0.1)


def test_two_pixels_become_three_by_hand():
    frame = np.array([[[0, 4], [8, 12]]], dtype=np.uint8)
    assert resize(frame, 3, "bilinear").tolist() == [[[0, 2, 4], [4, 6, 8], [8, 10, 12]]]
    assert resize(frame, 3, "nearest").tolist() == [[[0, 0, 4], [0, 0, 4], [8, 8, 12]]]


def test_the_size_that_frames_have_changes_nothing():
    frames = CHANCE.integers(0, 255, (2, 2, 9, 9)).astype(np.uint8)
    for interpolation, dtype in (("nearest", np.uint8), ("bilinear", np.float32)):
        same = resize(frames, 9, interpolation)
        assert same.dtype == dtype
        assert np.array_equal(same, frames)


@pytest.mark.parametrize(
    ("frames", "size", "interpolation", "message"),
    [
        (np.zeros((2, 4, 4)), 0, "nearest", "size must be a whole number >= 1, got 0"),
        (np.zeros((2, 4, 4)), 2.0, "nearest", "size must be a whole number >= 1, got 2.0"),
        (np.zeros((2, 4, 4)), True, "nearest", "size must be a whole number >= 1, got True"),
        (
            np.zeros((2, 4, 4)),
            2,
            "linear",
            "unknown interpolation 'linear'. Did you mean 'bilinear'",
        ),
        (np.zeros((2, 4, 0)), 2, "nearest", r"frames must be \(..., H, W\)"),
        (np.zeros(4), 2, "nearest", r"frames must be \(..., H, W\)"),
    ],
)
def test_what_cannot_be_resized_is_refused_by_name(frames, size, interpolation, message):
    with pytest.raises(ValueError, match=message):
        resize(frames, size, interpolation)
