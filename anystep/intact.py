"""The files of a run folder, each read whole or refused by name; the training state among them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._files import Json, write_bytes

Contents = TypeVar("Contents")

LARGEST = 256 * 2**20  # bytes that outputs may become in memory, or 100 times their file
# torch writes a zip archive. The hash, of all before it, is the comment at its end: torch and older
# versions of anystep read the file as ever.
MARK = b"anystep sha256:"
DIGITS = 64
KEYS = {"phase": int, "networks": dict, "history": list}
WITHIN_A_PHASE = {"model": dict, "optimizer": dict, "epoch": int, "best": dict}


def read_json(path: Path) -> Json:
    """A JSON file that holds a mapping."""
    value = json.loads(path.read_text("utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"it must hold a mapping, not {type(value).__name__}")
    return value


def read_lines(path: Path) -> list[Json]:
    """A file with a JSON value in every line."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file, whose size in memory is looked at first."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(each.file_size for each in archive.infolist())
    if unpacked > max(100 * path.stat().st_size, LARGEST):
        raise ValueError(f"it would unpack to {unpacked} bytes")
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def intact(path: Path, read: Callable[[Path], Contents]) -> Contents:
    """What `read` makes of a file of the run folder. Error: it is missing or damaged, by name."""
    if not path.is_file():
        raise UsageError(f"{path} is missing: the run folder is not whole")
    try:
        return read(path)
    except Exception as error:  # whatever json, zipfile and numpy raise for damage: named
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(f"{path} is truncated or not what it should be: {reason}") from error


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain Python values, whole or not at all.

    Error: `OSError` with the path, for a full disk say; the state before is then still there.
    """
    import torch

    # torch reports a full disk as an internal error of its zip writer, so it writes to memory
    content = io.BytesIO()
    torch.save(dict(state), content)
    content.seek(-2, os.SEEK_END)  # the length of the comment
    content.write((len(MARK) + DIGITS).to_bytes(2, "little") + MARK)
    with content.getbuffer() as before:
        digest = hashlib.sha256(before).hexdigest()
    content.write(digest.encode())
    write_bytes(path, content.getbuffer())


def _is_sealed(data: bytes) -> bool:
    """Whether the file ends with its hash: older ones do not. Error: with that of other bytes."""
    before, digest = memoryview(data)[:-DIGITS], data[-DIGITS:]
    if before[-len(MARK) :] != MARK:
        return False
    if hashlib.sha256(before).hexdigest().encode() != digest:
        raise ValueError("its bytes are not those of its hash")
    return True


def _load(data: bytes) -> Json:
    """The state in the bytes of the file. No code in it is run. Error: it is none."""
    import torch

    sealed = _is_sealed(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(each.file_size for each in archive.infolist()) > len(data):
            raise ValueError("it would unpack to more than its size")
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or ("record" in state and not sealed):
        raise ValueError("its bytes are not those of its hash")
    for key, kind in (KEYS | (WITHIN_A_PHASE if "model" in state else {})).items():
        if not isinstance(state.get(key), kind):
            raise ValueError(f"{key!r} is missing or of the wrong type")
    return state


def read_state(path: Path) -> Json:
    """What `write_state` wrote. Error: a file that is damaged or no state, by its path."""
    data = path.read_bytes()
    try:
        return _load(data)
    except Exception as error:  # whatever zipfile and torch raise for damage: named, not hidden
        # What torch says of code in the file is advice to run it
        code = isinstance(error, pickle.UnpicklingError)
        reason = "it asks for code to be run" if code else str(error).partition("\n")[0]
        way_out = "delete it, and --resume starts at the first epoch"
        problem = f"{path} is truncated or not a checkpoint"
        raise UsageError(f"{problem}: {way_out} ({reason or type(error).__name__})") from error
