"""The report against numpy, on small run folders made by hand."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from fake_runs import STEPS, edit, make_run, rescore, softmax

from anystep.evaluation import figures
from anystep.evaluation.report.page import differences, embed, write_report
from anystep.evaluation.report.runs import read_runs

FIGURES = ("accuracy", "step", "class", "confusion", "risk", "film", "features", "training")
TABLES = ("accuracy", "confidence", "provenance")


class Page(HTMLParser):
    """What a browser would find: tags that close, ids, links, and the cells of each table."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.tags, self.tables, self.text = (
            [],
            [],
            [],
            set(),
            {},
            "",
        )
        self.figure = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs, closed=False):
        attrs = dict(attrs)
        self.tags.add(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [
            value
            for key, value in attrs.items()
            if key in ("src", "href", "xlink:href", "action", "data")
        ]
        self.links += re.findall(
            r"url\(([^)]*)\)", " ".join(value or "" for value in attrs.values())
        )
        if tag == "figure":
            self.figure = attrs["id"]
        if tag == "tr":
            self.tables.setdefault(self.figure, []).append([])
        if tag in ("td", "th"):
            self.tables[self.figure][-1].append("")
        if tag not in self.VOID and not closed:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs, closed=True)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.tables[self.figure][-1][-1] += data


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    top = tmp_path_factory.mktemp("runs")
    pairs = [(method, seed) for method in ("tks", "ce") for seed in (1, 0)]
    return [
        make_run(top / f"{m}-s{s}", method=m, seed=s, skill=2.0 if m == "tks" else 1.0)
        for m, s in pairs
    ]


@pytest.fixture(scope="module")
def page_text(folders, tmp_path_factory):
    return write_report(folders, tmp_path_factory.mktemp("out") / "new" / "report.html").read_text(
        encoding="utf-8"
    )


@pytest.fixture(scope="module")
def page(page_text):
    return Page(page_text)


def test_every_tag_closes_and_every_id_is_used_once(page):
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))


def test_the_page_has_every_figure_and_table(page, page_text):
    for name in (*(f"{name}-figure" for name in FIGURES), *(f"{name}-table" for name in TABLES)):
        assert name in page.ids
    for name in FIGURES:
        assert f'<title id="{name}-figure-title">' in page_text
        assert f'aria-labelledby="{name}-figure-title {name}-figure-desc"' in page_text


def test_the_page_loads_nothing_and_runs_nothing(page, page_text):
    outside = [link for link in page.links if not link.startswith(("#", "data:"))]
    assert outside == []
    assert "script" not in page.tags
    assert "http://" not in page_text
    assert "https://" not in page_text
    assert "default-src 'none'" in page_text


def test_every_link_inside_the_page_leads_somewhere(page):
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert inside <= set(page.ids)
    assert len(inside) > len(FIGURES)


def test_the_page_is_small(page_text):
    assert len(page_text.encode()) < 500_000


def test_the_accuracy_table_holds_mean_and_sample_sd_over_seeds(page, folders):
    head, *rows = page.tables["accuracy-table"]
    assert head == ["t", "tks", "ce"]
    values = np.array(
        [json.loads((f / "scores.json").read_text())["prefix_top1"] for f in folders]
    ).reshape(2, 2, STEPS)
    for t, row in enumerate(rows):
        want = [f"{v.mean():.2f} ± {abs(v[0] - v[1]) / np.sqrt(2):.2f}" for v in values[:, :, t]]
        assert row == [str(t + 1), *want]
    assert len(rows) == STEPS


def test_the_best_mean_of_each_step_is_bold(page_text, page):
    cells = page.tables["accuracy-table"][1:]
    best = [max(row[1:], key=lambda cell: float(cell.split()[0])) for row in cells]
    bold = re.findall(r"<td><strong>(.*?)</strong>", page_text)
    assert bold == best


def test_the_confidence_table_holds_the_first_and_the_last_step(page, folders):
    scores = [json.loads((folder / "scores.json").read_text()) for folder in folders]
    rows = {row[0]: row[1:] for row in page.tables["confidence-table"]}
    for method, pair in (("tks", scores[:2]), ("ce", scores[2:])):
        means = [
            np.mean([s[key][at] for s in pair])
            for key in ("aurc_softmax", "aurc_max_logit", "ece")
            for at in (0, -1)
        ]
        assert [float(cell.split(" ± ")[0]) for cell in rows[method]] == pytest.approx(
            means, abs=0.0051
        )


