"""Time as ratios: all contenders take turns in one process, and each is compared with the others of
the same round.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anystep._command import say
from benchmarks.memory import page_faults

Rows = list[dict[str, Any]]

GROUP_S = 60.0  # for a group of contenders, where the caller does not say how many rounds
WARM_UP = 6  # rounds at most: freed blocks need some to settle into sizes that fit all
CALM = 256  # page faults in a round (1 MiB) below which memory is warm


@dataclass(frozen=True)
class Setup:
    """What was asked for.

    `repeats=None`: as many rounds as fit into `GROUP_S`. `until`: when the budget is spent, on the
    clock of `time.perf_counter`.
    """

    device: torch.device
    shapes: tuple[tuple[int, ...], ...] = ()
    repeats: int | None = None
    quick: bool = False
    model: str = "vgg_snn"
    until: float = math.inf

    def rounds(self, round_s: float) -> int:
        """How many rounds to count, of `round_s` seconds each."""
        if self.repeats is not None:
            return self.repeats
        return 3 if self.quick else max(3, min(15, int(GROUP_S / round_s)))

    @property
    def spent(self) -> bool:
        """Whether the budget is."""
        return time.perf_counter() >= self.until


@dataclass(frozen=True)
class Contender:
    """Something to time. `scale` turns the time into the one to report; ratios stay inside a
    `group`.
    """

    name: str
    run: Callable[[], object]
    group: str = ""
    scale: float = 1.0


def digits(value: float) -> float:
    """Five digits: no clock is worth more."""
    return float(f"{value:.5g}")


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


def _warm_up(contenders: Sequence[Contender], setup: Setup) -> float:
    """Rounds that do not count, until memory is warm; the seconds of the last one."""
    for number in range(1 if setup.quick else WARM_UP):
        once = [_once(contender, setup.device) for contender in contenders]
        duration = sum(seconds for seconds, *_ in once)
        calm = number > 0 and sum(minor for _, minor, _ in once) < CALM
        if calm or setup.spent:
            break
    return duration


def _take_turns(contenders: Sequence[Contender], setup: Setup) -> NDArray[np.float64]:
    """Seconds, minor and major faults: (rounds, contenders, 3)."""
    group = ", ".join(dict.fromkeys(each.group for each in contenders if each.group))
    say(f"{group or 'all'}: {', '.join(dict.fromkeys(each.name for each in contenders))}: warm up")
    round_s = _warm_up(contenders, setup)
    rounds = setup.rounds(round_s)
    say(f"{group or 'all'}: {rounds} rounds of about {round_s:.2g} s")
    taken = []
    for _ in range(rounds):
        gc.collect()
        taken.append([_once(contender, setup.device) for contender in contenders])
        if setup.spent:
            break
    return np.array(taken, dtype=np.float64)


def measure(contenders: Sequence[Contender], setup: Setup, *, against: Sequence[str]) -> Rows:
    """Time the contenders in turn, A B C A B C ..., and give a row for each.

    A row has the median, the quartiles and the minimum in milliseconds, page faults (median of the
    minor, sum of the major ones), and `ratio_to`: the median over the rounds of its time by that of
    a contender of `against` in the same round. Once the budget is spent there is no further round.
    """
    taken = _take_turns(contenders, setup)
    times = taken[..., 0] * [1000 * contender.scale for contender in contenders]
    place = {(contender.group, contender.name): i for i, contender in enumerate(contenders)}
    rows = []
    for i, contender in enumerate(contenders):
        q1, median, q3 = np.percentile(times[:, i], (25, 50, 75))
        others = {name: place.get((contender.group, name), i) for name in against}
        row = {
            "group": contender.group,
            "name": contender.name,
            "median_ms": digits(median),
            "q1_ms": digits(q1),
            "q3_ms": digits(q3),
            "min_ms": digits(times[:, i].min()),
            "minor_faults": int(np.median(taken[:, i, 1])),
            "major_faults": int(taken[:, i, 2].sum()),
            "rounds": len(taken),
            "ratio_to": {
                name: digits(np.median(times[:, i] / times[:, j]))
                for name, j in others.items()
                if j != i
            },
        }
        rows.append(row)
    return rows


def measure_groups(
    groups: Mapping[str, Callable[[], Rows]], setup: Setup
) -> tuple[Rows, dict[str, str]]:
    """(the rows of all groups, why some are left out). The first group is always measured; none
    begins once the budget is spent.
    """
    rows: Rows = []
    left_out = {}
    for name, run in groups.items():
        if rows and setup.spent:
            left_out[name] = "the budget was spent"
        else:
            rows += run()
    return rows, left_out


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
