"""Modules of a package that are imported when first used, so that the package itself is cheap."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType


def modules_on_demand(
    package: str, file: str
) -> tuple[Callable[[str], ModuleType], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` (PEP 562) of the package with this `__name__`, `__file__`."""
    folder = Path(file).parent
    inside = [path for path in folder.iterdir() if not path.name.startswith("_")]
    names = {
        path.stem for path in inside if path.suffix == ".py" or (path / "__init__.py").exists()
    }

    def load(name: str) -> ModuleType:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return importlib.import_module(f"{package}.{name}")

    return load, lambda: sorted(names)