def test_the_provenance_table_has_a_row_a_run(page):
    head, *rows = page.tables["provenance-table"]
    assert [row[0] for row in rows] == ["tks-s0", "tks-s1", "ce-s0", "ce-s1"]
    row = dict(zip(head, rows[1], strict=True))
    assert row["protocol"] == "digits-v1 (feed0123)"
    assert (row["seed"], row["test samples"], row["epochs"], row["commit"]) == (
        "1",
        "40",
        "3",
        "0123abc",
    )
    assert row["versions"] == "anystep 0.1.0, torch 2.13"


def test_every_caption_states_protocol_samples_prefix_and_seeds(page_text):
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page_text, flags=re.DOTALL)
    assert len(captions) == len(FIGURES) + len(TABLES)
    for caption in captions:
        assert "Protocol digits-v1 (feed0123), 40 test samples, prefix: live, seed" in caption


def test_the_film_shows_the_running_prediction_of_each_method(page, folders):
    for folder in (folders[1], folders[3]):  # the first seed of each method
        outputs = np.load(folder / "outputs.npz")
        for t in range(STEPS):
            said = outputs["logits"][: t + 1, 5].mean(0)
            mark = "\u2713" if said.argmax() == outputs["labels"][5] else "\u2717"
            assert f"{mark} {'abcd'[said.argmax()]}" in page.text
            assert f"{100 * softmax(said).max():.0f} %" in page.text


def test_the_same_runs_give_the_same_page_byte_for_byte(page_text, folders, tmp_path):
    assert write_report(folders, tmp_path / "again.html").read_text(encoding="utf-8") == page_text


def test_fair_runs_raise_no_warning(page_text, folders):
    assert differences(read_runs(folders)) == []
    assert 'id="differences"' not in page_text


def test_names_in_the_page_are_escaped_and_unfair_runs_are_warned_of(tmp_path):
    runs = [make_run(tmp_path / name, method=name, samples=12, size=4) for name in ("a<b>", "c")]
    edit(runs[1], data={"binning": "time"})
    page = Page(write_report(runs, tmp_path / "r.html", title="<i>T</i>").read_text())
    assert "<i>T</i>" in page.text
    assert "differences" in page.ids
    assert 'data.binning differs: "count" (a<b>); "time" (c)' in page.text
    assert "b" not in page.tags


def test_runs_with_other_steps_are_shown_with_a_warning_and_without_false_numbers(tmp_path):
    runs = [
        make_run(tmp_path / f"{m}{t}", method=m, steps=t, samples=3, size=2)
        for m, t in (("ce", 2), ("tks", 1))
    ]
    page = Page(write_report(runs, tmp_path / "r.html").read_text())
    assert "steps T differs: 2 (ce2); 1 (tks1)" in page.text
    assert [row[2] for row in page.tables["accuracy-table"]][2] == "n/a"
    assert "features-figure" not in page.ids  # three points have no layout
    assert "A dash: this method was not tested on these frames." in page.text


def test_runs_that_cannot_share_a_page_are_refused(tmp_path):
    runs = [make_run(tmp_path / n, samples=4, size=2, names=n) for n in ("ab", "cd")]
    with pytest.raises(ValueError, match="ab and cd do not have the same classes"):
        read_runs(runs)
    with pytest.raises(ValueError, match=r"must be different folders, got .*ab twice"):
        read_runs([runs[0], runs[0]])
    with pytest.raises(ValueError, match="at least one run folder, got none"):
        write_report([], tmp_path / "r.html")


def test_a_failed_report_leaves_the_old_page(tmp_path, monkeypatch):
    out = tmp_path / "r.html"
    out.write_text("old")
    run = make_run(tmp_path / "x", samples=4, size=2)
    monkeypatch.setattr(
        figures, "to_svg", lambda *args, **named: (_ for _ in ()).throw(RuntimeError("no ink"))
    )
    with pytest.raises(RuntimeError, match="no ink"):
        write_report([run], out)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.html", "x"]


