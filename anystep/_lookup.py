"""One way to fail on an unknown name; and rows that come from outside of the package."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from anystep._errors import UsageError

Row = TypeVar("Row")


def unknown(name: object, known: Iterable[str], what: str, where: str = "") -> UsageError:
    """The error for a name that no table has: it offers the nearest one and lists them all."""
    known = list(known)
    near = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    place = f" in {where}" if where else ""
    listing = ", ".join(known) if known else "none"
    return UsageError(f"unknown {what} {name!r}{place}.{hint} Known: {listing}")


def choose(table: Mapping[str, Row], name: str, what: str) -> Row:
    """The row `name` of a table, or a `UsageError` with the nearest name."""
    if not isinstance(name, str) or name not in table:
        raise unknown(name, table, what)
    return table[name]


def check_keys(given: Iterable[str], known: Iterable[str], what: str, where: str) -> None:
    """Refuse the first of `given` that is not in `known`, by name."""
    known = list(known)
    for key in given:
        if key not in known:
            raise unknown(key, known, what, where)


def import_rows(modules: Iterable[str]) -> None:
    """Import modules that add rows to the tables: those that installed packages name in the entry
    points `anystep.plugins`, and `modules`, from the folder of work or from what is installed.
    """
    from importlib.metadata import entry_points

    for plugin in entry_points(group="anystep.plugins"):
        try:
            plugin.load()
        except ImportError as error:
            raise UsageError(f"the plugin {plugin.name} cannot be imported: {error}") from error
    for name in modules:
        if not all(part.isidentifier() for part in name.split(".")):
            raise UsageError(f"--import takes the name of a module, like my_rows, got {name!r}")
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # last: a file here must hide nothing that is installed
        try:
            importlib.import_module(name)
        except SystemExit as error:
            raise UsageError(f"--import {name}: the module ends the program") from error
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):
                raise  # it is there, and lacks another one
            what = "there is no module of this name, neither here nor installed"
            raise UsageError(f"--import {name}: {what}") from error


_ACCEPTED: dict[str, tuple[type, ...]] = {
    "float": (int, float),
    "int": (int,),
    "bool": (bool,),
    "str": (str,),
    "None": (type(None),),
    "list[int]": (list,),
    "list[str]": (list,),
    "list[Any]": (list,),
    "dict[str, Any]": (dict,),
    "os.PathLike[str]": (os.PathLike,),
    "Folder": (str, os.PathLike),
}


def check_arguments(
    function: Callable[..., Any], given: Mapping[str, Any], what: str, *, complete: bool = False
) -> None:
    """Refuse arguments that `function` does not have, and values of a wrong simple type.

    Only annotations made of those in `_ACCEPTED` are judged; a richer one is the function's own
    affair. `complete` also refuses to leave out an argument that has no default.
    """
    parameters = inspect.signature(function).parameters
    check_keys(given, parameters, "argument", what)
    for key, value in given.items():
        annotation = parameters[key].annotation
        names = str(getattr(annotation, "__name__", annotation)).split(" | ")
        if not all(name in _ACCEPTED for name in names):
            continue
        accepted = tuple(kind for name in names for kind in _ACCEPTED[name])
        if not isinstance(value, accepted) or (isinstance(value, bool) and "bool" not in names):
            raise UsageError(f"{what}: {key} must be {' or '.join(names)}, got {value!r}")
    if complete:
        for key, parameter in parameters.items():
            if parameter.default is parameter.empty and key not in given:
                raise UsageError(f"{what}: {key} is required")
