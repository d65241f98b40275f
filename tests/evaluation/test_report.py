"""The report against numpy, on small run folders made by hand."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from fake_runs import STEPS, edit, make_run, rescore, softmax

from anystep.evaluation.figures import curves, style
from anystep.evaluation.report.page import accuracy_png, write_report
from anystep.evaluation.report.pictures import embed
from anystep.folder import read_runs

FIGURES = ("accuracy", "step", "class", "confusion", "risk", "film", "features", "training")
TABLES = ("accuracy", "confidence", "work", "provenance")
DASH = "A dash: this method was not tested on these frames."


class Page(HTMLParser):
    """What a browser would find: tags that close, ids, links, and the cells of each table."""

    def __init__(self, source):
        super().__init__()
        self.source, self.text, self.open, self.tags = source, "", [], set()
        self.ids = re.findall(r'\bid="([^"]*)"', source)
        self.links = re.findall(r'\b(?:src|href|action|data)="([^"]*)"', source)
        self.links += re.findall(r"url\(([^)]*)\)", source)
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.open += [tag] if tag != "meta" else []

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def table(self, name):
        """The rows of a table, its head first, as texts."""
        source = self.source.partition(f'id="{name}-table"')[2].partition("</table>")[0]
        rows = re.findall(r"<tr>(.*?)</tr>", re.sub("</?strong>", "", source), re.DOTALL)
        return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    top = tmp_path_factory.mktemp("runs")
    return [
        make_run(top / f"{method}-s{seed}", method=method, seed=seed, skill=skill)
        for method, skill in (("tks", 2.0), ("ce", 1.0))
        for seed in (1, 0)
    ]


@pytest.fixture
def page_of(tmp_path):
    def report(*folders, **options):
        out = write_report(read_runs(folders), tmp_path / "new" / "report.html", **options)
        return Page(out.read_text(encoding="utf-8"))

    return report


@pytest.fixture(scope="module")
def page(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "report.html"
    return Page(write_report(read_runs(folders), out).read_text(encoding="utf-8"))


def small(folder, **options):
    return make_run(folder, **{"samples": 3, "size": 2} | options)


def test_the_page_is_whole_and_has_every_figure_and_table(page):
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert {f"{name}-figure" for name in FIGURES} <= set(page.ids)
    assert {f"{name}-table" for name in TABLES} <= set(page.ids)
    for name in FIGURES:
        assert f'<title id="{name}-figure-title">' in page.source
        assert f'aria-labelledby="{name}-figure-title {name}-figure-desc"' in page.source


def test_the_page_loads_nothing_runs_nothing_and_is_small(page):
    assert [link for link in page.links if not link.startswith(("#", "data:"))] == []
    assert "script" not in page.tags
    assert not re.search("https?://", page.source)
    assert "default-src 'none'" in page.source
    assert len(page.source.encode()) < 500_000
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert inside <= set(page.ids)
    assert len(inside) > len(FIGURES)


@pytest.fixture
def scores(folders):
    return [json.loads((folder / "scores.json").read_text()) for folder in folders]


def test_the_accuracy_table_holds_mean_and_sample_sd_over_seeds_the_best_in_bold(page, scores):
    head, *rows = page.table("accuracy")
    assert head == ["t", "tks", "ce"]
    values = np.array([each["prefix_top1"] for each in scores]).reshape(2, 2, STEPS)
    for t, row in enumerate(rows):
        want = [f"{v.mean():.2f} ± {abs(v[0] - v[1]) / np.sqrt(2):.2f}" for v in values[:, :, t]]
        assert row == [str(t + 1), *want]
    assert len(rows) == STEPS
    best = [max(row[1:], key=lambda cell: float(cell.split()[0])) for row in rows]
    assert re.findall(r"<td><strong>(.*?)</strong>", page.source) == best


def test_the_confidence_table_holds_the_first_and_the_last_step(page, scores):
    rows = {row[0]: row[1:] for row in page.table("confidence")}
    for method, pair in (("tks", scores[:2]), ("ce", scores[2:])):
        keys = ("aurc_softmax", "aurc_max_logit", "ece")
        means = [np.mean([each[key][at] for each in pair]) for key in keys for at in (0, -1)]
        told = [float(cell.split(" ± ")[0]) for cell in rows[method]]
        assert told == pytest.approx(means, abs=0.0051)


def test_the_work_table_adds_up_the_steps(page):
    for row in page.table("work")[1:]:
        assert row[1:4] == ["15.00 ± 0.00", "1.500 ± 0.707", "4.500 ± 2.121"]
        assert row[4:6] == ["2.000 ± 0.000", "6.000 ± 0.000"]
        assert row[6:] == ["10.350 ± 0.636", "31.050 ± 1.909"]


def test_runs_that_do_not_know_their_work_have_no_table_of_it(tmp_path, page_of):
    rescore(small(tmp_path / "old"), work=None)
    assert "work-table" not in page_of(tmp_path / "old").ids


def test_the_provenance_table_has_a_row_a_run(page):
    head, *rows = page.table("provenance")
    assert [row[0] for row in rows] == ["tks-s0", "tks-s1", "ce-s0", "ce-s1"]
    assert dict(zip(head, rows[1], strict=True)) == {
        "run": "tks-s1",
        "method": "tks",
        "options": "defaults",
        "seed": "1",
        "protocol": "digits-v1 (feed0123)",
        "test samples": "40",
        "T": "3",
        "prefix": "live",
        "epochs": "3",
        "commit": "0123abc",
        "versions": "anystep 0.1.0, torch 2.13",
    }


def test_the_provenance_table_names_the_options_that_a_method_had(tmp_path, page_of):
    edit(small(tmp_path / "a", method="tks"), method={"options": {"alpha": 0.3, "temperature": 5}})
    assert "alpha 0.3, temperature 5" in page_of(tmp_path / "a").table("provenance")[1]


def test_every_caption_states_protocol_samples_prefix_and_seeds(page):
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page.source, flags=re.DOTALL)
    assert len(captions) == len(FIGURES) + len(TABLES)
    said = "Protocol digits-v1 (feed0123), 40 test samples, prefix: live, seed"
    assert all(said in caption for caption in captions)


def test_the_film_shows_the_running_prediction_of_each_method(page, folders):
    for folder in (folders[1], folders[3]):  # the first seed of each method
        outputs = np.load(folder / "outputs.npz")
        for t in range(STEPS):
            said = outputs["logits"][: t + 1, 5].mean(0)
            mark = "\u2713" if said.argmax() == outputs["labels"][5] else "\u2717"
            assert f"{mark} {'abcd'[said.argmax()]}" in page.text
            assert f"{100 * softmax(said).max():.0f} %" in page.text


def test_the_same_runs_give_the_same_page_and_fair_ones_no_warning(page, folders, page_of):
    assert page_of(*folders).source == page.source
    assert "differences" not in page.ids


def test_names_in_the_page_are_escaped_and_unfair_runs_are_warned_of(tmp_path, page_of):
    runs = [small(tmp_path / name, method=name, samples=12) for name in ("a<b>", "c")]
    edit(runs[1], data={"binning": "time"})
    page = page_of(*runs, title="<i>T</i>")
    assert "<i>T</i>" in page.text
    assert "differences" in page.ids
    assert 'data.binning differs: "count" (a<b>); "time" (c)' in page.text
    assert "b" not in page.tags


def test_runs_with_other_steps_are_warned_of_and_shown_without_false_numbers(tmp_path, page_of):
    page = page_of(*(small(tmp_path / m, method=m, steps=t) for m, t in (("ce", 2), ("tks", 1))))
    assert "steps T differs: 2 (ce); 1 (tks)" in page.text
    assert [row[2] for row in page.table("accuracy")][2] == "n/a"
    assert "features-figure" not in page.ids  # three points have no layout
    assert DASH in page.text


def test_a_failed_report_leaves_the_old_page(tmp_path, monkeypatch):
    def fail(*args, **named):
        raise RuntimeError("no ink")

    out = tmp_path / "r.html"
    out.write_text("old")
    runs = read_runs([small(tmp_path / "x")])
    monkeypatch.setattr(style, "to_svg", fail)
    with pytest.raises(RuntimeError, match="no ink"):
        write_report(runs, out)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.html", "x"]


def test_the_same_features_give_the_same_points_and_clusters_stay_apart():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 5)) + 50 * (np.arange(40) >= 20)[:, None]
    points = embed(features)
    assert np.array_equal(points, embed(features))
    inside = np.linalg.norm(points[:20] - points[:20].mean(0), axis=1).max()
    assert np.linalg.norm(points[:20].mean(0) - points[20:].mean(0)) > inside


def test_frames_that_a_network_was_not_judged_on_are_not_shown_as_its_own(tmp_path, page_of):
    part = small(tmp_path / "hsd", method="hsd", steps=1)
    whole = small(tmp_path / "ce", method="ce", steps=2)
    arrays = dict(np.load(part / "outputs.npz"))
    np.savez(part / "outputs.npz", **(arrays | {"example_frames": np.zeros((2, 2, 2, 2))}))
    assert DASH in page_of(part, whole).text
    assert "film-figure" not in page_of(part).ids


def test_a_film_shows_no_verdicts_of_a_network_that_saw_other_frames(tmp_path, page_of):
    first, second = (small(tmp_path / method, method=method) for method in ("ce", "hsd"))
    rescore(second, frames=[3, 4, 5], prefix="live, from frame 4")
    both = page_of(first, second)
    assert DASH in both.text
    assert both.table("accuracy")[0] == ["t", "ce", "hsd (from frame 4)"]
    assert "Bold" not in both.text
    assert 'prefix differs: "live" (ce); "live, from frame 4" (hsd)' in both.text
    assert "t = 1 is frame 4 of the recording." in page_of(second).text


def test_training_lengths_get_a_map_and_curves_with_their_names(tmp_path, page_of):
    runs = []
    for t, seed in ((1, 0), (1, 1), (3, 0), (3, 1)):
        runs.append(small(tmp_path / f"{seed}-{t}", samples=6, seed=seed + 10 * t))
        edit(runs[-1], train={"steps": t}, seed=seed)
    page = page_of(*runs)
    assert "sweep-figure" in page.ids
    names = [f"ce (trained with T = {t})" for t in (1, 3)]
    assert page.table("accuracy")[0] == ["t", *names]
    assert "differences" not in page.ids
    accuracy = np.array([run.values("prefix_top1") for run in read_runs(runs)])
    drawn = page.source.partition('id="sweep-figure"')[2].partition("</svg>")[0]
    for mean in accuracy.reshape(2, 2, STEPS).mean(axis=1).ravel():
        assert f">{mean:.1f}<" in drawn


def test_phases_are_named_where_they_start_and_their_lines_are_not_joined(tmp_path, page_of):
    run = small(tmp_path / "hsd", method="hsd", samples=6)
    lines = (run / "log.jsonl").read_text().splitlines()
    named = zip(lines, ("ann", "ann", "snn"), strict=True)
    log = [json.dumps(json.loads(line) | {"phase": phase}) for line, phase in named]
    (run / "log.jsonl").write_text("\n".join(log))
    drawn = page_of(run).source.partition('id="training-figure"')[2].partition("</figure>")[0]
    assert drawn.count(">snn<") == 2  # over the loss, and over the accuracy
    assert ">ann<" not in drawn
    trained = curves.Curves(np.array([3.0, 2.0, 9.0]), np.array([1.0, 2.0, 3.0]), {3: "snn"})
    loss = curves.training({"hsd": [trained]}).axes[0]
    data = [line.get_xydata().tolist() for line in loss.get_lines()]
    assert data[:2] == [[[1, 3.0], [2, 2.0]], [[3, 9.0]]]


def test_names_are_shown_as_they_are_whatever_is_in_them(tmp_path):
    """As formulas they stopped the page, as numbers they have no length, and some are no UTF-8."""
    names = ["$\\frac{$", 7, "\udcff", "a\x00\nb"]
    folder = make_run(tmp_path / os.fsdecode(b"run \xfe"), names=names)
    edit(folder, method={"name": "$\\tks{$"})
    page = write_report(read_runs([folder]), tmp_path / "page.html").read_text()
    for shown in ("$\\frac{$", "$\\tks{$", "\\udcff", "a\\x00\\nb", "run \\udcfe"):
        assert shown in page
    assert accuracy_png(read_runs([folder]), tmp_path / "page.png").stat().st_size > 1000
