"""Times as rates: how many events, files or recordings a second."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.measure import Contender, Rows, Setup, measure


def _rate(number: int, milliseconds: float) -> float:
    """So many a second, without digits that no clock is worth."""
    rate = 1000 * number / milliseconds
    return round(rate, 1) if rate < 1000 else round(rate)


def rated(
    contenders: Sequence[Contender], setup: Setup, what: str, number: int, *, threads: int = 1
) -> Rows:
    """The rows of `measure`, with how many of `number` things that is a second, and on how many
    threads.

    The others are compared with the first contender.
    """
    rows = measure(contenders, setup, against=[contenders[0].name])
    return [
        {**row, f"{what}_per_s": _rate(number, row["median_ms"]), "threads": threads}
        for row in rows
    ]
