"""A run as one frozen record: YAML recipes (one `base:` level), overrides, checks. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml

from anystep._errors import UsageError
from anystep._lookup import check_keys
from anystep.training.schedule import Plan

Tree = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which recordings, and how they become frames.

    Args:
        name: a row of DATASETS.
        binning: a row of ENCODINGS and its arguments: a binning of events, or "direct" for images.
        augment: rows of AUGMENTS, by name or as mappings with their fields, in this order; for
        training alone.
        frames: the part [first, stop] of every recording's frames that there is at all, counted
        from 0; null takes all.
        cache: folder for frames; null takes the user's cache folder.
        options: further arguments of the data set.
    """

    name: str = "digits-dvs"
    binning: dict[str, Any] = field(
        default_factory=lambda: {"name": "fixed_duration", "steps": 10, "duration_us": 30_000}
    )
    augment: list[str | dict[str, Any]] = field(default_factory=list)
    frames: list[int] | None = None
    cache: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network.

    Args:
        name: a row of MODELS.
        neuron: a row of NEURONS or ACTIVATIONS, or a mapping with its name and arguments.
        norm: a row of NORMS, or a mapping with its name and arguments.
        options: further arguments of the model.
    """

    name: str = "vgg_snn"
    neuron: str | dict[str, Any] = "lif"
    norm: str | dict[str, Any] = "bn"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """How it is trained.

    Args:
        name: a row of METHODS.
        options: arguments of the method.
    """

    name: str = "ce"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """On what it runs.

    Args:
        accelerator: cpu, gpu or auto.
        devices: processes, one a device.
        precision: as Lightning Fabric names it, like 32-true or bf16-mixed; auto is bf16-mixed on a
        GPU, 32-true on a CPU.
        recompute: keep less for the backward pass and compute it again: less memory, more time.
    """

    accelerator: str = "auto"
    devices: int = 1
    precision: str = "auto"
    recompute: bool = False


@dataclass(frozen=True, kw_only=True)
class Record:
    """All that a run depends on.

    Args:
        name: what the run folder is called.
        seed: of weights, order and views.
        teacher: the run folder (or file of weights) whose network teaches, for methods that learn
        from another run.
        judge: the split that the finished run is judged on; val while you tune, so that test
        chooses nothing.
        select: the network of the last epoch, or of the best one on the validation split.
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
    tensorboard: bool = True


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as a string, and the last of two equal keys; people who write recipes
    mean neither.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        nodes = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in nodes]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is there twice", nodes[index].start_mark
                )
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
    """One value of the command line as YAML reads it.

    >>> parse_value("1e-3"), parse_value("[[16], [32]]"), parse_value("null")
    (0.001, [[16], [32]], None)
    """
    return yaml.load(text, _Loader)


def _read(path: Path) -> Tree:
    try:
        tree = parse_value(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"there is no recipe {path}") from None
    except OSError as error:
        raise UsageError(f"cannot read the recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a YAML recipe: {_yaml_problem(error)}") from error
    if not isinstance(tree, dict):
        raise UsageError(
            f"{path} is not a YAML recipe: it must be a mapping, got {type(tree).__name__}"
        )
    return tree


def _yaml_problem(error: Exception) -> str:
    """What is wrong, and in which line, on one line."""
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}: " if mark else ""
    return place + (getattr(error, "problem", None) or str(error).splitlines()[0])


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """`above` laid over `below`, mapping by mapping. A section that changes its `name` starts
    afresh: the options of one method mean nothing to another.

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
    """A recipe file as a tree; the file that its `base:` names (relative to it, itself without a
    base) lies below.
    """
    path = Path(path)
    tree = _read(path)
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UsageError(f"{path}: base must be the name of a recipe, got {base!r}")
    below = _read(path.parent / base)
    if "base" in below:
        raise UsageError(
            f"{path.parent / base} has a base of its own: a recipe may stand on one level only"
        )
    return merge(below, tree)


def _sections(kind: Any = Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
    yield prefix, kind
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            yield from _sections(hint, f"{prefix}.{name}" if prefix else name)


def _check_tree(tree: Mapping[str, Any]) -> None:
    for place, kind in _sections():
        section: Any = tree
        for key in place.split(".") if place else []:
            section = section.get(key, {})
        if not isinstance(section, Mapping):
            raise UsageError(f"{place} must be a mapping, got {section!r}")
        for key in section if not place else ():
            _point_into_sections(key)
        check_keys(section, [f.name for f in fields(kind)], "key", place or "the recipe")


def _point_into_sections(key: str) -> None:
    """Refuse a key that is at home one level lower, by its whole name."""
    homes = [
        place for place, kind in _sections() if place and key in [f.name for f in fields(kind)]
    ]
    if homes and key not in [f.name for f in fields(Record)]:
        raise UsageError(
            f"unknown key {key!r} in the recipe. Did you mean {' or '.join(f'{h}.{key}' for h in homes)}?"
        )


def record_parser() -> Any:
    """The typed parser of a `Record`: every key is a flag, with its help."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="anystep", exit_on_error=False, allow_abbrev=False, add_help=False)
    parser.add_class_arguments(Record, None)
    return parser


def record_from(tree: Mapping[str, Any]) -> Record:
    """A checked record. Errors name the key: an unknown one (with the nearest), or a value of the
    wrong type.
    """
    from argparse import ArgumentError

    _check_tree(tree)
    parser = record_parser()
    try:
        values = vars(parser.instantiate(parser.parse_object(deepcopy(dict(tree)))))
    except ArgumentError as error:
        raise UsageError(_readable(str(error))) from None
    return Record(
        **{name: _as_written(value, tree.get(name, {})) for name, value in values.items()}
    )


def _as_written(section: Any, given: Any) -> Any:
    """The section with its free mappings as the recipe has them: jsonargparse reads text in them as
    YAML, again.
    """
    if not is_dataclass(section) or isinstance(section, type):
        return section
    return replace(
        section,
        **{name: dict(value) for name, value in given.items() if isinstance(value, Mapping)},
    )


def _readable(message: str) -> str:
    """jsonargparse's message on one line, in the words of the rest: `train.epochs: expected int,
    got many`.
    """
    line = re.sub(r"\s+", " ", message)
    line = re.sub(r"Parser key \"([^\"]+)\":? ?", r"\1: ", line)
    union = re.fullmatch(
        r"(.*: )Does not validate .* Subtypes: \[(.*?)\] Errors: .* Given value: (.*)", line
    )
    if union:
        kinds = (
            re.sub(r"<class '([^']+)'>", r"\1", union[2])
            .replace("NoneType", "null")
            .replace("typing.", "")
        )
        return f"{union[1]}expected {' or '.join(re.split(', (?![^[]*])', kinds))}, got {union[3]}"
    line = re.sub(r"Expected an? <class '([^']+)'>\. Got value: (.*)", r"expected \1, got \2", line)
    return re.sub(
        r"Expected an? typing\.(.*)\. Got value: (.*)", r"expected \1, got \2", line
    ).strip()


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
            raise UsageError(
                f"{flag}: {text!r} is not a YAML value: {_yaml_problem(error)}"
            ) from error
    return tree


def to_yaml(record: Record) -> str:
    """The record as YAML that `load_recipe` reads back."""
    return yaml.dump(asdict(record), Dumper=_Dumper, sort_keys=False, width=120)
