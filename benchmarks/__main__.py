"""`python -m benchmarks KIND`: tables for people on stderr, one JSON line last on stdout.

Exit codes: 0 measured, 1 a kernel disagrees with the reference (no time is taken), 2 asked wrongly,
130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from anystep._command import say
from anystep._errors import UsageError
from anystep._files import write_json
from anystep.console import print_table
from benchmarks import BENCHES, run_bench, tables_of


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure speed as ratios in one process.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("kind", choices=list(BENCHES), help="what to measure")
    like = "measure this; may be repeated"
    add("--shape", action="append", default=[], metavar="T,N,...", help=like)
    rounds = "rounds (default: as many as fit into a minute, 3 to 15)"
    add("--repeats", type=int, metavar="N", help=rounds)
    spent = "begin no round and no group after so long"
    add("--budget", type=float, metavar="SECONDS", help=spent)
    add("--threads", type=int, metavar="N", help="threads (default: torch's)")
    add("--quick", action="store_true", help="3 rounds, less to measure: a look, not a result")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add("--model", default="vgg_snn", help="the network of train and infer (default: vgg_snn)")
    add("--save", metavar="FILE", help="write the result there too, as JSON")
    return parser


def whole_numbers(text: str) -> tuple[int, ...]:
    """`"10,16,64"` -> `(10, 16, 64)`."""
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        like = "whole numbers with commas between, like 10,16,64,48,48"
        raise UsageError(f"--shape: {like}, got {text!r}") from None


def bench(arguments: argparse.Namespace) -> None:
    """Measure, show the tables, write the record."""
    if arguments.save and not Path(arguments.save).parent.is_dir():
        raise UsageError(f"--save: no folder {str(Path(arguments.save).parent)!r} to write to")
    result = run_bench(
        arguments.kind,
        shapes=[whole_numbers(text) for text in arguments.shape],
        repeats=arguments.repeats,
        threads=arguments.threads,
        budget=arguments.budget,
        quick=arguments.quick,
        device=arguments.device,
        model=arguments.model,
    )
    result["environment"]["command"][:1] = ["python", "-m", "benchmarks"]  # not "__main__.py"
    for table in tables_of(result):
        print_table(*table)
    allocator = result["settings"]["allocator"]
    say(f"{result['environment']['threads']} threads, allocator {allocator}")
    for name, reason in result["left_out"].items():
        say(f"left out: {name}: {reason}")
    if arguments.save:
        write_json(arguments.save, result)
    print(json.dumps(result))


def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_parser().parse_args(argv)
    try:
        bench(arguments)
    except (UsageError, RuntimeError) as error:
        say(f"benchmarks {arguments.kind}: {error}")
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        say(f"benchmarks {arguments.kind}: interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
