"""HSD against direct training on the second half of digits-dvs: `python -m studies.second_half`.

Every method is trained for T = 1, 2 and 5 on frames 6 to 5 + T of a recording and judged on the
same ones. HSD's ANN learns from the first five frames for half of the epochs, once a seed, and its
SNN has the other half. "clip 1": the clip of the ANN's activations starts at 1 and not at the
published 8. Each method has six candidates, three rates times two values of one option of its own,
judged on the validation split at T = 2; the best one is trained with five seeds and judged on the
test split, once. Each ANN has three rates besides, judged by its own accuracy. Finished runs in
runs/second_half are kept, so it can be interrupted.

Writes results/second_half.json, docs/second_half.png and the tables between the markers in
docs/hsd.md. Commit first: the records say whether the code was changed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anystep._extras import need
from anystep._files import atomic_path, content_hash, write_json
from anystep.config import MethodConfig, Record
from studies import study
from studies.study import ROOT, Rows, check_markers, draw_curve, mean_row, recipe, write_table

EPOCHS, STEPS, SEEDS = 12, (1, 2, 5), (0, 1, 2, 3, 4)
TUNE_STEPS, TUNE_SEEDS = 2, (100, 101)
RATES = (0.001, 0.003, 0.01)
FIRST = 5  # frames of the first half
CLIPS = (8.0, 1.0)
FOLDER = ROOT / "runs" / "second_half"
PAGE = ROOT / "docs" / "hsd.md"
KEPT = ("split", "protocol", "protocol_hash", "samples", "frames", "prefix_top1", "rates")

LIF = {"name": "lif", "tau": 2.0, "v_threshold": 0.5}
FIXED_CLIP = {"name": "qcfs_if", "clip_init": 1.0}  # HSD's neuron, its threshold not learnt
Candidate = dict[str, Any]
WARM: Candidate = {"temperature": 2.0, "reduction": "batchmean"}
SOFT: Candidate = {"temperature": 10.0, "reduction": "mean"}
Rates = dict[float, float]  # of an ANN, by where its clips start
OPTIONS: dict[str, tuple[Candidate, Candidate]] = {
    "ce": ({"neuron": LIF}, {"neuron": FIXED_CLIP}),
    "tet": ({"neuron": LIF}, {"neuron": FIXED_CLIP}),
    "hsd none": ({"v_init": 0.5}, {"v_init": 0.0}),
    "hsd kd": (WARM, SOFT),
    "hsd skd": (WARM, SOFT),
    "hsd none, clip 1": ({"v_init": 0.5}, {"v_init": 0.0}),
    "hsd kd, clip 1": (WARM, SOFT),
    "hsd skd, clip 1": (WARM, SOFT),
    "hsd skd, clip 1, tet": (WARM, SOFT),
}


def base() -> Record:
    """What all runs share: data, width, batch size, schedule."""
    record = recipe("digits_demo")
    return replace(record, tensorboard=False, train=replace(record.train, epochs=EPOCHS))


def candidates(label: str) -> list[Candidate]:
    return [{"lr": lr, **option} for lr in RATES for option in OPTIONS[label]]


def clip_of(label: str) -> float:
    """Where the clips of a method's ANN start."""
    return 1.0 if "clip 1" in label else 8.0


