"""HSD against direct training on the second half of digits-dvs: `.venv/bin/python
studies/second_half.py`.

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
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from measure import ROOT, quote

from anystep._extras import need
from anystep._files import atomic_path, content_hash, write_json, write_text
from anystep.config import MethodConfig, Record, load_recipe, record_from
from anystep.run import run_record

EPOCHS, STEPS, SEEDS = 12, (1, 2, 5), (0, 1, 2, 3, 4)
TUNE_STEPS, TUNE_SEEDS = 2, (100, 101)
RATES = (0.001, 0.003, 0.01)
FIRST = 5  # frames of the first half
CLIPS = (8.0, 1.0)
FOLDER = ROOT / "runs" / "second_half"
PAGE = ROOT / "docs" / "hsd.md"

LIF = {"name": "lif", "tau": 2.0, "v_threshold": 0.5}
FIXED_CLIP = {"name": "qcfs_if", "clip_init": 1.0}  # HSD's neuron, its threshold not learnt
WARM, SOFT = (
    {"temperature": 2.0, "reduction": "batchmean"},
    {"temperature": 10.0, "reduction": "mean"},
)
Candidate = dict[str, Any]
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
    record = record_from(load_recipe(ROOT / "recipes" / "digits_demo.yaml"))
    return replace(record, tensorboard=False, train=replace(record.train, epochs=EPOCHS))


def candidates(label: str) -> list[Candidate]:
    return [{"lr": lr, **option} for lr in RATES for option in OPTIONS[label]]


def clip_of(label: str) -> float:
    """Where the clips of a method's ANN start."""
    return 1.0 if "clip 1" in label else 8.0


