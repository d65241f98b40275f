"""A run as one frozen record: YAML recipes (one `base:` level), overrides, checks. No torch."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import yaml

from anystep._errors import UsageError
from anystep._lookup import check_arguments, check_keys, choose
from anystep.training.schedule import Plan

Tree = dict[str, Any]  # a recipe as YAML reads it
MOST_BYTES = 2**18  # of a recipe's file
MOST_VALUES = 10_000  # of a recipe, each alias counted as all that it stands for


def _refuse_decided(options: Mapping[str, Any], decided: Sequence[str], where: str) -> None:
    """Refuse options that something else decides: the data, or a key of their own."""
    for key in decided:
        if key in options:
            raise UsageError(f"{where}: {key!r} is not an option, other keys or the data decide it")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which recordings, and how they become frames.

    name: a row of DATASETS.
    binning: a row of ENCODINGS and its arguments: a binning of events, or "direct" for images.
    augment: rows of AUGMENTS, by name or as mappings with their fields; for training alone.
    frames: keep the frames [first, stop) of every recording, counted from 0; null keeps all.
    cache: folder for frames; null takes the user's cache folder.
    options: further arguments of the data set.
    """

    name: str = "digits-dvs"
    binning: dict[str, Any] = field(
        default_factory=lambda: {"name": "fixed_duration", "steps": 10, "duration_us": 30_000}
    )
    augment: list[Any] = field(default_factory=list)
    frames: list[int] | None = None
    cache: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames = [0, 1] if self.frames is None else self.frames
        if [type(each) for each in frames] != [int, int] or not 0 <= frames[0] < frames[1]:
            rule = "[first, stop] with 0 <= first < stop, or null"
            raise UsageError(f"data.frames must be {rule}, got {self.frames}")
        _refuse_decided(self.options, ("binning", "cache", "workers"), "data.options")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network.

    name: a row of MODELS.
    neuron: a row of NEURONS or ACTIVATIONS, or a mapping with its name and arguments.
    norm: a row of NORMS, or a mapping with its name and arguments.
    options: further arguments of the model.
    """

    name: str = "vgg_snn"
    neuron: str | dict[str, Any] = "lif"
    norm: str | dict[str, Any] = "bn"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        decided = ("name", "num_classes", "in_planes", "input_size", "neuron", "norm")
        _refuse_decided(self.options, decided, "model.options")


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """How it is trained.

    name: a row of METHODS.
    options: arguments of the method.
    """

    name: str = "ce"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """On what it runs.

    accelerator: cpu, gpu or auto.
    devices: processes, one a device.
    precision: as Lightning Fabric names it, like 32-true or bf16-mixed; auto is bf16-mixed on a
        GPU, 32-true on a CPU.
    recompute: activation checkpointing: less memory, more time.
    """

    accelerator: str = "auto"
    devices: int = 1
    precision: str = "auto"
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise UsageError(f"engine.devices must be >= 1, got {self.devices}")
        if self.precision == "16-mixed":
            why = "has a loss scale that no checkpoint holds"
            raise UsageError(f"engine.precision 16-mixed {why}: use bf16-mixed")


@dataclass(frozen=True, kw_only=True)
class Record:
    """All that a run depends on.

    name: what the run folder is called.
    seed: of weights, order and views.
    teacher: the run folder (or file of weights) whose network teaches, if the method asks.
    judge: the split that judges the run; val while you tune, so that test chooses nothing.
    select: the network of the last epoch, or of the best one on the validation split.
    imports: modules with rows of your own, as --import names them.
    tensorboard: also write TensorBoard events into the run folder.
    """

    name: str = "run"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    train: Plan = field(default_factory=Plan)
    engine: EngineConfig = field(default_factory=EngineConfig)
    teacher: str | None = None
    judge: Literal["test", "val"] = "test"
    select: Literal["last", "best"] = "last"
    imports: list[str] = field(default_factory=list)
    tensorboard: bool = True

    def __post_init__(self) -> None:
        if missing := [str(name) for name in self.imports if str(name) not in sys.modules]:
            way_out = f"give {' '.join(f'--import {name}' for name in missing)}"
            what = f"imports: rows come from {', '.join(missing)}, which runs code of its own"
            raise UsageError(f"{what}: {way_out} (from Python: import it first)")
        if not re.fullmatch(r"(?!\.)[^/\\\x00-\x1f]+", self.name):
            raise UsageError(f"name must be a plain name of a folder, got {self.name!r}")
        choose({"test": 0, "val": 0}, self.judge, "judge")
        choose({"last": 0, "best": 0}, self.select, "select")


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, not as text, and refuses a key that is no text or there twice.

    A few aliases of aliases can stand for millions of values: too many are refused.
    """

    def get_single_node(self) -> yaml.Node | None:
        root = super().get_single_node()
        todo, seen = [root] if root else [], 0
        while todo:
            node, seen = todo.pop(), seen + 1
            if seen > MOST_VALUES:
                what = f"more than {MOST_VALUES:,} values, with what aliases stand for"
                raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)
            if isinstance(node, yaml.MappingNode):
                todo += chain(*node.value)
            elif isinstance(node, yaml.SequenceNode):
                todo += node.value
        return root

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        nodes = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in nodes]
        for index, key in enumerate(keys):
            if key in keys[:index] or not isinstance(key, str):
                where, what = nodes[index].start_mark, f"{key!r} is there twice, or no text"
                raise yaml.constructor.ConstructorError(None, None, what, where)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Puts in quotes what `_Loader` would not read as text."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )


