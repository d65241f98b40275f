"""`python -m benchmarks`: how fast this is here, as ratios in one process, beside a floor, a twin and the
peers that are installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from anystep._errors import UsageError
from anystep._lookup import choose
from anystep.environment import describe_environment
from benchmarks.events import bench_data
from benchmarks.layer import bench_neurons
from benchmarks.measure import Setup
from benchmarks.memory import pin_allocator
from benchmarks.networks import bench_infer, bench_train

BENCHES: dict[str, Callable[[Setup], dict[str, Any]]] = {
    "neurons": bench_neurons,
    "train": bench_train,
    "infer": bench_infer,
    "data": bench_data,
}
COLUMNS = {
    "group",
    "name",
    "median_ms",
    "q1_ms",
    "q3_ms",
    "min_ms",
    "minor_faults",
    "major_faults",
    "rounds",
    "ratio_to",
}
TOLD = ("THP_MEM_ALLOC_ENABLE", "OMP_NUM_THREADS", "LD_PRELOAD", "SJ_LIF_CUDA_IMPLEMENTATION")


def run_bench(
    kind: str,
    *,
    shapes: Sequence[Sequence[int]] = (),
    repeats: int | None = None,
    threads: int | None = None,
    quick: bool = False,
    device: str = "cpu",
    model: str = "vgg_snn",
    pin: bool = True,
) -> dict[str, Any]:
    """Run one of `BENCHES` and return what `results/bench_KIND.json` holds.

    `shapes`: tensors to measure on, else the bench's own. `repeats`: rounds that count; without it
    as many as fit into a minute a group, 3 to 15 (`quick`: 3). `pin` tells the process's allocator
    to keep freed memory, for good. The result has the environment, the settings, a row a contender,
    a summary, and what was left out and why.

    Errors: `ValueError` for an unknown kind or a wrong number; `RuntimeError` if a kernel disagrees
    with the reference: no time is taken then.
    """
    bench = choose(BENCHES, kind, "bench")
    _check(shapes, repeats, threads, device)
    allocator = pin_allocator() if pin else "not pinned: not asked for"
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    setup = Setup(
        torch.device(device), tuple(tuple(shape) for shape in shapes), repeats, quick, model
    )
    try:
        environment = describe_environment(seed=0, device=device)
        found = bench(setup)
    finally:
        torch.set_num_threads(before)
    settings = {
        **{
            "shapes": [list(shape) for shape in shapes],
            "repeats": repeats,
            "quick": quick,
            "device": device,
            "model": model,
        },
        "allocator": allocator,
        "variables": {name: os.environ[name] for name in TOLD if name in os.environ},
    }
    return {"bench": kind, "environment": environment, "settings": settings, **found}


def tables_of(result: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, header, rows) of each group of contenders and of the summary, as text for people."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        groups.setdefault(row["group"], []).append(row)
    tables = [
        (f"bench {result['bench']} {group}".strip(), *_cells(rows))
        for group, rows in groups.items()
    ]
    told = [[name, _short(value)] for name, value in _flat(result["summary"])]
    return [*tables, (f"bench {result['bench']} summary", ["", "value"], told)] if told else tables


def _flat(summary: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(name, value) of a summary: a mapping inside it has a line for each of its own."""
    for key, value in summary.items():
        if isinstance(value, dict):
            yield from ((f"{key}: {name}", each) for name, each in value.items())
        else:
            yield key, value


def _cells(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    against = list(dict.fromkeys(name for row in rows for name in row["ratio_to"]))
    more = list(dict.fromkeys(key for row in rows for key in row if key not in COLUMNS))
    header = [
        "",
        "median ms",
        "quartiles",
        "min",
        "faults",
        *(f"/ {name.removeprefix('anystep ')}" for name in against),
        *more,
    ]
    lines = []
    for row in rows:
        times = [
            f"{row['median_ms']:.3f}",
            f"{row['q1_ms']:.3f}-{row['q3_ms']:.3f}",
            f"{row['min_ms']:.3f}",
        ]
        ratios = [
            f"{row['ratio_to'][name]:.3f}" if name in row["ratio_to"] else "" for name in against
        ]
        lines.append(
            [
                row["name"],
                *times,
                str(row["minor_faults"]),
                *ratios,
                *(_short(row.get(key)) for key in more),
            ]
        )
    return header, lines


def _short(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _check(
    shapes: Sequence[Sequence[int]], repeats: int | None, threads: int | None, device: str
) -> None:
    for name, number in (("repeats", repeats), ("threads", threads)):
        if number is not None and number < 1:
            raise UsageError(f"bench: {name} must be >= 1, got {number}")
    for shape in shapes:
        if not shape or min(shape) < 1:
            raise UsageError(f"bench: a shape is whole numbers >= 1, got {tuple(shape)}")
    if device not in ("cpu", "cuda"):
        raise UsageError(f"bench: device must be 'cpu' or 'cuda', got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("bench: device 'cuda' is not there")