def test_the_same_features_give_the_same_points_and_clusters_stay_apart():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 5)) + 50 * (np.arange(40) >= 20)[:, None]
    points = embed(features)
    assert np.array_equal(points, embed(features))
    inside = np.linalg.norm(points[:20] - points[:20].mean(0), axis=1).max()
    assert np.linalg.norm(points[:20].mean(0) - points[20:].mean(0)) > inside
    with pytest.raises(
        ValueError, match=r"features must be \(M, F\) with M >= 4, got shape \(3, 2\)"
    ):
        embed(np.zeros((3, 2)))


def test_frames_that_a_network_was_not_judged_on_are_not_shown_as_its_own(tmp_path):
    part, whole = (
        make_run(tmp_path / f"{m}", method=m, steps=t, samples=3, size=2)
        for m, t in (("hsd", 1), ("ce", 2))
    )
    arrays = dict(np.load(part / "outputs.npz"))
    np.savez(part / "outputs.npz", **(arrays | {"example_frames": np.zeros((2, 2, 2, 2))}))
    both, alone = (
        Page(write_report(runs, tmp_path / "r.html").read_text())
        for runs in ([part, whole], [part])
    )
    assert "A dash: this method was not tested on these frames." in both.text
    assert "film-figure" not in alone.ids


def test_training_lengths_get_a_map_and_curves_with_their_names(tmp_path):
    runs = [
        make_run(tmp_path / f"{seed}-{t}", samples=6, size=2, seed=seed + 10 * t)
        for t in (1, 3)
        for seed in (0, 1)
    ]
    for run, (t, seed) in zip(runs, ((1, 0), (1, 1), (3, 0), (3, 1)), strict=True):
        edit(run, train={"steps": t}, seed=seed)
    text = write_report(runs, tmp_path / "r.html").read_text()
    page = Page(text)
    assert "sweep-figure" in page.ids
    assert page.tables["accuracy-table"][0] == [
        "t",
        "ce (trained with T = 1)",
        "ce (trained with T = 3)",
    ]
    assert "differences" not in page.ids
    means = [
        [
            np.mean([run.values("prefix_top1")[t] for run in read_runs(runs)[i : i + 2]])
            for t in (0, 1, 2)
        ]
        for i in (0, 2)
    ]
    drawn = text.partition('id="sweep-figure"')[2].partition("</svg>")[0]
    for mean in np.ravel(means):
        assert f">{mean:.1f}<" in drawn


def test_phases_are_named_where_they_start_and_their_lines_are_not_joined(tmp_path):
    run = make_run(tmp_path / "hsd", method="hsd", samples=6, size=2)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for line, phase in zip(lines, ("ann", "ann", "snn"), strict=True):
        line["phase"] = phase
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = (
        write_report([run], tmp_path / "r.html")
        .read_text()
        .partition('id="training-figure"')[2]
        .partition("</figure>")[0]
    )
    assert drawn.count(">snn<") == 2  # over the loss, and over the accuracy
    assert ">ann<" not in drawn
    curves = figures.Curves(np.array([3.0, 2.0, 9.0]), np.array([1.0, 2.0, 3.0]), {3: "snn"})
    loss = figures.training({"hsd": [curves]}).axes[0]
    data = [line.get_xydata().tolist() for line in loss.get_lines()]
    assert data[:2] == [[[1, 3.0], [2, 2.0]], [[3, 9.0]]]


def test_a_film_shows_no_verdicts_of_a_network_that_saw_other_frames(tmp_path):
    first, second = (make_run(tmp_path / m, method=m, samples=3, size=2) for m in ("ce", "hsd"))
    rescore(second, frames=[3, 4, 5], prefix="live, from frame 4")
    both, late = (
        Page(write_report(runs, tmp_path / "r.html").read_text())
        for runs in ([first, second], [second])
    )
    assert "A dash: this method was not tested on these frames." in both.text
    assert both.tables["accuracy-table"][0] == ["t", "ce", "hsd (from frame 4)"]
    assert "Bold" not in both.text
    assert 'prefix differs: "live" (ce); "live, from frame 4" (hsd)' in both.text
    assert "t = 1 is frame 4 of the recording." in late.text
