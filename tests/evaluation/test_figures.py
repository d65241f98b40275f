"""The figures: colours, means, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from anystep.evaluation import figures
from anystep.evaluation.figures import accuracy_figure


def test_mean_and_sd_leave_out_what_is_not_finite():
    mean, sd = figures.mean_and_sd([[1.0, np.nan, np.nan], [2.0, 4.0, np.nan], [6.0, 8.0, np.nan]])
    assert mean[:2] == pytest.approx([3.0, 6.0])
    assert sd[:2] == pytest.approx([np.std([1, 2, 6], ddof=1), np.std([4, 8], ddof=1)])
    assert np.isnan(mean[2])
    assert np.isnan(sd[2])


def test_on_events_are_red_off_events_are_blue_and_nothing_is_white():
    frames = np.zeros((1, 2, 1, 3))
    frames[0, 1, 0, 0] = frames[0, 0, 0, 1] = 5.0
    on, off, empty = figures.paint(frames)[0, 0]
    assert on[0] > 0.8
    assert on[2] < 0.3
    assert off[2] > 0.8
    assert off[0] < 0.3
    assert empty.tolist() == [1, 1, 1]


@pytest.mark.parametrize("planes", [1, 3])
def test_frames_that_are_not_events_are_shown_as_images(planes):
    frames = np.zeros((1, planes, 1, 2))
    frames[..., 0] = 2.0
    assert figures.paint(frames)[0, 0].tolist() == [[1, 1, 1], [0, 0, 0]]


def test_frames_of_a_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"frames must be \(T, P, H, W\), got shape \(2, 3\)"):
        figures.paint(np.zeros((2, 3)))


def test_every_class_has_a_look_of_its_own():
    looks = {(figures.class_look(c)["color"], figures.class_look(c)["marker"]) for c in range(50)}
    assert len(looks) == 50


def test_the_accuracy_figure_is_a_png_and_the_same_every_time(tmp_path):
    groups = {"ce": [[50.0, 60.0], [52.0, 61.0]], "tks": [[60.0, 62.0], [61.0, 63.0]]}
    path = accuracy_figure(groups, tmp_path / "a.png", prefix="live", title="Digits")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert (
        path.read_bytes()
        == accuracy_figure(groups, tmp_path / "b.png", prefix="live", title="Digits").read_bytes()
    )
    with pytest.raises(ValueError, match=r"groups\['ce'\] must be \(seeds, T\), got shape \(2,\)"):
        accuracy_figure({"ce": [1.0, 2.0]}, tmp_path / "c.png")
    with pytest.raises(ValueError, match="at least one method, got none"):
        accuracy_figure({}, tmp_path / "c.png")


def test_drawing_leaves_no_setting_behind(tmp_path):
    import matplotlib

    with matplotlib.rc_context({"font.size": 33, "text.color": "red"}):
        before = dict(matplotlib.rcParams)
        accuracy_figure({"ce": [[1.0]]}, tmp_path / "a.png")
        figures.to_svg(
            lambda: figures.by_step({"ce": [[1.0]]}, xlabel="", ylabel=""),
            name="a",
            title="",
            description="",
        )
        assert dict(matplotlib.rcParams) == before


def test_a_report_needs_no_torch_and_no_pyplot(tmp_path):
    code = "import sys; from anystep.evaluation.report.page import accuracy_figure as a; a({'ce': [[1.0, 2.0]]}, sys.argv[1]); "
    code += "print([name for name in ('torch', 'matplotlib.pyplot') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.png"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def matrix(lengths, steps, skipped=0):
    mean = np.linspace(50, 90, len(lengths) * steps).reshape(len(lengths), steps)
    return figures.Matrix(lengths, mean, np.full(mean.shape, 1.25), skipped)


@pytest.mark.parametrize(("skipped", "framed"), [(0, [(1, 0), (3, 1)]), (2, [(1, 1)])])
def test_a_heat_map_frames_the_cells_that_are_tested_as_long_as_trained(skipped, framed):
    (ax, _) = figures.heat_maps({"ce": matrix([1, 3], 4, skipped)}).axes
    centres = [
        (round(np.ptp(x) / 2 + x.min()) + 1, round(np.ptp(y) / 2 + y.min()))
        for x, y in (f.get_data() for f in ax.lines)
    ]
    assert centres == framed
    assert [text.get_text() for text in ax.texts][:2] == ["50.0\n\u00b1 1.2", "55.7\n\u00b1 1.2"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "3"]


def test_maps_of_several_methods_share_one_scale_and_long_ones_are_not_written_full():
    *maps, _ = figures.heat_maps({"ce": matrix([1, 3], 4), "tks": matrix([1], 40)}).axes
    assert len({image.get_clim() for ax in maps for image in ax.get_images()}) == 1
    assert len(maps[1].texts) == 0
    assert len(maps[1].get_xticks()) < 20


def test_a_missing_cell_is_left_empty():
    one = matrix([1, 2], 2)
    one.mean[0, 1] = np.nan
    assert len(figures.heat_maps({"ce": one}).axes[0].texts) == 3


def test_a_figure_is_saved_as_what_its_name_says(tmp_path):
    def draw():
        return figures.heat_maps({"ce": matrix([1], 2)})

    assert figures.save(draw, tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in figures.save(draw, tmp_path / "a.svg").read_text()
    assert (tmp_path / "a.svg").read_bytes() == figures.save(draw, tmp_path / "b.svg").read_bytes()
    with pytest.raises(ValueError, match=r"save: path must end with \.png or \.svg, got a\.pdf"):
        figures.save(draw, tmp_path / "a.pdf")


def test_bars_whose_colours_come_again_are_hatched():
    groups = {f"method {index}": [[50.0, 60.0]] for index in range(9)}
    bars = [
        bar.patches[0] for bar in figures.by_class(groups, ["a", "b"], ylabel="").axes[0].containers
    ]
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in bars}) == 9
    assert not any(bar.get_hatch() for bar in bars[:7])
