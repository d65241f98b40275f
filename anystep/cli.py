"""The command line: `anystep COMMAND`. Text for people on stderr, one JSON line last on stdout.

Exit codes: 0 done, 1 it went wrong, 2 it was asked wrongly, 130 interrupted (a run can be resumed).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anystep import __version__
from anystep._errors import UsageError
from anystep._lookup import choose
from anystep.cli_data import ACTIONS, add_actions

OVERRIDES = "any key of the recipe can be overridden: --train.epochs 3 --method.name tks (see: anystep keys)"


def train(arguments: argparse.Namespace, overrides: Sequence[str]) -> dict[str, Any]:
    """Train what RECIPE says, or go on with a run that stopped."""
    from anystep.folder import RunFolder
    from anystep.run import default_folder, run_record

    if arguments.resume:
        flags = [getattr(arguments, key) for key in ("recipe", "out", *ENGINE_FLAGS)]
        if overrides or arguments.skip_bad or any(flag is not None for flag in flags):
            raise UsageError(
                "--resume RUN goes on with that run as it is: no recipe, no --out and no overrides with it"
            )
        folder = Path(arguments.resume)
        record = RunFolder(folder).read_record()
    else:
        record = _record(arguments.recipe, arguments, overrides)
        folder = Path(arguments.out) if arguments.out else default_folder(record)
    scores = run_record(record, folder, resume=bool(arguments.resume))
    _print_scores(scores)
    return {
        "run": str(folder),
        "prefix_top1": scores["prefix_top1"],
        "protocol": scores["protocol"],
    }


def evaluate(arguments: argparse.Namespace, overrides: Sequence[str]) -> dict[str, Any]:
    """Judge a finished run's network again, from the weights on disk."""
    from anystep.run import evaluate_run

    _no_overrides(overrides)
    scores = evaluate_run(arguments.run)
    _print_scores(scores)
    return {"run": arguments.run, **scores}


def compare(arguments: argparse.Namespace, overrides: Sequence[str]) -> dict[str, Any]:
    """Train several methods of one recipe, or several recipes, with several seeds; finished runs
    are kept.
    """
    from anystep.compare import compare_methods, compare_recipes, table_cells
    from anystep.console import print_table

    several = len(arguments.recipe) > 1
    if several and arguments.methods:
        raise UsageError("--methods is for one recipe; of several recipes each has its own method")
    if not several and not arguments.methods:
        raise UsageError(
            "one recipe needs --methods, like --methods ce,tks; or name several recipes"
        )
    seeds = _seeds(arguments, overrides)
    records = [_record(recipe, arguments, overrides) for recipe in arguments.recipe]
    folder = Path(arguments.out or Path("runs") / ("compare" if several else records[0].name))
    if several:
        result = compare_recipes(records, seeds, folder)
    else:
        result = compare_methods(records[0], arguments.methods.split(","), seeds, folder)
    scores = result["runs"][0]["scores"]
    header, rows = table_cells(result["table"])
    prefix = (
        "of t steps as each row says"
        if "prefix" in result["table"][0]
        else f"of t {scores['prefix']} steps"
    )
    title = f"top-1 in percent, prefix {prefix}, {scores['protocol']} ({scores['protocol_hash']}), {scores.get('split', 'test')}"
    print_table(title, header, rows)
    return {"out": str(folder), "table": result["table"]}


