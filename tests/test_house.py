"""The house rules that a machine can check: imports, order, lengths, what the command line is."""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import anystep
from anystep.cli import make_parser
from anystep.config import describe_keys

# The wings, lowest first, and in each its floors, lowest first, between bars. A module imports from
# lower floors and from its own room, nothing else. A room is a file, or a folder with all in it.
HOUSE = {
    "tools": """_errors | _files _lazy _threads | _command _extras _lock _lookup environment
        | console""",
    "nn": "surrogate layers | activations kernels norms | neurons | models | foreign fuse weights",
    "data": """recording | count | frames groups rules | cache protocols | sets
        | augmentation readers fetch loader | images | camera | events | digits | datasets
        | check filming""",
    "evaluation": "readout metrics energy | exits evaluate figures | report",
    "training": "distillation schedule fabric | losses | phases | methods epoch | fit",
    "deploy": """flags sources describe | step windows | network | calibrate onnx stream
        | command | runtime""",
    "hall": """config intact | folder | preflight | run | pretrained | compare | sweep | cli_data
        | cli_deploy | cli | __main__""",
    "doors": "__init__ nn data evaluation training deploy",
}
WINGS = ("nn", "data", "evaluation", "training", "deploy")
FLOORS = [
    [f"{wing}.{room}" if wing in WINGS else room for room in floor.split()]
    for wing, floors in HOUSE.items()
    for floor in floors.split("|")
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# What a part must not know, beyond its floor.
BLIND = {
    "training/losses.py": {"torch.utils", "anystep.nn.models", "pathlib", "os"},
    "training/fit.py": {"anystep._files", "pathlib", "os", "json", "yaml"},
    "evaluation/readout.py": {"torch", "numpy"},
}
TORCH_IN_DATA = {"loader.py", "camera/batched.py"} | {
    f"augmentation/{name}.py" for name in ("augment", "mixing", "randaugment", "warps")
}
EXTRAS = {"datasets", "faery", "h5py", "jinja2", "lightning", "matplotlib", "pyarrow", "sklearn"}
EXTRAS |= {
    "onnx",
    "onnxruntime",
    "onnxscript",
    "tensorboard",
    "torchmetrics",
}  # triton comes with torch on some machines
UNASKED = {"nn.kernels.cuda", "__main__"}  # needs Triton; runs the command line

# Read or run by somebody's scripts without torch, or expected to answer at once.
FREE_OF_TORCH = """
    _command _extras _files _lookup environment console config cli cli_data training.schedule
    folder evaluation.readout evaluation.metrics evaluation.report.runs evaluation.report.page
    evaluation.figures data.recording data.frames data.protocols data.cache data.sets data.datasets
    data.digits data.camera.simulate data.images.cifar data.images.layouts data.images.rows
    data.images.pictures data.images.shards
    evaluation.exits cli_deploy deploy.runtime deploy.stream deploy.command deploy.step
"""

# The command line is a promise to other people's scripts.
RUNNING = "--out --skip-bad --devices --precision"
COMMANDS = {
    "train": f"recipe --resume {RUNNING} --json",
    "evaluate": "run --data --split --option --json",
    "compare": f"recipe --methods --seeds {RUNNING} --json",
    "sweep": f"recipe --train-steps --methods --seeds {RUNNING} --json",
    "report": "runs --out --json",
    "export": "run --to --out --json",
    "calibrate": "run --accuracy --mean-t --score --reads --json",
    "stream": """model --source --sensor --steps --score --reads --threshold --max-rate
        --idle-timeout --threads""",
    "data": "action",
    "data list": "--json",
    "data get": "name dir --json",
    "data check": "name dir --sheet --deep --skip-bad --option --json",
    "data show": "file --out --frame-us --slow --sensor --format --json",
    "data slice": "dir --out --window --sensor --json",
    "data simulate": "--images --root --path --out --per-class --workers --seed --json",
    "keys": "--json",
}
KEYS = """
    name seed select judge teacher imports tensorboard
    data.name data.binning data.augment data.frames data.cache data.options
    model.name model.neuron model.norm model.options
    method.name method.options
    train.epochs train.batch_size train.steps train.balanced train.optimizer train.momentum train.lr
    train.min_lr train.warmup_epochs train.warmup_lr train.weight_decay train.decay_all
    train.grad_clip train.workers
    engine.accelerator engine.devices engine.precision engine.recompute
"""
ON_PURPOSE = "if it is meant, change COMMANDS or KEYS here and say so in CHANGELOG.md"
ANY_PER_1000_LINES = 24

ROOT = Path(anystep.__file__).parents[1]
PACKAGE = ROOT / "anystep"
SOURCES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in SOURCES.items()}
TREES = {name: ast.parse(text) for name, text in TEXTS.items()}
every_source = pytest.mark.parametrize("source", SOURCES)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def module_of(source: str) -> str:
    """`data/cache.py` -> `data.cache`, `data/__init__.py` -> `data`."""
    return source.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