def ann_record(lr: float, clip: float, seed: int) -> Record:
    """HSD's first phase as a run of its own, on the first half."""
    record = base()
    model = replace(
        record.model, neuron={"name": "qcfs"} | ({} if clip == 8.0 else {"clip_init": clip})
    )
    data = replace(record.data, frames=[0, FIRST])
    train = replace(record.train, epochs=EPOCHS // 2, lr=lr)
    return replace(
        record,
        name="ann",
        seed=seed,
        data=data,
        model=model,
        method=MethodConfig(name="ce"),
        train=train,
        judge="val",
    )


def record_of(
    label: str, candidate: Candidate, steps: int, seed: int, *, ann: Rates, judge: str
) -> Record:
    """The run of a method with one candidate; `ann` has the rate of the ANN that it starts from, by
    where its clips start.
    """
    record = replace(base(), name=label, seed=seed, judge=judge)
    train = replace(record.train, lr=candidate["lr"])
    if not label.startswith("hsd"):
        data = replace(record.data, frames=[FIRST, FIRST + steps])
        model = replace(record.model, neuron=candidate["neuron"])
        return replace(record, data=data, model=model, method=MethodConfig(name=label), train=train)
    kind, *more = label.removeprefix("hsd ").split(", ")
    options = {key: candidate[key] for key in ("temperature", "reduction") if key in candidate}
    options |= {
        "distill": kind,
        "label_loss": "tet" if "tet" in more else "ce",
        "twin": "run",
        "snn_frames": [FIRST, FIRST + steps],
    }
    model = replace(
        record.model, neuron={"name": "qcfs_if", "v_init": candidate.get("v_init", 0.5)}
    )
    train = replace(train, epochs=EPOCHS // 2)
    teacher = str(
        place_of(ann_record(ann[clip_of(label)], clip_of(label), seed), 0).relative_to(ROOT)
    )
    return replace(
        record,
        model=model,
        method=MethodConfig(name="hsd", options=options),
        train=train,
        teacher=teacher,
    )


def place_of(record: Record, steps: int) -> Path:
    """The run folder, named for all that differs between runs."""
    options = json.dumps(
        [record.model.neuron, record.method.options, record.train.lr, record.judge], sort_keys=True
    )
    return (
        FOLDER
        / f"{record.name.replace(', ', '-').replace(' ', '-')}-T{steps}-seed{record.seed}-{content_hash(options)}"
    )


def train(job: tuple[Record, int]) -> dict[str, Any]:
    """One run, kept if it is finished: its scores at every t, its environment."""
    record, steps = job
    torch.set_num_threads(1)  # two runs at a time
    folder = place_of(record, steps)
    scores = run_record(record, folder, resume=(folder / "config.yaml").exists())
    kept = {
        key: scores[key]
        for key in (
            "split",
            "protocol",
            "protocol_hash",
            "samples",
            "frames",
            "prefix_top1",
            "rates",
        )
    }
    return {**kept, "env": json.loads((folder / "env.json").read_text())}


def train_all(jobs: Iterable[tuple[Record, int]]) -> Iterator[dict[str, Any]]:
    with ProcessPoolExecutor(2) as pool:
        yield from pool.map(train, jobs)


def tune_ann() -> list[dict[str, Any]]:
    """A row for every start of the clips, rate and seed of the ANN: its validation accuracy."""
    keys = [(clip, lr, seed) for clip in CLIPS for lr in RATES for seed in TUNE_SEEDS]
    scores = train_all((ann_record(lr, clip, seed), 0) for clip, lr, seed in keys)
    return [
        {"clip": clip, "lr": lr, "seed": seed, "val_top1": each["prefix_top1"][-1]}
        for (clip, lr, seed), each in zip(keys, scores, strict=True)
    ]


def ann_rates(ann_tuning: Sequence[dict[str, Any]]) -> Rates:
    """The best rate of the ANN for each start of its clips."""
    return {clip: best([row for row in ann_tuning if row["clip"] == clip], "lr") for clip in CLIPS}


def tune(ann: Rates) -> list[dict[str, Any]]:
    """A row for every method, candidate and seed: the validation accuracy at t = T."""
    keys = [
        (label, candidate, seed)
        for label in OPTIONS
        for candidate in candidates(label)
        for seed in TUNE_SEEDS
    ]
    jobs = [
        (record_of(*key[:2], TUNE_STEPS, key[2], ann=ann, judge="val"), TUNE_STEPS) for key in keys
    ]
    rows = []
    for (label, candidate, seed), scores in zip(keys, train_all(jobs), strict=True):
        rows.append(
            {
                "method": label,
                "candidate": candidate,
                "seed": seed,
                "val_top1": scores["prefix_top1"][-1],
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def best(rows: Sequence[dict[str, Any]], key: str) -> Any:
    """The value of `key` with the highest mean validation accuracy; the first of equals."""
    values = []
    for row in rows:
        if row[key] not in values:
            values.append(row[key])
    return max(
        values,
        key=lambda value: statistics.fmean(row["val_top1"] for row in rows if row[key] == value),
    )


def measure(ann: Rates, chosen: dict[str, Candidate]) -> list[dict[str, Any]]:
    """A row for every method, T and seed: the test accuracy at every t up to T."""
    keys = [(label, steps, seed) for seed in SEEDS for label in OPTIONS for steps in STEPS]
    list(train_all((ann_record(ann[clip], clip, seed), 0) for clip in CLIPS for seed in SEEDS))
    jobs = [
        (record_of(label, chosen[label], steps, seed, ann=ann, judge="test"), steps)
        for label, steps, seed in keys
    ]
    rows = []
    for (label, steps, seed), scores in zip(keys, train_all(jobs), strict=True):
        rows.append({"method": label, "steps": steps, "seed": seed, **scores})
        print(label, steps, seed, scores["prefix_top1"], file=sys.stderr, flush=True)
    return rows


def table_of(runs: Sequence[dict[str, Any]], *, any_step: bool) -> list[dict[str, Any]]:
    """Mean and sd over the seeds for every method and t: of the network trained at T = t, or of
    that trained at T = 5.
    """
    rows = []
    for label in dict.fromkeys(run["method"] for run in runs):
        for t in range(1, max(STEPS) + 1) if any_step else STEPS:
            own = [
                run
                for run in runs
                if run["method"] == label and run["steps"] == (max(STEPS) if any_step else t)
            ]
            values = [run["prefix_top1"][t - 1] for run in own]
            rows.append(
                {
                    "method": label,
                    "t": t,
                    "top1_mean": statistics.fmean(values),
                    "top1_sd": statistics.stdev(values),
                }
            )
    return rows


def markdown(runs: Sequence[dict[str, Any]], *, any_step: bool) -> str:
    """`table_of` in Markdown; beside the network trained at T = 5 its firing rate, the mean over
    layers and seeds.
    """
    rows = table_of(runs, any_step=any_step)
    head = [
        "method",
        *(f"t = {t}" for t in dict.fromkeys(row["t"] for row in rows)),
        *(["firing rate"] if any_step else []),
    ]
    lines = [head, ["---"] * len(head)]
    for label in dict.fromkeys(row["method"] for row in rows):
        cells = [
            f"{row['top1_mean']:.1f} ± {row['top1_sd']:.1f}"
            for row in rows
            if row["method"] == label
        ]
        lines.append([label, *cells, *([f"{firing_rate(runs, label):.3f}"] if any_step else [])])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def firing_rate(runs: Sequence[dict[str, Any]], label: str) -> float:
    """Spikes of a neuron in a step, in the networks trained at T = 5: the mean over layers and
    seeds.
    """
    own = [
        run["rates"].values()
        for run in runs
        if run["method"] == label and run["steps"] == max(STEPS)
    ]
    return statistics.fmean(statistics.fmean(rates) for rates in own)


def tuning_table(tuning: Sequence[dict[str, Any]]) -> str:
    """The validation accuracy of every candidate, averaged over its seeds, in Markdown."""
    lines = [
        "| method | option | " + " | ".join(f"lr {lr}" for lr in RATES) + " |",
        "| --- | --- |" + " --- |" * len(RATES),
    ]
    for label, options in OPTIONS.items():
        for option in options:
            cells = []
            for lr in RATES:
                own = [
                    row["val_top1"]
                    for row in tuning
                    if row["method"] == label and row["candidate"] == {"lr": lr, **option}
                ]
                cells.append(f"{statistics.fmean(own):.1f}")
            lines.append(f"| {label} | {option_text(option)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def option_text(option: Candidate) -> str:
    """An option in a cell.

    >>> option_text({"neuron": {"name": "lif", "tau": 2.0}}), option_text({"temperature": 2.0, "reduction": "batchmean"})
    ('lif', 'temperature 2.0, batchmean')
    """
    if "neuron" in option:
        return option["neuron"]["name"]
    return ", ".join(
        str(value) if key == "reduction" else f"{key} {value}" for key, value in option.items()
    )


def picture(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Both tables as curves: trained for each T, and trained at T = 5 and stopped early."""
    plots = need("matplotlib.pyplot", extra="report", purpose="drawing the accuracy over t")
    figure, axes = plots.subplots(1, 2, figsize=(10.5, 3.8), sharey=True, layout="constrained")
    titles = ("trained and judged at the same T", "trained at T = 5, stopped after t steps")
    for any_step, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        rows = table_of(runs, any_step=bool(any_step))
        for number, label in enumerate(OPTIONS):
            own = [row for row in rows if row["method"] == label]
            steps, means, spreads = (
                [row[key] for row in own] for key in ("t", "top1_mean", "top1_sd")
            )
            style = "-" if not label.startswith("hsd") else ":" if clip_of(label) == 8.0 else "--"
            marker = "osD^vDPvX"[number]
            axis.errorbar(
                steps,
                means,
                spreads,
                label=label,
                linestyle=style,
                marker=marker,
                capsize=2,
                color=f"C{number}",
            )
        axis.set(title=title, xlabel="t, frames of 30 ms", xticks=range(1, max(STEPS) + 1))
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="test top-1, %", ylim=(0, 101))
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    plots.close(figure)


def write_documents(result: dict[str, Any]) -> None:
    """The tables between their markers, and the picture."""
    page = PAGE.read_text(encoding="utf-8")
    for name, table in (
        ("second_half", markdown(result["runs"], any_step=False)),
        ("second_half_any_step", markdown(result["runs"], any_step=True)),
        ("second_half_tuning", tuning_table(result["tuning"])),
    ):
        page = quote(page, name, table)
    write_text(PAGE, page)
    picture(result["runs"], ROOT / "docs" / "second_half.png")


def main() -> None:
    for name in ("second_half", "second_half_any_step", "second_half_tuning"):
        quote(
            PAGE.read_text(encoding="utf-8"), name, ""
        )  # no markers: say so before training, not after
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
    write_documents(result)


if __name__ == "__main__":
    main()
