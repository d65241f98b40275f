"""The command line: `anystep COMMAND`. Text for people on stderr; one JSON line last on stdout, if
that is no terminal or `--json` asks for it. `_command` says what the exit codes mean.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anystep import __version__
from anystep._command import open_streams, run_command, say
from anystep._errors import UsageError
from anystep._lookup import import_rows
from anystep.cli_data import (
    ACTION_FLAGS,
    ACTIONS,
    OPTION,
    Arguments,
    Flags,
    Result,
    options_from,
    whole_numbers,
)
from anystep.cli_deploy import DEPLOY_FLAGS, calibrate, export, stream

if TYPE_CHECKING:  # help answers at once, so a command imports what it needs itself
    from anystep.config import Record

JSON = "print what it ends with as JSON on stdout; always done where stdout is no terminal"
OVERRIDES = "any key of the recipe can be overridden: --train.epochs 3 (see: anystep keys)"


def _record(recipe: str | None, arguments: Arguments, overrides: Sequence[str]) -> Record:
    """The record of a recipe, its overrides and the short flags for some of its keys."""
    from anystep.config import load_recipe, merge, overrides_from, record_from

    if not recipe:
        raise UsageError("name a recipe, or go on with a run: --resume RUN")
    given = overrides_from(overrides)
    if "seeds" in arguments and "seed" in given:
        raise UsageError("--seeds N runs the seeds 0..N-1; --seed is for train")
    engine = {"devices": arguments.devices, "precision": arguments.precision}
    flags: Result = {"engine": {key: value for key, value in engine.items() if value is not None}}
    if arguments.skip_bad:
        flags["data"] = {"options": {"skip_bad": True}}
    tree = merge(merge(load_recipe(recipe), given), flags)
    known = tree.get("imports", [])
    if isinstance(known, list):
        tree["imports"] = list(dict.fromkeys([*known, *arguments.modules]))
    return record_from(tree)


def _protocol(scores: Mapping[str, Any]) -> str:
    return f"{scores['protocol']} ({scores['protocol_hash']})"


def _print_scores(scores: Mapping[str, Any]) -> None:
    from anystep.console import print_table

    columns = {
        "prefix_top1": "top-1 prefix",
        "prefix_top5": "top-5 prefix",
        "step_top1": "top-1 step",
        "aurc_softmax": "AURC softmax",
        "aurc_max_logit": "AURC logit",
    }
    rows = [
        [str(t + 1), *(f"{scores[name][t]:.2f}" for name in columns), f"{scores['ece'][t]:.3f}"]
        for t in range(scores["steps"])
    ]
    where = f" of {scores['data']}" if "data" in scores else ""
    part = "" if scores["split"] == "all" else f"{scores['split']} "
    judged = f"{scores['samples']} {part}samples{where}"
    title = f"{judged}, {_protocol(scores)}, prefix: {scores['prefix']}"
    print_table(title, ["t", *columns.values(), "ECE"], rows)


def train(arguments: Arguments, overrides: Sequence[str]) -> Result:
    """Train what RECIPE says, or go on with a run that stopped."""
    from anystep.folder import RunFolder

    if arguments.resume:
        others = (arguments.recipe, arguments.out, arguments.devices, arguments.precision)
        if overrides or arguments.skip_bad or any(each is not None for each in others):
            raise UsageError("--resume RUN goes on with that run as it is: nothing else with it")
        folder = Path(arguments.resume)
        record = RunFolder(folder).read_record()
    else:
        record = _record(arguments.recipe, arguments, overrides)
        name = f"{record.name}-{record.method.name}-seed{record.seed}"
        folder = Path(arguments.out or Path("runs") / name)
    from anystep.run import run_record  # torch; a recipe that is not there is said before

    finished = RunFolder(folder).finished
    scores = run_record(record, folder, resume=bool(arguments.resume))
    _print_scores(scores)
    say(f"{folder} was finished before: nothing was trained" if finished else f"run: {folder}")
    told = {key: scores[key] for key in ("prefix_top1", "protocol")}
    return {"run": str(folder), **told}


def evaluate(arguments: Arguments, overrides: Sequence[str]) -> Result:
    """Judge a finished run's network again, from the weights on disk; on other data with --data."""
    from anystep.run import evaluate_run

    options = options_from(arguments.option)
    scores = evaluate_run(arguments.run, arguments.data, split=arguments.split, options=options)
    _print_scores(scores)
    return {"run": arguments.run, **scores}


