"""What the data wing refuses, and a word that the message must have."""

from __future__ import annotations

import pytest
import torch

from anystep.data.augmentation.augment import EventDrop, create_augmentation
from anystep.data.augmentation.mixing import Mixup
from anystep.data.augmentation.randaugment import RandAugment
from anystep.data.augmentation.warps import Flip
from anystep.data.readers import gesture_segments

AUGMENT_ROWS = [
    ("flip", "must be a list of names or mappings, got 'flip'"),
    (["flop"], "unknown augmentation 'flop'. Did you mean 'flip'"),
    ([{"pixels": 3}], "a row must be a name or a mapping with a name"),
    ([3], "a row must be a name or a mapping with a name, got 3"),
    ([{"name": "roll", "pixel": 3}], "unknown argument 'pixel' .* Did you mean 'pixels'"),
    ([{"name": "roll", "pixels": 1.5}], "augment roll: pixels must be int, got 1.5"),
    ([{"name": "roll", "pixels": -1}], "roll: pixels must be >= 0, got -1"),
    ([{"name": "flip", "p": 1.5}], r"flip: p must be in 0\.\.1, got 1.5"),
    ([{"name": "rotate", "degrees": 200}], r"rotate: degrees must be in 0\.\.180, got 200"),
    ([{"name": "shear", "degrees": 90}], r"shear: degrees must be in 0\.\.90, got 90"),
    ([{"name": "erase", "smallest": 0.5}], r"erase: smallest must be in 0\.\.largest"),
    ([{"name": "resized_crop", "scale": 0}], "resized_crop: scale must be in .*, got 0"),
    ([{"name": "mixup", "alpha": 0}], "mixup: alpha must be > 0, got 0"),
    ([{"name": "mixup", "classes": 3}], "augment mixup: classes comes from the data set"),
    ([{"name": "one_of", "choices": []}], "one_of: choices must be at least one"),
    ([{"name": "one_of"}], "augment one_of: choices is required"),
    ([{"name": "one_of", "choices": "flip"}], "choices must be a list of rows, got 'flip'"),
    ([{"name": "one_of", "choices": ["mixup"]}], "one_of: mixup makes soft labels"),
    (["randaugment"], "augment randaugment: it needs the .* of the data set's images"),
]


@pytest.mark.parametrize(("rows", "word"), AUGMENT_ROWS)
def test_a_row_of_augment(rows, word):
    with pytest.raises(ValueError, match=word):
        create_augmentation(rows, classes=10)


PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
ONE = torch.zeros(1).long()
BATCHES = [
    (Flip(), torch.zeros(1, 2, 4, 4), ONE, r"flip: x must be \(T, N, P, H, W\)"),
    (Flip(), torch.zeros(2, 3, 1, 4, 4), ONE, r"flip: x must be .* got .* and \(1,\)"),
    (Flip(), torch.zeros(2, 1, 1, 4, 4).byte(), ONE, "flip: x must be of floating point"),
    (EventDrop(), torch.full((2, 1, 2, 4, 4), 0.5), ONE, "event_drop: .* whole counts"),
    (EventDrop(), torch.full((2, 1, 2, 4, 4), -1.0), ONE, "event_drop: .* whole counts"),
    (Mixup(4), torch.zeros(2, 1, 2, 4, 4), torch.ones(1, 3), r"labels must be .* got \(1, 3\)"),
    (RandAugment(**PLAIN), torch.full((1, 1, 3, 8, 8), 9.0), ONE, "mean and std must be those"),
    (RandAugment(**PLAIN), torch.rand(4, 1, 3, 8, 8), ONE, "randaugment is for colour images"),
    (RandAugment(**PLAIN), torch.rand(1, 1, 2, 8, 8), ONE, "randaugment is for colour images"),
]


@pytest.mark.parametrize(("augment", "x", "y", "word"), BATCHES)
def test_a_batch_that_an_augmentation_cannot_take(augment, x, y, word):
    with pytest.raises(ValueError, match=word):
        augment(x, y, torch.Generator())


HEAD = "class,startTime_usec,endTime_usec\n"
GESTURES = [
    ("", "is empty"),
    ("1,2,3\n", "first line must be class,startTime_usec,endTime_usec"),
    (HEAD, "holds no gestures"),
    (HEAD + "1,2\n", "line 2 must be three whole numbers"),
    (HEAD + "\n1,-2,4\n", "line 3 must be three whole numbers"),
    (HEAD + "12,2,4\n", r"class must be in 1\.\.11, got 12"),
    (HEAD + "3,4,4\n", "the end 4 must be after the start 4"),
]


@pytest.mark.parametrize(("text", "word"), GESTURES)
def test_a_table_of_gestures(text, word, tmp_path):
    path = tmp_path / "g_labels.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"g_labels.csv: .*{word}"):
        gesture_segments(path)
