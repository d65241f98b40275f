"""Time as ratios: all contenders take turns in one process, and each is compared with the others of
the same round.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.memory import page_faults

BUDGET_S = 60.0  # a group of contenders, where the caller does not say how often to repeat
WARM_UP = 6  # rounds at most: freed blocks need some to settle into sizes that fit all
CALM = 256  # page faults in a round (1 MiB) below which memory is warm


@dataclass(frozen=True)
class Setup:
    """What was asked for. `repeats=None`: as many rounds as fit into `BUDGET_S`."""

    device: torch.device
    shapes: tuple[tuple[int, ...], ...] = ()
    repeats: int | None = None
    quick: bool = False
    model: str = "vgg_snn"

    def rounds(self, round_s: float) -> int:
        """How many rounds to count, of `round_s` seconds each."""
        if self.repeats is not None:
            return self.repeats
        return 3 if self.quick else max(3, min(15, int(BUDGET_S / round_s)))


@dataclass(frozen=True)
class Contender:
    """Something to time. `scale` turns the time into the one to report; ratios stay inside a
    `group`.
    """

    name: str
    run: Callable[[], object]
    group: str = ""
    scale: float = 1.0


def measure(
    contenders: Sequence[Contender], setup: Setup, *, against: Sequence[str]
) -> list[dict[str, Any]]:
    """Time the contenders in turn, A B C A B C ..., and give a row for each.

    A row has the median, the quartiles and the minimum in milliseconds, page faults (median of the
    minor, sum of the major ones), and `ratio_to`: the median over the rounds of its time by that of
    a contender of `against` in the same round.
    """
    duration = _warm_up(contenders, setup)
    rounds = setup.rounds(duration)
    taken = np.empty((rounds, len(contenders), 3))
    for turn in taken:
        gc.collect()
        for place, contender in zip(turn, contenders, strict=True):
            place[:] = _once(contender, setup.device)
    milliseconds = taken[..., 0] * [1000 * contender.scale for contender in contenders]
    rows = []
    for i, contender in enumerate(contenders):
        q1, median, q3 = np.percentile(milliseconds[:, i], (25, 50, 75))
        others = {
            other.name: j
            for j, other in enumerate(contenders)
            if other.group == contender.group and j != i
        }
        rows.append(
            {
                "group": contender.group,
                "name": contender.name,
                **{"median_ms": digits(median), "q1_ms": digits(q1), "q3_ms": digits(q3)},
                "min_ms": digits(milliseconds[:, i].min()),
                "minor_faults": int(np.median(taken[:, i, 1])),
                "major_faults": int(taken[:, i, 2].sum()),
                "rounds": rounds,
                "ratio_to": {
                    name: digits(np.median(milliseconds[:, i] / milliseconds[:, others[name]]))
                    for name in against
                    if name in others
                },
            }
        )
    return rows


def median_of(rows: Sequence[dict[str, Any]], name: str, group: str = "") -> float:
    """The median in milliseconds of one row."""
    return next(
        float(row["median_ms"]) for row in rows if (row["name"], row["group"]) == (name, group)
    )


def matmul(setup: Setup) -> tuple[Contender, float]:
    """(a large square product, its operations): what this machine does at best."""
    n = 1024 if setup.quick else 4096 if setup.device.type == "cuda" else 2048
    a, b = (torch.rand(n, n, device=setup.device) for _ in range(2))
    return Contender(f"matmul {n}", lambda: a @ b), 2.0 * n**3


def _warm_up(contenders: Sequence[Contender], setup: Setup) -> float:
    """Rounds that do not count, until memory is warm; the seconds of the last one."""
    for number in range(1 if setup.quick else WARM_UP):
        once = [_once(contender, setup.device) for contender in contenders]
        duration = sum(seconds for seconds, *_ in once)
        if number and sum(minor for _, minor, _ in once) < CALM:
            break
    return duration


def _once(contender: Contender, device: torch.device) -> tuple[float, int, int]:
    """(seconds, minor faults, major faults) of one run."""
    minor, major = page_faults()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    contender.run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    after = page_faults()
    return seconds, after[0] - minor, after[1] - major


def digits(value: float) -> float:
    """Five digits are more than a clock is worth."""
    return float(f"{value:.5g}")
