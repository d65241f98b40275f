"""Times as rates: how many events, files or recordings a second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.measure import Contender, Setup, measure


def rated(
    contenders: Sequence[Contender], setup: Setup, what: str, number: int, *, threads: int = 1
) -> list[dict[str, Any]]:
    """The rows of `measure`, with how many of `number` things that is a second, and on how many
    threads.

    The first contender is what the others are compared with.
    """
    rows = measure(contenders, setup, against=[contenders[0].name])
    return [
        {**row, f"{what}_per_s": _rate(number, row["median_ms"]), "threads": threads}
        for row in rows
    ]


def _rate(number: int, milliseconds: float) -> float:
    """So many a second, without digits that no clock is worth."""
    rate = 1000 * number / milliseconds
    return round(rate, 1) if rate < 1000 else round(rate)
