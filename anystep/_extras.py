"""The one error for an optional dependency that is not installed."""

from __future__ import annotations

import importlib
from types import ModuleType

from anystep._errors import UsageError


class MissingExtraError(UsageError, ImportError):
    """An optional package is not installed."""


def need(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional `module`, or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there; something it needs is not, and that name helps more
        raise MissingExtraError(
            f'{purpose} needs {module}: pip install "anystep[{extra}]"'
        ) from error