MODULES = {module_of(source): source for source in SOURCES}


def room_of(module: str) -> str:
    """The name that stands on a floor: `nn.models` for `nn.models.vgg`."""
    parts = module.split(".")
    names = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return next((name for name in names if name in FLOOR_OF), module)


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module or ''}.{alias.name}") for alias in node.names)


def import_problems(source: str, tree: ast.AST) -> list[str]:
    """What is wrong with a module's imports of the package."""
    own, problems = room_of(module_of(source)), []
    for line, name in imported(tree):
        ours = name.partition(".")[0] == "anystep" and name != "anystep.__version__"
        if not ours or own == "__init__":
            continue
        room = room_of(name.removeprefix("anystep").removeprefix("."))
        place = f"anystep/{source}:{line} ({own}) imports {name}"
        if room in ("", "__init__", *WINGS) or room not in FLOOR_OF:
            problems.append(f"{place} through a door: import it from its home")
        elif room != own and FLOOR_OF[room] >= FLOOR_OF[own]:
            problems.append(f"{place}, which is not on a lower floor")
    return problems


def modules_imported(source: str) -> set[str]:
    """The modules of the package that a module imports, of a name the file that holds it."""
    names = [n.removeprefix("anystep.") for _, n in imported(TREES[source]) if "anystep." in n]
    own = {MODULES.get(n, MODULES.get(n.rpartition(".")[0])) for n in names}
    return {each for each in own if each not in (None, source)}


def public_definitions(tree: ast.Module) -> list[Function | ast.ClassDef]:
    """Functions and classes at the top of a module, without a leading underscore."""
    found = [node for node in tree.body if isinstance(node, Function | ast.ClassDef)]
    return [node for node in found if not node.name.startswith("_")]


def names_defined(node: ast.stmt) -> set[str]:
    """What a statement at the top of a module gives a name to; an import is no definition."""
    if isinstance(node, Function | ast.ClassDef):
        return {node.name}
    names = [each for each in ast.walk(node) if isinstance(each, ast.Name)]
    return {each.id for each in names if isinstance(each.ctx, ast.Store)}


def names_used(node: ast.AST) -> set[str]:
    """The names of the module that a definition needs when it runs: not its annotations, nor what
    is an argument or a variable inside it.
    """
    used: set[str] = set()
    own: set[str] = set()
    todo = [node]
    while todo:
        here = todo.pop()
        if isinstance(here, ast.Name):
            (used if isinstance(here.ctx, ast.Load) else own).add(here.id)
        elif isinstance(here, ast.arg):
            own.add(here.arg)
        notes = {getattr(here, "annotation", None), getattr(here, "returns", None)}
        todo += [child for child in ast.iter_child_nodes(here) if child not in notes]
    return used - own


def order_problems(tree: ast.Module) -> list[str]:
    """Names that are used above their definition, unless the two definitions call one another."""
    home = {name: number for number, node in enumerate(tree.body) for name in names_defined(node)}
    needs = [{home[name] for name in names_used(node) if name in home} for node in tree.body]

    def leads_to(start: int, goal: int) -> bool:
        seen, todo = set(), {start}
        while todo:
            seen |= todo
            todo = {each for here in todo for each in needs[here]} - seen
        return goal in seen

    return [
        f"line {node.lineno} uses {name}, which is defined in line {tree.body[home[name]].lineno}"
        for number, node in enumerate(tree.body)
        for name in sorted(names_used(node))
        if home.get(name, -1) > number and not leads_to(home[name], number)
    ]


def loaded_by(code: str) -> set[str]:
    """The packages and modules that a fresh interpreter has after `code`."""
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_every_module_stands_on_a_floor_and_every_floor_is_built():
    rooms = {room_of(module) for module in MODULES}
    assert not rooms - set(FLOOR_OF), "give it a floor in HOUSE, above all that it imports"
    assert not set(FLOOR_OF) - rooms, "it is in HOUSE and not in the package"


