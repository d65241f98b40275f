"""The house rules that a machine can check: where imports point, how long things are, what the
command line promises.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import anystep
from anystep.cli import make_parser
from anystep.config import record_parser

PACKAGE = Path(anystep.__file__).parent
SOURCES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}

# Lowest first. A module imports from lower floors and from its own room, nothing else. A room is
# the longest name here that its module begins with: `nn.models` for `nn.models.vgg`.
FLOORS = (
    ("_errors", "_files", "_lazy", "_threads"),
    ("_extras", "_lookup", "environment"),
    ("console",),
    ("nn.surrogate", "nn.layers"),
    ("nn.activations", "nn.kernels", "nn.norms"),
    ("nn.neurons",),
    ("nn.models",),
    ("nn.fuse", "nn.weights"),
    ("data.recording",),
    ("data.count", "data.resize"),
    ("data.frames",),
    ("data.cache", "data.protocols", "data.sets"),
    ("data.augmentation", "data.readers", "data.fetch"),
    ("data.images",),
    ("data.loader",),
    ("data.camera", "data.events"),
    ("data.digits",),
    ("data.datasets",),
    ("data.check",),
    ("evaluation.readout", "evaluation.metrics", "evaluation.energy"),
    ("evaluation.evaluate", "evaluation.figures"),
    ("evaluation.report",),
    ("training.distillation", "training.schedule"),
    ("training.losses",),
    ("training.methods",),
    ("training.fit",),
    ("config",),
    ("preflight",),
    ("run",),
    ("compare",),
    ("sweep",),
    ("cli_data",),
    ("cli",),
    ("__init__", "data", "nn", "training", "evaluation"),
)
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}

EXTRAS = {"datasets", "faery", "jinja2", "lightning", "matplotlib", "nir", "nirtorch", "onnx"}
EXTRAS |= {
    "onnxruntime",
    "onnxscript",
    "sklearn",
    "tensorboard",
    "torchmetrics",
}  # triton comes with torch on some machines

# What a part must not know, beyond its floor.
BLIND = {
    "training/losses.py": {"torch.utils", "pathlib", "os"},
    "training/fit.py": {"anystep._files", "pathlib", "os", "json", "yaml"},
    "nn/models/base.py": {"anystep.training.losses", "anystep.config"},
    "nn/models/vgg.py": {"anystep.training.losses", "anystep.config"},
    "evaluation/readout.py": {"torch", "numpy"},
}
TORCH_IN_DATA = {"data/loader.py", "data/camera/batched.py"}
TORCH_IN_DATA |= {
    f"data/augmentation/{name}.py" for name in ("augment", "mixing", "randaugment", "warps")
}
FOR_ONE_BACKEND = {
    "kernels.cuda"
}  # written in triton's own language, so imported only by whoever asks for that backend

# Everything here is read or run by somebody's scripts without torch, or must answer at once.
FREE_OF_TORCH = (
    *(
        "anystep",
        "anystep._extras",
        "anystep._files",
        "anystep._lookup",
        "anystep.evaluation.readout",
        "anystep.training.schedule",
    ),
    *(
        "anystep.cli",
        "anystep.cli_data",
        "anystep.config",
        "anystep.environment",
        "anystep.evaluation.metrics",
        "anystep.console",
    ),
    *(
        "anystep.data.recording",
        "anystep.data.frames",
        "anystep.data.protocols",
        "anystep.data.cache",
    ),
    *(
        "anystep.data.camera.simulate",
        "anystep.data.datasets",
        "anystep.data.digits",
        "anystep.data.sets",
    ),
    *(
        "anystep.data.images.cifar",
        "anystep.data.images.rows",
        "anystep.data.images.pictures",
        "anystep.data.images.shards",
    ),
    *(
        "anystep.evaluation.report.runs",
        "anystep.evaluation.figures",
        "anystep.evaluation.report.page",
    ),
)

# The command line is a promise to other people's scripts.
COMMANDS = {
    "train": ["recipe", "--out", "--resume", "--skip-bad", "--devices", "--precision"],
    "evaluate": ["run"],
    "compare": [
        "recipe",
        "--methods",
        "--seeds",
        "--out",
        "--skip-bad",
        "--devices",
        "--precision",
    ],
    "sweep": [
        "recipe",
        "--train-steps",
        "--methods",
        "--seeds",
        "--out",
        "--skip-bad",
        "--devices",
        "--precision",
    ],
    "report": ["runs", "--out"],
    "data": ["action"],
    "data list": [],
    "data get": ["name", "dir"],
    "data check": ["name", "dir", "--sheet", "--deep", "--skip-bad", "--option"],
    "data show": ["file", "--out", "--frame-us", "--slow", "--sensor"],
    "data simulate": [
        "--images",
        "--root",
        "--path",
        "--out",
        "--per-class",
        "--workers",
        "--seed",
    ],
    "keys": [],
}
KEYS = [
    *("name", "seed", "select", "judge", "teacher", "tensorboard"),
    *("data.name", "data.binning", "data.augment", "data.frames", "data.cache", "data.options"),
    *("model.name", "model.neuron", "model.norm", "model.options"),
    *("method.name", "method.options"),
    *(
        "train.epochs",
        "train.batch_size",
        "train.steps",
        "train.balanced",
        "train.optimizer",
        "train.momentum",
    ),
    *("train.lr", "train.min_lr", "train.warmup_epochs", "train.warmup_lr"),
    *("train.weight_decay", "train.decay_all", "train.grad_clip", "train.workers"),
    *("engine.accelerator", "engine.devices", "engine.precision", "engine.recompute"),
]
ON_PURPOSE = "if that is meant, change COMMANDS or KEYS in tests/test_house.py and tell people in CHANGELOG.md"


def module_of(source: str) -> str:
    """`data/cache.py` -> `data.cache`, `models/__init__.py` -> `models`."""
    return source.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


MODULES = {module_of(source) for source in SOURCES}


def room_of(module: str) -> str:
    """The name that stands on a floor: `nn.models` for `nn.models.vgg`."""
    parts = module.split(".")
    names = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return next((name for name in names if name in FLOOR_OF), module)


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, wherever it stands; `from anystep import figures` gives
    `anystep.evaluation.figures`.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module or ''}.{alias.name}") for alias in node.names)


def import_problems(source: str, tree: ast.AST) -> list[str]:
    """What is wrong with a module's imports of the package."""
    own, problems = room_of(module_of(source)), []
    assert own in FLOOR_OF, f"give {own} a floor: put the name in FLOORS"
    for line, name in imported(tree):
        if name != "anystep" and not name.startswith("anystep."):
            continue
        if own == "__init__" or name == "anystep.__version__":
            continue
        room = room_of(name.removeprefix("anystep").removeprefix("."))
        if room not in FLOOR_OF or room == "__init__":
            problems.append(
                f"anystep/{source}:{line} imports {name} through the door: import it from its home"
            )
        elif room != own and FLOOR_OF[room] >= FLOOR_OF[own]:
            problems.append(
                f"anystep/{source}:{line} ({own}) imports {name}, which is not on a lower floor"
            )
    return problems


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (
        node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )


def argument_count(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Arguments that a caller may give; `self` and `cls` are none."""
    arguments = function.args
    named = [
        *arguments.posonlyargs,
        *arguments.args,
        *arguments.kwonlyargs,
        arguments.vararg,
        arguments.kwarg,
    ]
    return sum(1 for each in named if each is not None and each.arg not in ("self", "cls"))


def public_definitions(
    tree: ast.Module,
) -> list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Functions and classes at the top of a module, without a leading underscore."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def python_says(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_every_module_stands_on_a_floor_and_every_floor_is_built():
    rooms = {room_of(module) for module in MODULES}
    new, gone = sorted(rooms - set(FLOOR_OF)), sorted(set(FLOOR_OF) - rooms)
    assert not new, (
        f"give {new} a floor: put the name in FLOORS above all that it imports, below all that import it"
    )
    assert not gone, f"{gone} is in FLOORS and not in the package"


@pytest.mark.parametrize("source", SOURCES)
def test_imports_point_down(source):
    problems = import_problems(source, TREES[source])
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("training/losses.py", "from anystep.nn.models import create_model"),
        ("training/losses.py", "from anystep.nn.neurons import LIF"),
        ("training/losses.py", "import anystep.training.fit"),
        ("training/losses.py", "from anystep.training import fit"),
        ("training/fit.py", "from anystep import Plan"),
        ("data/cache.py", "from anystep.evaluation.readout import prefix_mean"),
        ("run.py", "def late():\n    from anystep.cli import main"),
    ],
)
def test_an_import_that_points_up_or_sideways_or_through_the_door_is_caught(source, line):
    assert import_problems(source, ast.parse(line))


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("data/cache.py", "from anystep.data.recording import Events"),
        ("cli.py", "from anystep import __version__"),
        ("evaluation/report/page.py", "from anystep.evaluation import figures"),
        ("training/losses.py", "import torch"),
    ],
)
def test_an_import_that_points_down_or_stays_in_its_package_is_let_through(source, line):
    assert not import_problems(source, ast.parse(line))


@pytest.mark.parametrize("source", BLIND)
def test_a_part_does_not_see_what_is_none_of_its_business(source):
    seen = [
        name
        for _, name in imported(TREES[source])
        for no in BLIND[source]
        if f"{name}.".startswith(f"{no}.")
    ]
    assert not seen


def test_only_the_loader_the_augmentations_and_the_batched_camera_of_the_data_package_import_torch():
    users = {
        s
        for s in SOURCES
        if s.startswith("data/")
        for _, name in imported(TREES[s])
        if name.startswith("torch")
    }
    assert users == TORCH_IN_DATA


@pytest.mark.parametrize("source", SOURCES)
def test_optional_packages_come_through_need_only(source):
    """A type checker may look at them; at run time `anystep._extras.need` says which extra is
    missing.
    """
    for_types = {
        line
        for node in ast.walk(TREES[source])
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for line, _ in imported(node)
    }
    direct = [
        name
        for line, name in imported(TREES[source])
        if name.partition(".")[0] in EXTRAS and line not in for_types
    ]
    assert not direct, f"use anystep._extras.need for {direct}"


def test_what_is_free_of_torch_stays_free_of_torch_and_of_every_extra():
    code = f"""
import importlib, json, sys
found = []
for module in {FREE_OF_TORCH!r}:
    importlib.import_module(module)
    found += [f"{{module}} loads {{name}}" for name in {sorted(EXTRAS | {"torch"})!r} if name in sys.modules]
    if found:
        break
print(json.dumps(found))
"""
    assert json.loads(python_says(code)) == []


def test_the_help_and_the_version_load_nothing_but_the_standard_library():
    code = """
import json, sys
from anystep.cli import main
for words in (["--help"], ["train", "--help"], ["--version"]):
    try:
        main(words)
    except SystemExit as end:
        assert not end.code
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    loaded = set(json.loads(python_says(code)))
    assert loaded & {"torch", "numpy", "numba", "rich", "yaml", "jsonargparse", *EXTRAS} == set()


def test_importing_the_whole_package_loads_no_extra():
    modules = [f"anystep.{module}" for module in sorted(MODULES - FOR_ONE_BACKEND - {"__init__"})]
    code = f"""
import importlib, json, sys
for module in {modules!r}:
    importlib.import_module(module)
print(json.dumps([name for name in {sorted(EXTRAS)!r} if name in sys.modules]))
"""
    assert json.loads(python_says(code)) == []


@pytest.mark.parametrize("source", SOURCES)
def test_files_and_functions_are_short(source):
    lines = SOURCES[source].read_text(encoding="utf-8").count("\n")
    assert lines <= 400, f"anystep/{source} has {lines} lines: two nouns, two files"
    for function in functions(TREES[source]):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        place = f"anystep/{source}:{function.lineno} {function.name}"
        assert length <= 60, f"{place} has {length} lines"
        assert argument_count(function) <= 8, f"{place} has {argument_count(function)} arguments"


@pytest.mark.parametrize("source", SOURCES)
def test_every_public_function_and_class_says_what_it_does(source):
    silent = [
        node.name for node in public_definitions(TREES[source]) if not ast.get_docstring(node)
    ]
    assert not silent
    assert ast.get_docstring(TREES[source]), f"anystep/{source} does not say what it is for"


@pytest.mark.parametrize("source", [source for source in SOURCES if "/" not in source])
def test_no_public_function_shares_the_name_of_its_flat_module(source):
    """Else `anystep.NAME` would be the function or the module, whichever was imported last."""
    assert module_of(source) not in [node.name for node in public_definitions(TREES[source])]


@pytest.mark.parametrize(
    "package", sorted({source.partition("/")[0] for source in SOURCES if "/" in source})
)
def test_no_package_hides_one_of_its_modules_behind_a_name(package):
    rooms = {module.partition(".")[2] for module in MODULES if module.startswith(f"{package}.")}
    tree = TREES[f"{package}/__init__.py"]
    names = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert not rooms & (names | {node.name for node in public_definitions(tree)})


@pytest.mark.parametrize("source", SOURCES)
def test_the_code_has_no_assert_no_bare_except_no_star_and_no_relative_import(source):
    for node in ast.walk(TREES[source]):
        place = f"anystep/{source}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Assert), (
            f"{place}: raise an error with a name instead of assert"
        )
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), (
            f"{place}: say which errors are expected"
        )
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place}: write the whole name, anystep.{node.module}"
            assert all(alias.name != "*" for alias in node.names), f"{place}: name what is imported"