def sweep(arguments: argparse.Namespace, overrides: Sequence[str]) -> dict[str, Any]:
    """Train with several numbers of time steps and judge each network after every step; finished
    runs are kept.
    """
    from anystep.console import print_table
    from anystep.sweep import PICTURES, sweep_cells, sweep_steps

    if any(flag.partition("=")[0] == "--train.steps" for flag in overrides):
        raise UsageError("sweep sets train.steps itself: name them in --train-steps")
    seeds, lengths = (
        _seeds(arguments, overrides),
        _whole_numbers(arguments.train_steps, "--train-steps", "1,2,4,10"),
    )
    record = _record(arguments.recipe, arguments, overrides)
    methods = arguments.methods.split(",") if arguments.methods else [record.method.name]
    folder = Path(arguments.out or Path("runs") / f"{record.name}-sweep")
    result = sweep_steps(record, lengths, methods, seeds, folder)
    scores = result["runs"][0]["scores"]
    prefix = " / ".join(dict.fromkeys(matrix["prefix"] for matrix in result["matrices"].values()))
    title = f"top-1 in percent after t steps, {prefix}, {scores['protocol']} ({scores['protocol_hash']}), {record.judge}"
    print_table(title, *sweep_cells(result["matrices"]))
    return {
        "out": str(folder),
        "pictures": [str(folder / name) for name in PICTURES],
        "matrices": result["matrices"],
    }


def report(arguments: argparse.Namespace, overrides: Sequence[str]) -> dict[str, Any]:
    """One self-contained HTML page, and a PNG of the accuracy over t, from finished runs."""
    from anystep.evaluation.report.page import accuracy_png, write_report
    from anystep.folder import read_runs, runs_in

    _no_overrides(overrides)
    runs = read_runs(run for place in arguments.runs for run in runs_in(place))
    page = write_report(runs, arguments.out)
    picture = accuracy_png(runs, page.with_suffix(".png"))
    print(f"report: {page}\npicture: {picture}", file=sys.stderr)
    return {"report": str(page), "picture": str(picture)}


def data(arguments: argparse.Namespace, overrides: Sequence[str]) -> dict[str, Any]:
    """List, get, check, show and simulate data sets."""
    _no_overrides(overrides)
    return choose(ACTIONS, arguments.action, "action")(arguments)


def keys(arguments: argparse.Namespace, overrides: Sequence[str]) -> dict[str, Any]:
    """Every key of a recipe, with its type and default."""
    from anystep.config import describe_keys
    from anystep.console import print_table

    _no_overrides(overrides)
    rows = describe_keys()
    print_table("keys of a recipe", ["key", "type", "default", "what"], rows)
    return {"keys": [name for name, *_ in rows]}


ENGINE_FLAGS = ("devices", "precision")
COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "sweep": sweep,
    "report": report,
    "data": data,
    "keys": keys,
}