@every_source
def test_imports_point_down(source):
    problems = import_problems(source, TREES[source])
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("source", "line", "allowed"),
    [
        ("data/cache.py", "from anystep.data.recording import Events", True),
        ("cli.py", "from anystep import __version__", True),
        ("evaluation/report/page.py", "from anystep.evaluation import figures", True),
        ("nn/neurons.py", "from anystep.nn.models import create_model", False),
        ("training/losses.py", "import anystep.training.fit", False),
        ("training/losses.py", "from anystep import training", False),
        ("training/fit.py", "from anystep import Plan", False),
        ("run.py", "def late():\n    from anystep.cli import main", False),
    ],
)
def test_an_import_up_or_sideways_or_through_a_door_is_caught(source, line, allowed):
    assert bool(import_problems(source, ast.parse(line))) is not allowed


def test_no_modules_import_one_another_in_a_circle():
    TopologicalSorter({source: modules_imported(source) for source in SOURCES}).prepare()


@pytest.mark.parametrize("source", sorted(set(SOURCES) - {"run.py"}))
def test_a_name_is_defined_above_where_it_is_used(source):
    """Only run.py tells its story from the top."""
    problems = order_problems(TREES[source])
    assert not problems, f"anystep/{source}: " + "; ".join(problems)


@pytest.mark.parametrize(
    ("code", "problems"),
    [
        ("def f():\n    return LIMIT\nLIMIT = 3", 1),
        ("class A:\n    def f(self):\n        return B()\nclass B: pass", 1),
        ("def f(n):\n    return g(n)\ndef g(n):\n    return n and f(n - 1)", 0),
        ("def f(g):\n    return g()\ndef g():\n    return 1", 0),
        ("def f(x: B) -> B:\n    y: B = x\n    return y\nclass B: pass", 0),
    ],
)
def test_the_order_of_definitions_is_judged_so(code, problems):
    assert len(order_problems(ast.parse(code))) == problems


@pytest.mark.parametrize("source", BLIND)
def test_a_part_does_not_see_what_is_none_of_its_business(source):
    names = [name for _, name in imported(TREES[source])]
    assert not [n for n in names for no in BLIND[source] if f"{n}.".startswith(f"{no}.")]


def test_only_the_loader_the_augmentations_and_the_batched_camera_import_torch_in_data():
    sources = [source for source in SOURCES if source.startswith("data/")]
    users = {s for s in sources for _, name in imported(TREES[s]) if name.startswith("torch")}
    assert users == {f"data/{name}" for name in TORCH_IN_DATA}


@every_source
def test_optional_packages_come_through_need_only(source):
    """At run time `anystep._extras.need` says which extra is missing; a type checker may look."""
    tests = [node for node in ast.walk(TREES[source]) if isinstance(node, ast.If)]
    for_types = [node for node in tests if "TYPE_CHECKING" in ast.dump(node.test)]
    lines = {line for node in for_types for line, _ in imported(node)}
    direct = [n for line, n in imported(TREES[source]) if line not in lines]
    assert not EXTRAS & {name.partition(".")[0] for name in direct}


def test_what_is_free_of_torch_stays_so_and_nothing_that_is_imported_loads_an_extra():
    free = FREE_OF_TORCH.split()
    assert "torch" not in loaded_by("\n".join(f"import anystep.{name}" for name in free))
    modules = sorted(set(MODULES) - UNASKED - {"__init__"})
    assert not EXTRAS & loaded_by("\n".join(f"import anystep.{name}" for name in modules))


def test_the_help_and_the_version_load_nothing_but_the_standard_library():
    code = """
from anystep.cli import main
for words in (["--help"], ["train", "--help"], ["--version"]):
    try:
        main(words)
    except SystemExit as end:
        assert not end.code
"""
    assert not loaded_by(code) & {"torch", "numpy", "numba", "rich", "yaml", *EXTRAS}


@every_source
def test_files_and_functions_are_short(source):
    lines = TEXTS[source].count("\n")
    assert lines <= 400, f"anystep/{source} has {lines} lines: two nouns, two files"
    for node in ast.walk(TREES[source]):
        if isinstance(node, Function):
            length, own = (node.end_lineno or 0) - node.lineno + 1, node.args
            place = f"anystep/{source}:{node.lineno} {node.name}"
            assert length <= 60, f"{place} has {length} lines"
            given = (*own.posonlyargs, *own.args, *own.kwonlyargs, own.vararg, own.kwarg)
            named = {each.arg for each in given if each}
            assert len(named - {"self", "cls"}) <= 9, f"{place} has {len(named)} arguments"