@pytest.mark.parametrize("source", sorted(set(SOURCES) - {"cli.py", "console.py"}))
def test_only_the_command_line_and_the_console_print(source):
    calls = [
        node
        for node in ast.walk(TREES[source])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    assert not [node.lineno for node in calls if node.func.id == "print"]


@pytest.mark.parametrize("source", SOURCES)
def test_nothing_is_left_for_later(source):
    text = SOURCES[source].read_text(encoding="utf-8")
    assert not [word for word in ("TODO", "FIXME", "XXX", "NotImplementedError") if word in text]


def test_every_module_of_the_package_is_named_in_the_tree_of_the_readme():
    """And every file that the tree puts there is there: a tree that is nearly right sends people to
    the wrong place.
    """
    tree = (
        (PACKAGE.parent / "README.md")
        .read_text(encoding="utf-8")
        .partition("\nanystep/\n")[2]
        .partition("\nrecipes/")[0]
    )
    files = set(re.findall(r"\w+\.(?:html\.j2|py)\b", tree))
    rooms = set(re.findall(r"^  (\w+/)", tree, re.MULTILINE))
    here = {path.name for path in PACKAGE.iterdir() if path.suffix in (".py", ".j2")} - {
        "__init__.py"
    }
    packages = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    within = {path.name for path in PACKAGE.glob("*/*.py")}
    assert not sorted((here | packages) - files - rooms), (
        "give each a word in the tree of README.md"
    )
    assert not sorted((files - here - within) | (rooms - packages)), (
        "the tree of README.md names what is not there"
    )


def test_no_room_is_called_utils():
    assert not {"utils", "helpers", "common", "misc"} & {
        part for module in MODULES for part in module.split(".")
    }


def commands_of(parser: argparse.ArgumentParser, prefix: str = "") -> dict[str, list[str]]:
    """The flags of every command, those of an action of it under "command action"."""
    found = {}
    for group in [
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    ]:
        for name, below in group.choices.items():
            flags = [
                action.option_strings[0] if action.option_strings else action.dest
                for action in below._actions[1:]
            ]
            found |= {prefix + name: flags} | commands_of(below, f"{prefix}{name} ")
    return found


def test_the_commands_and_their_flags_are_the_promised_ones():
    assert commands_of(make_parser()) == COMMANDS, ON_PURPOSE


def test_the_keys_of_a_recipe_are_the_promised_ones():
    assert sorted(record_parser().get_defaults().keys(branches=False)) == sorted(KEYS), ON_PURPOSE