def compare(arguments: Arguments, overrides: Sequence[str]) -> Result:
    """Train several methods of one recipe, or several recipes; finished runs are kept."""
    several = len(arguments.recipe) > 1
    if several and arguments.methods:
        raise UsageError("--methods is for one recipe; of several recipes each has its own method")
    if not several and not arguments.methods:
        raise UsageError("one recipe needs --methods, like --methods ce,tks")
    records = [_record(recipe, arguments, overrides) for recipe in arguments.recipe]
    folder = Path(arguments.out or Path("runs") / ("compare" if several else records[0].name))
    from anystep.compare import compare_methods, compare_recipes, table_cells
    from anystep.console import print_table

    if several:
        result = compare_recipes(records, range(arguments.seeds), folder)
    else:
        result = compare_methods(
            records[0], arguments.methods.split(","), range(arguments.seeds), folder
        )
    scores, table = result["runs"][0]["scores"], result["table"]
    prefix = "t steps as each row says" if "prefix" in table[0] else f"t {scores['prefix']} steps"
    split = scores.get("split", "test")
    title = f"top-1 in percent, prefix of {prefix}, {_protocol(scores)}, {split}"
    print_table(title, *table_cells(table, result["runs"]))
    say(f"runs: {folder}")
    return {"out": str(folder), "table": table}


def sweep(arguments: Arguments, overrides: Sequence[str]) -> Result:
    """Train with several numbers of time steps, judge at every step; finished runs are kept."""
    if any(each.startswith("--train.steps") for each in overrides):
        raise UsageError("sweep sets train.steps itself: name them in --train-steps")
    lengths = whole_numbers(arguments.train_steps, "--train-steps", "1,2,4,10")
    record = _record(arguments.recipe, arguments, overrides)
    methods = arguments.methods.split(",") if arguments.methods else [record.method.name]
    folder = Path(arguments.out or Path("runs") / f"{record.name}-sweep")
    from anystep.console import print_table
    from anystep.sweep import PICTURES, sweep_cells, sweep_steps

    result = sweep_steps(record, lengths, methods, range(arguments.seeds), folder)
    scores, matrices = result["runs"][0]["scores"], result["matrices"]
    prefix = " / ".join(dict.fromkeys(matrix["prefix"] for matrix in matrices.values()))
    title = f"top-1 in percent after t steps, {prefix}, {_protocol(scores)}, {record.judge}"
    print_table(title, *sweep_cells(matrices))
    pictures = [str(folder / name) for name in PICTURES]
    say(f"runs: {folder}\npictures: {', '.join(pictures)}")
    return {"out": str(folder), "pictures": pictures, "matrices": matrices}


def report(arguments: Arguments, overrides: Sequence[str]) -> Result:
    """One self-contained HTML page, and a PNG of the accuracy over t, from finished runs."""
    from anystep.evaluation.report.page import accuracy_png, write_report
    from anystep.folder import read_runs, runs_in

    runs = read_runs(run for place in arguments.runs for run in runs_in(place))
    page = write_report(runs, arguments.out)
    picture = accuracy_png(runs, page.with_suffix(".png"))
    say(f"report: {page}\npicture: {picture}")
    return {"report": str(page), "picture": str(picture)}


def data(arguments: Arguments, overrides: Sequence[str]) -> Result:
    """List, get, check, show and simulate data sets."""
    return ACTIONS[arguments.action](arguments)


def keys(arguments: Arguments, overrides: Sequence[str]) -> Result:
    """Every key of a recipe, with its type, its default and what it is for."""
    from anystep.config import describe_keys
    from anystep.console import print_table

    rows = describe_keys()
    print_table("keys of a recipe", ["key", "type", "default", "what"], rows)
    return {"keys": [name for name, *_ in rows]}