def lines_of(folder: Path) -> int:
    return sum(path.read_text(encoding="utf-8").count("\n") for path in folder.rglob("*.py"))


def test_the_house_stays_small():
    """What comes in makes something else go. Deployment is counted apart."""
    apart = ("cli_deploy.py", "pretrained.py", "evaluation/exits.py", "nn/kernels/graph.py")
    deployment = lines_of(PACKAGE / "deploy") + sum(TEXTS[each].count("\n") for each in apart)
    assert lines_of(PACKAGE) - deployment <= 18_300
    assert deployment <= 2_300
    assert lines_of(PACKAGE.parent / "tests") <= 21_500


def test_any_is_rare():
    """Where a type is known it is written; this number only goes down."""
    used = sum(len(re.findall(r"\bAny\b", text)) for text in TEXTS.values())
    assert 1000 * used / sum(text.count("\n") for text in TEXTS.values()) <= ANY_PER_1000_LINES


@every_source
def test_every_public_function_and_class_says_what_it_does(source):
    assert ast.get_docstring(TREES[source]), f"anystep/{source} does not say what it is for"
    public = public_definitions(TREES[source])
    assert not [node.name for node in public if not ast.get_docstring(node)]


@pytest.mark.parametrize("source", [name for name in SOURCES if name.endswith("__init__.py")])
def test_no_package_hides_one_of_its_modules_behind_a_name(source):
    imports = [node for node in TREES[source].body if isinstance(node, ast.ImportFrom)]
    names = {alias.asname or alias.name for node in imports for alias in node.names}
    names |= {node.name for node in public_definitions(TREES[source])}
    assert not names & {path.stem for path in SOURCES[source].parent.iterdir()}


@every_source
def test_the_code_has_no_assert_no_bare_except_no_star_and_no_relative_import(source):
    for node in ast.walk(TREES[source]):
        place = f"anystep/{source}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Assert), f"{place}: raise an error with a name"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{place}: say which errors are expected"
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place}: write the whole name, anystep.{node.module}"
            assert node.names[0].name != "*", f"{place}: name what is imported"


@pytest.mark.parametrize("source", sorted(set(SOURCES) - {"_command.py", "console.py"}))
def test_only_the_command_line_and_the_console_print(source):
    calls = [node.func for node in ast.walk(TREES[source]) if isinstance(node, ast.Call)]
    assert not [f.lineno for f in calls if isinstance(f, ast.Name) and f.id == "print"]


@every_source
def test_nothing_is_left_for_later_and_no_room_is_called_utils(source):
    later = ("TODO", "FIXME", "XXX", "NotImplementedError")
    assert not [word for word in later if word in TEXTS[source]]
    assert not set(module_of(source).split(".")) & {"utils", "helpers", "common", "misc"}


def test_the_tree_of_the_readme_names_every_room_and_nothing_else():
    """A tree that is nearly right sends people to the wrong place."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = readme.partition("\nanystep/\n")[2].partition("\nrecipes/")[0]
    named = set(re.findall(r"\w+\.py\b|\w+/(?=\s)", tree))
    there = {name for path in SOURCES.values() for name in (path.name, f"{path.parent.name}/")}
    rooms = {name.rpartition(".")[2] for name in FLOOR_OF} - {"__init__", "__main__"}
    in_a_word = {name for room in rooms for name in (f"{room}.py", f"{room}/")} & there
    assert not in_a_word - named, "give each a word in the tree of README.md"
    assert not named - there, "the tree of README.md names what is not there"


def commands_of(parser: argparse.ArgumentParser, prefix: str = "") -> dict[str, set[str]]:
    """The flags of every command, those of an action of it under "command action"."""
    found: dict[str, set[str]] = {}
    for group in parser._actions:
        if isinstance(group, argparse._SubParsersAction):
            for name, below in group.choices.items():
                flags = {(each.option_strings or [each.dest])[0] for each in below._actions[1:]}
                found |= {prefix + name: flags} | commands_of(below, f"{prefix}{name} ")
    return found


def test_the_commands_and_their_flags_are_the_promised_ones():
    promised = {name: {*flags.split(), "--import"} for name, flags in COMMANDS.items()}
    promised["data"] = {"action"}
    assert commands_of(make_parser()) == promised, ON_PURPOSE


def test_the_keys_of_a_recipe_are_the_promised_ones():
    assert sorted(name for name, *_ in describe_keys()) == sorted(KEYS.split()), ON_PURPOSE
