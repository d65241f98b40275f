"""The contact sheet: a picture of each class, in its own colours, with its name."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from anystep.data.recording import Events
from anystep.evaluation.figures import contact_sheet as sheets
from anystep.evaluation.figures.contact_sheet import contact_sheet, picture

ON_AND_OFF = Events.from_arrays([0, 5, 9], [0, 1, 1], [0, 0, 0], [1, 0, 0], (1, 3))


def sheet_of(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_bytes_are_colours_as_they_are_and_other_numbers_are_scaled():
    assert picture(ON_AND_OFF).shape == (1, 3, 3)
    grey = np.array([[[0, 51]]], dtype=np.uint8)
    assert picture(grey).tolist() == [[[0, 0, 0], [0.2, 0.2, 0.2]]]
    colour = np.arange(6, dtype=np.uint8).reshape(3, 1, 2)
    assert np.allclose(picture(colour) * 255, [[[0, 2, 4], [1, 3, 5]]])
    assert picture(grey / 255).tolist() == [[[0, 0, 0], [1, 1, 1]]]
    counts = np.zeros((2, 1, 2), dtype=np.uint8)
    counts[1, 0, 0] = 4
    assert picture(counts)[0, 1].tolist() == [1, 1, 1]


def test_every_picture_is_on_the_sheet_once_in_the_order_given(tmp_path):
    colours = {f"class {k}": np.full((3, 8, 8), 0, np.uint8) for k in range(7)}
    for k, image in enumerate(colours.values()):
        image[:] = np.array([250 - 30 * k, 30 * k, 120])[:, None, None]
    pixels = sheet_of(contact_sheet(tmp_path / "sheet.png", colours)).reshape(-1, 3)
    found = [np.flatnonzero((pixels == image[:, 0, 0]).all(axis=1)) for image in colours.values()]
    assert min(len(each) for each in found) > 100 * 100
    starts = [int(each[0]) for each in found]
    assert starts == sorted(starts)


def test_every_name_is_written_below_its_picture():
    names = [f"gesture {k} with a name" for k in range(11)]
    drawn = sheets._sheet(dict.fromkeys(names, np.ones((4, 4, 3))), "eleven")
    written = [text.get_text().replace("\n", " ") for text in drawn.axes[0].texts]
    assert written == ["eleven", *names]


@pytest.mark.parametrize("count", [1, 10, 101])
def test_a_picture_is_large_enough_however_many_there_are(count):
    """Inches of one cell; a hundred classes make a larger sheet, not smaller pictures."""
    figure = sheets._sheet({f"{k}": np.ones((4, 4, 3)) for k in range(count)}, None)
    left, right = figure.axes[0].get_xlim()
    assert figure.get_size_inches()[0] / (right - left) >= sheets.SMALLEST
    assert right - left <= max(5, 1.5 * count**0.5)


@pytest.mark.parametrize(
    ("name", "examples", "word"),
    [
        ("a.png", {}, "examples must hold at least one"),
        ("a.png", {"a": np.zeros((4, 4))}, r"an image must be \(P, H, W\), got shape \(4, 4\)"),
        ("a.jpg", {"a": ON_AND_OFF}, r"path must end with \.png or \.svg"),
    ],
)
def test_what_is_no_picture_and_what_is_no_file_of_one_are_refused(tmp_path, name, examples, word):
    with pytest.raises(ValueError, match=word):
        contact_sheet(tmp_path / name, examples)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [r"$\frac{$", "cat\udcff", "", "a_b^c"])
def test_a_class_may_have_any_name_that_a_folder_has(tmp_path, name):
    path = contact_sheet(tmp_path / "sheet.png", {name: np.zeros((3, 4, 4), np.uint8)})
    assert path.read_bytes().startswith(b"\x89PNG")
