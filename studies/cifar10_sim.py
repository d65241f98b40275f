"""Plain training, TET and TKS on a part of cifar10-sim: `python -m studies.cifar10_sim FOLDER`.

FOLDER is a film of 300 images of each class:

    anystep data simulate --images cifar10 --root CIFAR10 --path closed-loop --per-class 300 \\
        --out FOLDER

Of its 3,000 recordings a fifth tests (fold 1 of 5), a tenth of the rest is set aside, 2,160 train.
Ten live frames of 120 ms at 48 x 48, as CIFAR10-DVS is used. The network is a narrow VGG-SNN, as
CPU time allows: [16] [32] [64] [64]. Nothing is tuned here: rate and schedule are those of
recipes/digits_demo.yaml, chosen there for plain training on other data; TKS has the paper's values
for events.

Writes results/cifar10_sim.json, docs/cifar10_sim.png and the table between the markers in
docs/simulated-camera.md. Finished runs in runs/cifar10_sim are kept. Commit first: the records say
whether the code was changed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from anystep._files import write_json
from anystep.config import DataConfig, MethodConfig, Record
from anystep.data.datasets import load_dataset
from anystep.preflight import make_binning
from studies.study import (
    ROOT,
    Job,
    Rows,
    check_markers,
    curves_in_markdown,
    folder_given,
    picture,
    public,
    recipe,
    table_of,
    tell,
    train_all,
    write_table,
)

EPOCHS, SEEDS = 12, (0, 1, 2)
PROTOCOL = "fold-1-of-5@0"
METHODS: dict[str, dict[str, Any]] = {
    "ce": {},
    "tet": {},
    "tks": {"alpha": 0.3, "temperature": 5.0},
}
FOLDER = ROOT / "runs" / "cifar10_sim"
PAGE = ROOT / "docs" / "simulated-camera.md"
SHOWN = range(1, 11)


def record_of(method: str, seed: int, root: str) -> Record:
    """The run of a method with one seed on the film in `root`."""
    record = recipe("digits_demo")
    return replace(
        record,
        name="cifar10-sim",
        seed=seed,
        data=DataConfig(
            name="cifar10-sim",
            binning={"name": "fixed_duration", "steps": 10, "duration_us": 120_000},
            options={"root": root, "size": 48, "protocol": PROTOCOL},
        ),
        model=replace(record.model, options={"widths": [[16], [32], [64], [64]]}),
        method=MethodConfig(name=method, options=METHODS[method]),
        train=replace(record.train, epochs=EPOCHS),
        tensorboard=False,
    )


def wanted() -> list[tuple[str, int]]:
    """(method, seed) of every run that the result holds."""
    return [(method, seed) for seed in SEEDS for method in METHODS]


def measure(root: str) -> Rows:
    """A row for every method and seed."""
    jobs: list[Job] = [
        (record_of(*key, root), FOLDER / f"{key[0]}-seed{key[1]}") for key in wanted()
    ]
    rows = []
    for (method, seed), scores in zip(wanted(), train_all(jobs), strict=True):
        rows.append({"method": method, "seed": seed, **scores})
        tell(method, seed, scores=scores)
    return rows


def main() -> None:
    root = str(folder_given())
    check_markers(PAGE, "cifar10_sim")
    first = record_of("ce", 0, root)
    data = first.data
    splits = load_dataset(data.name, binning=make_binning(data.binning), **data.options)
    sizes = {part: len(getattr(splits, part)) for part in ("train", "val", "test")}
    runs = measure(root)
    rows = table_of(runs)
    result = {"record": public(first), "samples": sizes, "runs": runs, "curves": rows}
    write_json(ROOT / "results" / "cifar10_sim.json", result)
    write_table(PAGE, "cifar10_sim", curves_in_markdown(rows, SHOWN))
    title = f"cifar10-sim, {sizes['train']:,} recordings to train, {sizes['test']:,} to test"
    picture(rows, ROOT / "docs" / "cifar10_sim.png", xlabel="t, frames of 120 ms", title=title)


if __name__ == "__main__":
    main()