def parse_value(text: str) -> Any:
    """One value of the command line as YAML reads it: `"1e-3"` -> 0.001, `"null"` -> None."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise yaml.YAMLError("brackets or lines are nested too deeply") from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        # What PyYAML makes of `2001-13-45`, `0b_` and `!!bool x`
        raise yaml.YAMLError(f"a value is not what it looks like ({error})") from error


def _yaml_problem(error: Exception) -> str:
    """What is wrong, and in which line, on one line."""
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}: " if mark else ""
    return place + (getattr(error, "problem", None) or str(error).splitlines()[0])


def _read(path: Path) -> Tree:
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError(0, "it is not a regular file")  # a device or a pipe may have no end
        if path.stat().st_size > MOST_BYTES:
            raise OSError(0, f"it has more than {MOST_BYTES:,} bytes")
        tree = parse_value(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{path} is not a YAML recipe: {_yaml_problem(error)}") from error
    if not isinstance(tree, dict):
        what = f"it must be a mapping, got {type(tree).__name__}"
        raise UsageError(f"{path} is not a YAML recipe: {what}")
    return tree


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """`above` laid over `below`, mapping by mapping.

    A section that changes its `name` starts afresh: its options mean nothing to the new one.

    >>> merge({"m": {"name": "tks", "options": {"alpha": 0.3}}}, {"m": {"name": "ce"}})
    {'m': {'name': 'ce'}}
    """
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            renamed = "name" in value and value["name"] != old.get("name")
            result[key] = dict(value) if renamed else merge(old, value)
        else:
            result[key] = value
    return result


def load_recipe(path: str | Path) -> Tree:
    """A recipe file as a tree, laid over the file that its `base:` names, relative to it."""
    path = Path(path)
    tree = _read(path)
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UsageError(f"{path}: base must be the name of a recipe, got {base!r}")
    below = _read(path.parent / base)
    if "base" in below:
        raise UsageError(f"{path.parent / base} has a base of its own: only one level is allowed")
    return merge(below, tree)


def _section(kind: type, tree: Any, place: str = "") -> Any:
    """A frozen section from its part of the recipe; `place` is its name there."""
    if not isinstance(tree, Mapping):
        raise UsageError(f"{place} must be a mapping, got {tree!r}")
    check_keys(tree, [each.name for each in fields(kind)], "key", place or "the recipe")
    check_arguments(kind, tree, place or "the recipe")
    values, defaults = {}, vars(kind())
    for key, value in tree.items():
        if is_dataclass(defaults[key]):
            values[key] = _section(type(defaults[key]), value, key)
        else:
            whole = type(value) is int and "float" in kind.__annotations__[key]
            values[key] = float(value) if whole else deepcopy(value)
    return kind(**values)


def describe_keys(section: Any = None, place: str = "") -> list[tuple[str, str, str, str]]:
    """Every key of a recipe: its whole name, its type, its default and what it is for.

    The last is the line `key: text` of the dataclass's docstring.
    """
    section, rows = section or Record(), []
    about = re.split(rf"\s({'|'.join(vars(section))}): ", " ".join(section.__doc__.split()))
    texts = dict(zip(about[1::2], about[2::2], strict=True))
    for key, value in vars(section).items():
        if is_dataclass(value):
            rows += describe_keys(value, f"{key}.")
        else:
            kind = section.__annotations__[key].replace(" | ", " or ").replace("None", "null")
            rows.append((place + key, kind, json.dumps(value), texts[key]))
    return rows


def record_from(tree: Mapping[str, Any]) -> Record:
    """A checked record. Errors name the key: an unknown one, or a value of the wrong type."""
    for key in set(tree) - set(vars(Record())):
        homes = [name for name, *_ in describe_keys() if name.partition(".")[2] == key]
        if homes:
            near = " or ".join(homes)
            raise UsageError(f"unknown key {key!r} in the recipe. Did you mean {near}?")
    return _section(Record, tree)


def overrides_from(arguments: Sequence[str]) -> Tree:
    """`["--train.epochs", "3", "--method.name=tks"]` as a tree."""
    tree: Tree = {}
    waiting = list(arguments)[::-1]
    while waiting:
        flag = waiting.pop()
        if not flag.startswith("--"):
            raise UsageError(f"expected an override like --train.epochs 3, got {flag!r}")
        key, equals, text = flag[2:].partition("=")
        if not equals:
            if not waiting:
                raise UsageError(f"{flag} needs a value")
            text = waiting.pop()
        *path, last = key.split(".")
        section = tree
        for part in path:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise UsageError(f"{flag}: {part!r} has been given a value of its own")
        try:
            section[last] = parse_value(text)
        except yaml.YAMLError as error:
            problem = f"{text!r} is not a YAML value: {_yaml_problem(error)}"
            raise UsageError(f"{flag}: {problem}") from error
    return tree


def to_yaml(record: Record) -> str:
    """The record as YAML that `load_recipe` reads back."""
    return yaml.dump(asdict(record), Dumper=_Dumper, sort_keys=False, width=120)
