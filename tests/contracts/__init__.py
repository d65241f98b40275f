"""One suite a table of the package: what each of its rows promises."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType


def promises(contract: ModuleType) -> dict[str, Callable[[str], None]]:
    """The tests of a suite that take a row's name and nothing else, so that they can be run on a
    row made up elsewhere.
    """
    tests = {name: test for name, test in vars(contract).items() if name.startswith("test_")}
    return {
        name: test
        for name, test in tests.items()
        if list(inspect.signature(test).parameters) == ["name"]
    }
