"""The figures: colours, what is drawn where, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys

import matplotlib
import numpy as np
import pytest

from anystep.evaluation.figures import curves, grids, samples, style


def accuracy():
    return curves.by_step({"ce": [[50.0, 60.0], [52.0, 61.0]]}, xlabel="t", ylabel="%")


def test_on_events_are_red_off_events_are_blue_and_nothing_is_white():
    frames = np.zeros((1, 2, 1, 3))
    frames[0, 1, 0, 0] = frames[0, 0, 0, 1] = 5.0
    on, off, empty = samples.paint(frames)[0, 0]
    assert on[0] > 0.8
    assert on[2] < 0.3
    assert off[2] > 0.8
    assert off[0] < 0.3
    assert empty.tolist() == [1, 1, 1]


@pytest.mark.parametrize("planes", [1, 3])
def test_frames_that_are_not_events_are_shown_as_images(planes):
    frames = np.zeros((1, planes, 1, 2))
    frames[..., 0] = 2.0
    assert samples.paint(frames)[0, 0].tolist() == [[1, 1, 1], [0, 0, 0]]


def test_every_class_has_a_look_of_its_own():
    looks = {(style.class_look(c)["color"], style.class_look(c)["marker"]) for c in range(50)}
    assert len(looks) == 50


def test_bars_whose_colours_come_again_are_hatched():
    groups = {f"method {index}": [[50.0, 60.0]] for index in range(9)}
    (ax,) = curves.by_class(groups, ["a", "b"], ylabel="").axes
    bars = [bar.patches[0] for bar in ax.containers]
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in bars}) == 9
    assert not any(bar.get_hatch() for bar in bars[:7])


def test_drawing_leaves_no_setting_behind(tmp_path):
    with matplotlib.rc_context({"font.size": 33, "text.color": "red"}):
        before = dict(matplotlib.rcParams)
        style.save(accuracy, tmp_path / "a.png")
        style.to_svg(accuracy, name="a", title="", description="")
        assert dict(matplotlib.rcParams) == before


def test_a_report_needs_no_torch_and_no_pyplot():
    code = """
import sys
from anystep.evaluation.report import page
from anystep.evaluation.figures import curves, style
draw = lambda: curves.by_step({"ce": [[1.0, 2.0]]}, xlabel="t", ylabel="%")
style.to_svg(draw, name="a", title="", description="")
print([name for name in ("torch", "matplotlib.pyplot") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def matrix(lengths, steps, skipped=0):
    mean = np.linspace(50, 90, len(lengths) * steps).reshape(len(lengths), steps)
    return grids.Matrix(lengths, mean, np.full(mean.shape, 1.25), skipped)


@pytest.mark.parametrize(("skipped", "framed"), [(0, [(1, 0), (3, 1)]), (2, [(1, 1)])])
def test_a_heat_map_frames_the_cells_that_are_tested_as_long_as_trained(skipped, framed):
    (ax, _) = grids.heat_maps({"ce": matrix([1, 3], 4, skipped)}).axes
    corners = [frame.get_data() for frame in ax.lines]
    assert [(round(x.mean()) + 1, round(y.mean())) for x, y in corners] == framed
    assert [text.get_text() for text in ax.texts][:2] == ["50.0\n\u00b1 1.2", "55.7\n\u00b1 1.2"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "3"]


def test_maps_of_several_methods_share_one_scale_and_long_ones_are_not_written_full():
    *maps, _ = grids.heat_maps({"ce": matrix([1, 3], 4), "tks": matrix([1], 40)}).axes
    assert len({image.get_clim() for ax in maps for image in ax.get_images()}) == 1
    assert len(maps[1].texts) == 0
    assert len(maps[1].get_xticks()) < 20


def test_a_missing_cell_is_left_empty():
    one = matrix([1, 2], 2)
    one.mean[0, 1] = np.nan
    assert len(grids.heat_maps({"ce": one}).axes[0].texts) == 3


def test_a_figure_is_saved_as_what_its_name_says_and_the_same_every_time(tmp_path):
    for suffix, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        one, other = (style.save(accuracy, tmp_path / f"{name}.{suffix}") for name in "ab")
        assert one.read_bytes().startswith(start)
        assert one.read_bytes() == other.read_bytes()
    with pytest.raises(ValueError, match=r"path must end with \.png or \.svg .*a\.pdf"):
        style.save(accuracy, tmp_path / "a.pdf")