def ann_record(lr: float, clip: float, seed: int) -> Record:
    """HSD's first phase as a run of its own, on the first half."""
    record = replace(base(), name="ann", seed=seed, method=MethodConfig(name="ce"), judge="val")
    neuron = {"name": "qcfs"} | ({} if clip == 8.0 else {"clip_init": clip})
    return replace(
        record,
        data=replace(record.data, frames=[0, FIRST]),
        model=replace(record.model, neuron=neuron),
        train=replace(record.train, epochs=EPOCHS // 2, lr=lr),
    )


def place_of(record: Record, steps: int) -> Path:
    """The run folder, named for all that differs between runs."""
    told = [record.model.neuron, record.method.options, record.train.lr, record.judge]
    name = record.name.replace(", ", "-").replace(" ", "-")
    own = content_hash(json.dumps(told, sort_keys=True))
    return FOLDER / f"{name}-T{steps}-seed{record.seed}-{own}"


def record_of(
    label: str,
    candidate: Candidate,
    steps: int,
    seed: int,
    *,
    ann: Rates,
    judge: Literal["test", "val"],
) -> Record:
    """The run of a method with one candidate. HSD starts from the ANN of this seed with the rate
    that `ann` has for it.
    """
    record = replace(base(), name=label, seed=seed, judge=judge)
    train = replace(record.train, lr=candidate["lr"])
    if not label.startswith("hsd"):
        data = replace(record.data, frames=[FIRST, FIRST + steps])
        model = replace(record.model, neuron=candidate["neuron"])
        return replace(record, data=data, model=model, method=MethodConfig(name=label), train=train)
    kind, *more = label.removeprefix("hsd ").split(", ")
    own = ("temperature", "reduction")
    options: dict[str, Any] = {key: candidate[key] for key in own if key in candidate}
    options |= {
        "distill": kind,
        "label_loss": "tet" if "tet" in more else "ce",
        "twin": "run",
        "snn_frames": [FIRST, FIRST + steps],
    }
    neuron = {"name": "qcfs_if", "v_init": candidate.get("v_init", 0.5)}
    clip = clip_of(label)
    teacher = place_of(ann_record(ann[clip], clip, seed), 0)
    return replace(
        record,
        model=replace(record.model, neuron=neuron),
        method=MethodConfig(name="hsd", options=options),
        train=replace(train, epochs=EPOCHS // 2),
        teacher=str(teacher.relative_to(ROOT)),
    )


def train_all(jobs: Sequence[tuple[Record, int]]) -> Iterator[dict[str, Any]]:
    """The scores of all runs, each given with its number of steps, in order."""
    placed = [(record, place_of(record, steps)) for record, steps in jobs]
    yield from study.train_all(placed, keys=KEPT)


def mean_of(values: Sequence[float]) -> float:
    return float(np.mean(values))


def best(rows: Sequence[dict[str, Any]], key: str) -> Any:
    """The value of `key` with the highest mean validation accuracy; the first of equals."""
    values: list[Any] = []
    for row in rows:
        if row[key] not in values:
            values.append(row[key])
    return max(values, key=lambda own: mean_of([r["val_top1"] for r in rows if r[key] == own]))


def tune_ann() -> Rows:
    """A row for every start of the clips, rate and seed of the ANN: its validation accuracy."""
    keys = [(clip, lr, seed) for clip in CLIPS for lr in RATES for seed in TUNE_SEEDS]
    scores = train_all([(ann_record(lr, clip, seed), 0) for clip, lr, seed in keys])
    return [
        {"clip": clip, "lr": lr, "seed": seed, "val_top1": each["prefix_top1"][-1]}
        for (clip, lr, seed), each in zip(keys, scores, strict=True)
    ]


def ann_rates(ann_tuning: Sequence[dict[str, Any]]) -> Rates:
    """The best rate of the ANN for each start of its clips."""
    return {clip: best([row for row in ann_tuning if row["clip"] == clip], "lr") for clip in CLIPS}


def tune(ann: Rates) -> Rows:
    """A row for every method, candidate and seed: the validation accuracy at t = T."""
    keys = [
        (label, candidate, seed)
        for label in OPTIONS
        for candidate in candidates(label)
        for seed in TUNE_SEEDS
    ]
    jobs = [
        (record_of(label, candidate, TUNE_STEPS, seed, ann=ann, judge="val"), TUNE_STEPS)
        for label, candidate, seed in keys
    ]
    rows = []
    for (label, candidate, seed), scores in zip(keys, train_all(jobs), strict=True):
        row = {"method": label, "candidate": candidate, "seed": seed}
        rows.append({**row, "val_top1": scores["prefix_top1"][-1]})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def measure(ann: Rates, chosen: dict[str, Candidate]) -> Rows:
    """A row for every method, T and seed: the test accuracy at every t up to T."""
    keys = [(label, steps, seed) for seed in SEEDS for label in OPTIONS for steps in STEPS]
    list(train_all([(ann_record(ann[clip], clip, seed), 0) for clip in CLIPS for seed in SEEDS]))
    jobs = [
        (record_of(label, chosen[label], steps, seed, ann=ann, judge="test"), steps)
        for label, steps, seed in keys
    ]
    rows = []
    for (label, steps, seed), scores in zip(keys, train_all(jobs), strict=True):
        rows.append({"method": label, "steps": steps, "seed": seed, **scores})
        study.tell(label, steps, seed, scores=scores)
    return rows


def table_of(runs: Sequence[dict[str, Any]], *, any_step: bool) -> Rows:
    """Mean and sd over the seeds for every method and t: of the network trained with T = 5 after t
    steps (`any_step`), or of the network trained with T = t.
    """
    if any_step:
        return study.table_of([run for run in runs if run["steps"] == max(STEPS)])
    rows = []
    for label in dict.fromkeys(run["method"] for run in runs):
        for t in STEPS:
            own = [run for run in runs if (run["method"], run["steps"]) == (label, t)]
            rows.append(mean_row(label, t, [run["prefix_top1"][-1] for run in own]))
    return rows


def firing_rate(runs: Sequence[dict[str, Any]], label: str) -> float:
    """Spikes of a neuron in a step, in the networks trained with T = 5: the mean over layers and
    seeds.
    """
    own = [run for run in runs if (run["method"], run["steps"]) == (label, max(STEPS))]
    return mean_of([mean_of(list(run["rates"].values())) for run in own])


def markdown(runs: Sequence[dict[str, Any]], *, any_step: bool) -> str:
    """`table_of` in Markdown; beside the network trained with T = 5 its firing rate."""
    rows = table_of(runs, any_step=any_step)
    head = ["method", *(f"t = {t}" for t in dict.fromkeys(row["t"] for row in rows))]
    lines = []
    for label in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == label]
        line = [label, *(f"{row['top1_mean']:.1f} ± {row['top1_sd']:.1f}" for row in own)]
        lines.append([*line, f"{firing_rate(runs, label):.3f}"] if any_step else line)
    return study.markdown([*head, "firing rate"] if any_step else head, lines)


def option_text(option: Candidate) -> str:
    """An option in a cell.

    >>> option_text({"neuron": {"name": "lif", "tau": 2.0}})
    'lif'
    >>> option_text({"temperature": 2.0, "reduction": "batchmean"})
    'temperature 2.0, batchmean'
    """
    if "neuron" in option:
        return str(option["neuron"]["name"])
    told = (str(value) if key == "reduction" else f"{key} {value}" for key, value in option.items())
    return ", ".join(told)


def tuning_table(tuning: Sequence[dict[str, Any]]) -> str:
    """The validation accuracy of every candidate, averaged over its seeds, in Markdown."""
    lines = []
    for label, options in OPTIONS.items():
        for option in options:
            cells = [label, option_text(option)]
            for lr in RATES:
                key = (label, {"lr": lr, **option})
                own = [r["val_top1"] for r in tuning if (r["method"], r["candidate"]) == key]
                cells.append(f"{mean_of(own):.1f}")
            lines.append(cells)
    return study.markdown(["method", "option", *(f"lr {lr}" for lr in RATES)], lines)


def picture(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Both tables as curves: trained for each T, and trained with T = 5 and stopped early."""
    plots = need("matplotlib.pyplot", extra="report", purpose="drawing the accuracy over t")
    figure, axes = plots.subplots(1, 2, figsize=(10.5, 3.8), sharey=True, layout="constrained")
    titles = ("trained and judged at the same T", "trained at T = 5, stopped after t steps")
    for any_step, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        rows = table_of(runs, any_step=bool(any_step))
        for number, label in enumerate(OPTIONS):
            line = "-" if not label.startswith("hsd") else ":" if clip_of(label) == 8.0 else "--"
            own = [row for row in rows if row["method"] == label]
            draw_curve(axis, own, number, label=label, line=line)
        axis.set(title=title, xlabel="t, frames of 30 ms", xticks=range(1, max(STEPS) + 1))
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="test top-1, %", ylim=(0, 101))
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right center", frameon=False, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    plots.close(figure)


def tables(result: dict[str, Any]) -> dict[str, str]:
    """What stands between the markers of each name."""
    return {
        "second_half": markdown(result["runs"], any_step=False),
        "second_half_any_step": markdown(result["runs"], any_step=True),
        "second_half_tuning": tuning_table(result["tuning"]),
    }


def main() -> None:
    check_markers(PAGE, "second_half", "second_half_any_step", "second_half_tuning")
    ann_tuning = tune_ann()
    ann = ann_rates(ann_tuning)
    tuning = tune(ann)
    chosen = {
        label: best([row for row in tuning if row["method"] == label], "candidate")
        for label in OPTIONS
    }
    runs = measure(ann, chosen)
    result = {
        "record": asdict(base()),
        "ann_tuning": ann_tuning,
        "ann_lr": {str(clip): lr for clip, lr in ann.items()},
        "tuning": tuning,
        "chosen": chosen,
        "runs": runs,
        "study": table_of(runs, any_step=False),
    }
    write_json(ROOT / "results" / "second_half.json", result)
    for name, table in tables(result).items():
        write_table(PAGE, name, table)
    picture(runs, ROOT / "docs" / "second_half.png")


if __name__ == "__main__":
    main()
