"""`python -m benchmarks`: how fast this is here, as ratios in one process, beside a floor, a twin
and the peers that are installed.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from anystep._errors import UsageError
from anystep._lookup import choose
from anystep.environment import describe_environment
from benchmarks.deploy import bench_deploy
from benchmarks.events import bench_data
from benchmarks.layer import bench_neurons
from benchmarks.measure import Rows, Setup
from benchmarks.memory import pin_allocator
from benchmarks.networks import bench_infer, bench_train

Table = tuple[str, list[str], list[list[str]]]  # title, header, rows

BENCHES: dict[str, Callable[[Setup], dict[str, Any]]] = {
    "neurons": bench_neurons,
    "train": bench_train,
    "infer": bench_infer,
    "data": bench_data,
    "deploy": bench_deploy,
}
TIMES = ("median_ms", "q1_ms", "q3_ms", "min_ms")
COLUMNS = {"group", "name", *TIMES, "minor_faults", "major_faults", "rounds", "ratio_to"}
TOLD = ("THP_MEM_ALLOC_ENABLE", "OMP_NUM_THREADS", "LD_PRELOAD", "SJ_LIF_CUDA_IMPLEMENTATION")


def _check(shapes: Sequence[Sequence[int]], device: str, **numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and not number >= 1:
            raise UsageError(f"bench: {name} must be >= 1, got {number}")
    for shape in shapes:
        if not shape or min(shape) < 1:
            raise UsageError(f"bench: a shape is whole numbers >= 1, got {tuple(shape)}")
    if device not in ("cpu", "cuda"):
        raise UsageError(f"bench: device must be 'cpu' or 'cuda', got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("bench: device 'cuda' is not there")


def run_bench(
    kind: str,
    *,
    shapes: Sequence[Sequence[int]] = (),
    repeats: int | None = None,
    threads: int | None = None,
    budget: float | None = None,
    quick: bool = False,
    device: str = "cpu",
    model: str = "vgg_snn",
    pin: bool = True,
) -> dict[str, Any]:
    """Run one of `BENCHES` and return what `results/bench_KIND.json` holds: the environment, the
    settings, a row a contender, a summary, and what was left out and why.

    - `shapes`: tensors to measure on, else the bench's own.
    - `repeats`: rounds that count. None: what fits into a minute a group, 3 to 15 (`quick`: 3).
    - `budget`: seconds after which no round and no group begins, but for the very first.
    - `pin`: tell the process's allocator to keep freed memory, for good.

    RuntimeError: a kernel disagrees with the reference; then no time is taken.
    """
    bench = choose(BENCHES, kind, "bench")
    _check(shapes, device, repeats=repeats, threads=threads, budget=budget)
    allocator = pin_allocator() if pin else "not pinned: not asked for"
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    until = time.perf_counter() + (math.inf if budget is None else budget)
    own = tuple(tuple(shape) for shape in shapes)
    try:
        environment = describe_environment(seed=0, device=device)
        found = bench(Setup(torch.device(device), own, repeats, quick, model, until))
    finally:
        torch.set_num_threads(before)
    settings = {
        "shapes": [list(shape) for shape in shapes],
        "repeats": repeats,
        "budget": budget,
        "quick": quick,
        "device": device,
        "model": model,
        "allocator": allocator,
        "variables": {name: os.environ[name] for name in TOLD if name in os.environ},
    }
    return {"bench": kind, "environment": environment, "settings": settings, **found}


def _short(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _cells(rows: Rows) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of a group."""
    against = list(dict.fromkeys(name for row in rows for name in row["ratio_to"]))
    more = list(dict.fromkeys(key for row in rows for key in row if key not in COLUMNS))
    ratios = [f"/ {name.removeprefix('anystep ')}" for name in against]
    lines = []
    for row in rows:
        median, q1, q3, least = (f"{row[key]:.3f}" for key in TIMES)
        line = [row["name"], median, f"{q1}-{q3}", least, str(row["minor_faults"])]
        found = (row["ratio_to"].get(name) for name in against)
        line += ["" if ratio is None else f"{ratio:.3f}" for ratio in found]
        lines.append([*line, *(_short(row.get(key)) for key in more)])
    return ["", "median ms", "quartiles", "min", "faults", *ratios, *more], lines


def _flat(summary: dict[str, Any]) -> Iterator[list[str]]:
    """[name, value] of a summary: a mapping inside it has a line for each of its own."""
    for key, value in summary.items():
        if isinstance(value, dict):
            yield from ([f"{key}: {name}", _short(each)] for name, each in value.items())
        else:
            yield [key, _short(value)]


def tables_of(result: dict[str, Any]) -> list[Table]:
    """A table for each group of contenders and one for the summary, as text for people."""
    groups: dict[str, Rows] = {}
    for row in result["rows"]:
        groups.setdefault(row["group"], []).append(row)
    about = f"bench {result['bench']}"
    tables = [(f"{about} {group}".strip(), *_cells(rows)) for group, rows in groups.items()]
    told = list(_flat(result["summary"]))
    return [*tables, (f"{about} summary", ["", "value"], told)] if told else tables