def make_parser() -> argparse.ArgumentParser:
    """All commands and flags. Its only import beyond the standard library is this package, so help
    is fast.
    """
    parser = argparse.ArgumentParser(
        prog="anystep", description="Train a spiking network once, deploy it at any step."
    )
    parser.add_argument("--version", action="version", version=f"anystep {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, **options: Any) -> argparse.ArgumentParser:
        text = (COMMANDS[name].__doc__ or "").strip()
        return commands.add_parser(name, help=text, description=text, allow_abbrev=False, **options)

    add = command("train", epilog=OVERRIDES)
    add.add_argument("recipe", nargs="?", help="a YAML recipe")
    add.add_argument("--out", help="run folder (default: runs/NAME-METHOD-seedN)")
    add.add_argument("--resume", metavar="RUN", help="go on with this run folder")
    _record_flags(add)
    add = command("evaluate")
    add.add_argument("run", help="a finished run folder")
    add = command("compare", epilog=OVERRIDES)
    add.add_argument(
        "recipe",
        nargs="+",
        metavar="RECIPE",
        help="a YAML recipe, with --methods; or several, a row each",
    )
    add.add_argument("--methods", help="of one recipe: names with commas between: ce,tks")
    add.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="run seeds 0..N-1 (default: 3)"
    )
    add.add_argument(
        "--out",
        help="folder of run folders (default: runs/NAME, or runs/compare of several recipes)",
    )
    _record_flags(add)
    add = command("sweep", epilog=OVERRIDES)
    add.add_argument("recipe", help="a YAML recipe")
    add.add_argument(
        "--train-steps",
        required=True,
        metavar="T,...",
        help="numbers of time steps to train with: 1,2,4,10",
    )
    add.add_argument("--methods", help="names with commas between (default: the recipe's)")
    add.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="run seeds 0..N-1 (default: 3)"
    )
    add.add_argument("--out", help="folder of run folders (default: runs/NAME-sweep)")
    _record_flags(add)
    add = command("report")
    add.add_argument(
        "runs", nargs="+", metavar="RUN", help="finished run folders, or folders of them"
    )
    add.add_argument(
        "--out", default="report.html", help="the page to write (default: report.html)"
    )
    add_actions(command("data"))
    command("keys")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = make_parser()
    arguments, overrides = parser.parse_known_args(argv)
    try:
        result = choose(COMMANDS, arguments.command, "command")(arguments, overrides)
    except UsageError as error:
        print(f"anystep {arguments.command}: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, ArithmeticError, OSError) as error:
        print(f"anystep {arguments.command}: {error}", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(
            f"anystep {arguments.command}: out of memory{f': {error}' if str(error) else ''}",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt as stop:
        print(
            f"anystep {arguments.command}: interrupted{f'; {stop}' if str(stop) else ''}",
            file=sys.stderr,
        )
        return 130
    print(json.dumps(result))
    return 0 if result.get("ok", True) else 1


def _record(recipe: str | None, arguments: argparse.Namespace, overrides: Sequence[str]) -> Any:
    from anystep.config import load_recipe, merge, overrides_from, record_from

    if not recipe:
        raise UsageError("name a recipe, or go on with a run: --resume RUN")
    flags: dict[str, Any] = {
        "engine": {
            key: getattr(arguments, key)
            for key in ENGINE_FLAGS
            if getattr(arguments, key) is not None
        }
    }
    if arguments.skip_bad:
        flags["data"] = {"options": {"skip_bad": True}}
    return record_from(merge(merge(load_recipe(recipe), overrides_from(overrides)), flags))


def _seeds(arguments: argparse.Namespace, overrides: Sequence[str]) -> range:
    if arguments.seeds < 1:
        raise UsageError(f"--seeds must be >= 1, got {arguments.seeds}")
    if any(flag.partition("=")[0] == "--seed" for flag in overrides):
        raise UsageError(
            f"{arguments.command} runs the seeds 0..N-1 of --seeds N; --seed is for train"
        )
    return range(arguments.seeds)


def _record_flags(parser: argparse.ArgumentParser) -> None:
    """Short for --data.options.skip_bad true, --engine.devices and --engine.precision."""
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out recordings that cannot be read, and count them",
    )
    parser.add_argument(
        "--devices", type=int, metavar="N", help="processes, one a device (engine.devices)"
    )
    parser.add_argument(
        "--precision", metavar="NAME", help="like 32-true or bf16-mixed (engine.precision)"
    )


def _no_overrides(overrides: Sequence[str]) -> None:
    if overrides:
        raise UsageError(f"unknown argument {overrides[0]!r}")


def _whole_numbers(text: str, flag: str, like: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise UsageError(
            f"{flag}: whole numbers with commas between, like {like}, got {text!r}"
        ) from None


def _print_scores(scores: dict[str, Any]) -> None:
    from anystep.console import print_table

    columns = ("prefix_top1", "prefix_top5", "step_top1", "aurc_softmax", "aurc_max_logit")
    steps = range(scores["steps"])
    rows = [
        [str(t + 1), *(f"{scores[name][t]:.2f}" for name in columns), f"{scores['ece'][t]:.3f}"]
        for t in steps
    ]
    judged = f"{scores['samples']} {scores.get('split', 'test')} samples"
    title = (
        f"{judged}, {scores['protocol']} ({scores['protocol_hash']}), prefix: {scores['prefix']}"
    )
    print_table(
        title,
        ["t", "top-1 prefix", "top-5 prefix", "top-1 step", "AURC softmax", "AURC logit", "ECE"],
        rows,
    )


if __name__ == "__main__":
    sys.exit(main())