COMMANDS: dict[str, Callable[[Arguments, Sequence[str]], Result]] = {
    each.__name__: each
    for each in (train, evaluate, compare, sweep, report, export, calibrate, stream, data, keys)
}
_RUNNING: Flags = {
    "--skip-bad": {"action": "store_true", "help": "leave out what cannot be read, and count it"},
    "--devices": {"type": int, "metavar": "N", "help": "processes, one a device (engine.devices)"},
    "--precision": {"metavar": "NAME", "help": "like 32-true or bf16-mixed (engine.precision)"},
}
_IMPORT: dict[str, Any] = {
    "action": "append",
    "default": [],
    "dest": "modules",
    "metavar": "MODULE",
    "help": "a module with rows of your own; may be repeated",
}
_SEEDS = {"type": int, "default": 3, "metavar": "N", "help": "run seeds 0..N-1 (default: 3)"}
FLAGS: dict[str, Flags] = {
    "train": {
        "recipe": {"nargs": "?", "help": "a YAML recipe"},
        "--out": {"help": "run folder (default: runs/NAME-METHOD-seedN)"},
        "--resume": {"metavar": "RUN", "help": "go on with this run folder"},
        **_RUNNING,
    },
    "evaluate": {
        "run": {"help": "a finished run folder"},
        "--data": {
            "metavar": "DIR",
            "help": "judge what lies here, of the same classes and frames",
        },
        "--split": {"metavar": "PART", "help": "train, val, test or all"},
        "--option": {**OPTION, "help": "of --data, like sensor=[240,320]; may be repeated"},
    },
    "compare": {
        "recipe": {"nargs": "+", "help": "one with --methods; or several, a row each"},
        "--methods": {"help": "of one recipe: names with commas between: ce,tks"},
        "--seeds": _SEEDS,
        "--out": {"help": "folder of run folders (default: runs/NAME or runs/compare)"},
        **_RUNNING,
    },
    "sweep": {
        "recipe": {"help": "a YAML recipe"},
        "--train-steps": {"required": True, "metavar": "T,...", "help": "to train with: 1,2,4,10"},
        "--methods": {"help": "names with commas between (default: the recipe's)"},
        "--seeds": _SEEDS,
        "--out": {"help": "folder of run folders (default: runs/NAME-sweep)"},
        **_RUNNING,
    },
    "report": {
        "runs": {"nargs": "+", "help": "finished run folders, or folders of them"},
        "--out": {"default": "report.html", "help": "the page to write (default: report.html)"},
    },
    **DEPLOY_FLAGS,
}


def _add_commands(
    parser: argparse.ArgumentParser, kind: str, table: Mapping[str, Any], flags: Mapping[str, Flags]
) -> None:
    """Give `parser` the commands of `table`, each with its flags and its docstring as help."""
    group = parser.add_subparsers(dest=kind, required=True, metavar=kind.upper())
    for name, command in table.items():
        own = flags.get(name, {})
        epilog = OVERRIDES if _RUNNING.keys() <= own.keys() else None
        words = {"help": command.__doc__, "description": command.__doc__, "epilog": epilog}
        added = group.add_parser(name, **words, allow_abbrev=False)
        for flag, options in own.items():
            added.add_argument(flag, **options)
        if name == "data":
            _add_commands(added, "action", ACTIONS, ACTION_FLAGS)
            continue
        added.add_argument("--import", **_IMPORT)
        if name != "stream":
            added.add_argument("--json", action="store_true", help=JSON)


def make_parser() -> argparse.ArgumentParser:
    """All commands and flags. Beyond the standard library it imports only this package."""
    parser = argparse.ArgumentParser(
        prog="anystep", description="Train a spiking network once, deploy it at any step."
    )
    parser.add_argument("--version", action="version", version=f"anystep {__version__}")
    _add_commands(parser, "command", COMMANDS, FLAGS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    open_streams()
    arguments, overrides = make_parser().parse_known_args(argv)

    def command() -> Result:
        if overrides and not hasattr(arguments, "precision"):
            raise UsageError(f"unknown argument {overrides[0]!r}")
        import_rows(arguments.modules)
        return COMMANDS[arguments.command](arguments, overrides)

    # A stream is lines of JSON anyway, and has no flag for it
    shown = getattr(arguments, "json", True) or not sys.stdout.isatty()
    return run_command(f"anystep {arguments.command}", command, shown=shown)


if __name__ == "__main__":
    sys.exit(main())
