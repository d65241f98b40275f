"""A command from its first line to its exit code, also where stdout or stderr is closed or full.

Exit codes: 0 done; 1 it came to no good end; 2 it was asked wrongly; 130 interrupted (a run can be
resumed). Wrong usage (`UsageError`) is one line, and so is what no line of code is to blame for: a
`RunError`, a file that the system refuses (`OSError`), memory that ran out. Any other exception is
a defect and keeps its traceback (exit code 1).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

from anystep._errors import RunError, UsageError
from anystep._files import Json


def _mute(number: int) -> None:
    """Let a stream lead nowhere: whatever fails there once would fail again at the end."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
    os.set_inheritable(number, True)


def open_streams() -> None:
    """Let the standard streams that are closed lead nowhere.

    Else the next file that is opened takes their number, and gets all that is said there.
    """
    for number, (name, mode) in enumerate({"stdin": "r", "stdout": "w", "stderr": "w"}.items()):
        if getattr(sys, name) is None:
            _mute(number)
            setattr(sys, name, os.fdopen(number, mode, errors="backslashreplace"))


def say(text: str) -> None:
    """A line for people, on stderr. Where it cannot be said, nobody reads it, and work goes on."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _mute(sys.stderr.fileno())


def answer(value: Json, *, flush: bool = True) -> bool:
    """Print a line of JSON on stdout; False if its reader went away, who has all he wanted.

    Error: `OSError` where it cannot be written, on a full disk say.
    """
    try:
        print(json.dumps(value), flush=flush)
    except OSError as error:
        _mute(sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return False
        raise OSError(f"cannot write to stdout: {error.strerror}") from error
    return True


def run_command(name: str, command: Callable[[], Json], *, shown: bool = True) -> int:
    """Run a command that is called `name`; its exit code. `shown`: print what it ends with."""
    try:
        result = command()
        if shown:
            answer(result)
        return 0 if result.get("ok", True) else 1
    except UsageError as error:
        code, why = 2, str(error)
    except (RunError, OSError) as error:
        code, why = 1, str(error)
    except MemoryError as error:
        code, why = 1, f"out of memory: {error}"
    except KeyboardInterrupt as stop:
        code, why = 130, "; ".join(["interrupted", *map(str, stop.args)])
    say(f"{name}: {why}")
    return code
