"""An exported step, and many streams through it: numpy and onnxruntime, no torch.

The file holds one time step, `(frame, v_1 .. v_k) -> (logits, v_1' .. v_k')`; who forgets to hand
the state back gets a network without memory. That is what these classes are for: `Step` passes the
state, `Streams` keeps it for many independent streams in one batch.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anystep._errors import UsageError
from anystep._extras import need
from anystep._files import Json, regular
from anystep.deploy.describe import Rules, check_about
from anystep.evaluation.exits import ExitRule

Floats = NDArray[np.float32]
State = tuple[Floats, ...]

LARGEST_MODEL = 2 << 30  # bytes: what a single ONNX file can hold at all
UNSEALED = b'"seal": "' + b"0" * 64 + b'"'  # in the metadata, before the file's hash is there
FORMAT = 1  # of the description in a model's metadata


def _content(path: Path) -> bytes:
    """The bytes of a model file, judged before they are read."""
    if not path.exists():
        raise UsageError(f"there is no model file {path}")
    if regular(path).stat().st_size > LARGEST_MODEL:
        raise UsageError(f"{path} is larger than 2 GiB, which no exported step is")
    return path.read_bytes()


def content_sha(content: bytes) -> bytes:
    """The hash of a file whose place for it is empty."""
    return hashlib.sha256(content).hexdigest().encode()


def seal(content: bytes) -> bytes:
    """The file with its own hash in the place that it keeps for it (UNSEALED)."""
    return content.replace(UNSEALED, UNSEALED[:-65] + content_sha(content) + b'"', 1)


def _sealed(content: bytes) -> bool:
    """Whether a file is as it was written."""
    start = content.find(UNSEALED[:-65])
    first = start + len(UNSEALED) - 65
    said = content[first : first + 64]
    return start >= 0 and content_sha(content[:first] + b"0" * 64 + content[first + 64 :]) == said


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _state_ok(state: Json) -> bool:
    sides = all(type(side) is int and 1 <= side <= 1 << 20 for side in state["shape"])
    return sides and math.prod(state["shape"]) <= 1 << 28 and math.isfinite(state["rest"])


_GRAPH: Rules = {
    "format": lambda about: type(about["format"]) is int,
    "frame": lambda about: (
        len(about["frame"]) == 3
        and all(type(side) is int and 1 <= side <= 1 << 14 for side in about["frame"])
    ),
    "states": lambda about: all(_state_ok(state) for state in about["states"]),
}


def _about(session: Any, path: Path) -> Json:
    """What the file says of itself. Error: it was not written by anystep, or by a newer one."""
    said = session.get_modelmeta().custom_metadata_map.get("anystep")
    if said is None:
        raise UsageError(
            f"{path} was not written by anystep export: it does not say what its state is"
        )
    try:
        about = json.loads(said)
    except (ValueError, RecursionError):
        about = None
    about = check_about(about, path, _GRAPH)
    if about["format"] > FORMAT:
        raise UsageError(f"{path} was written by a newer anystep (format {about['format']})")
    return about


def _check_graph(session: Any, about: Json, outputs: Sequence[str], path: Path) -> None:
    """Refuse a file whose graph is not the one that its metadata speak of."""
    shapes = {"frame": about["frame"]} | {each["name"]: each["shape"] for each in about["states"]}
    takes = {each.name: each.shape[1:] for each in session.get_inputs()}
    gives = [each.name for each in session.get_outputs()]
    classes = session.get_outputs()[0].shape[1:]
    if (takes, gives, classes) != (shapes, list(outputs), [len(about["classes"])]):
        raise UsageError(f"{path}: its graph does not have the inputs and outputs that it names")


class Step:
    """One time step of a network, from a file that `anystep export` wrote.

    `about` is what the file says of itself: classes, binning, accuracy at every T, exit rule.

    Errors: a file that is missing, too large, cut, no ONNX, keeps its weights in other files, or
    was not written by anystep.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 1) -> None:
        onnxruntime = need("onnxruntime", extra="export", purpose="running an exported network")
        self.path = Path(path)
        content = _content(self.path)
        if UNSEALED[:-65] in content and not _sealed(content):
            raise UsageError(f"{self.path} is damaged or was edited: it does not fit its hash")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 4  # what is wrong is raised below, once
        # Weights that a file keeps elsewhere would be read from wherever it says: from nowhere.
        nowhere = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(nowhere, str(self.path / "nowhere"))
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors share no class of their own
            raise UsageError(f"{self.path} cannot be run: {_first_line(error)}") from error
        self.about = _about(self._session, self.path)
        self._states: list[Json] = self.about["states"]
        self._outputs = ["logits", *(f"{state['name']}_next" for state in self._states)]
        _check_graph(self._session, self.about, self._outputs, self.path)
        self.frame_shape: tuple[int, ...] = tuple(self.about["frame"])

    def rest(self, n: int) -> State:
        """The state of n samples before their first frame."""
        return tuple(
            np.full((n, *state["shape"]), state["rest"], np.float32) for state in self._states
        )

    def __call__(self, frame: Floats, state: Sequence[Floats]) -> tuple[Floats, State]:
        """One step of n samples: frame (n, P, H, W) -> logits (n, C), and the state to hand back.

        Errors: a frame of another shape; a state of another model or another number of samples.
        """
        if frame.ndim != 4 or frame.shape[1:] != self.frame_shape:
            want = ", ".join(map(str, self.frame_shape))
            raise ValueError(f"a frame must be (n, {want}), got {frame.shape}")
        shapes = [(len(frame), *each["shape"]) for each in self._states]
        if [rows.shape for rows in state] != shapes:
            raise ValueError(
                f"the state must be that of {len(frame)} samples of this network (see rest(n)), "
                f"got shapes {[rows.shape for rows in state]}"
            )
        feed = {"frame": np.ascontiguousarray(frame, np.float32)}
        feed |= {each["name"]: rows for each, rows in zip(self._states, state, strict=True)}
        logits, *after = self._session.run(self._outputs, feed)
        return logits, tuple(after)

    def advance(self, frames: Floats, state: Sequence[Floats]) -> tuple[Floats, State]:
        """Several steps: frames (t, n, P, H, W) -> step logits (t, n, C), and the state after."""
        said, after = [], tuple(state)
        for frame in frames:
            logits, after = self(frame, after)
            said.append(logits)
        return np.stack(said), after


class AnyStep(Protocol):
    """What streams need of a network: `Step`, or `network.TorchStep` where torch is."""

    about: Json

    def rest(self, n: int) -> State: ...

    def __call__(self, frame: Floats, state: Sequence[Floats]) -> tuple[Floats, State]: ...


@dataclass(frozen=True, slots=True)
class Decision:
    """What a network says of a stream after a step.

    stream      whose it is
    step        1, 2, ... since the stream began
    label       index of the likeliest class
    certainty   the score of the exit rule, in [0, 1]
    final       whether the stream is decided: sure enough, or at its last step
    """

    stream: Hashable
    step: int
    label: int
    certainty: float
    final: bool


class Streams:
    """Many independent streams through one network: each joins with its first frame and leaves when
    it is decided, or when it is told to; those that are there share a batch.

    Args:
        step: the network.
        rule: when a stream is decided; None takes the rule of the file.
        steps: the last step of a stream; None takes the T of the file.
        stay: keep a decided stream and go on with it, instead of forgetting it.
    """

    def __init__(
        self,
        step: AnyStep,
        *,
        rule: ExitRule | None = None,
        steps: int | None = None,
        stay: bool = False,
    ) -> None:
        self.step, self.stay = step, stay
        self.rule = rule or ExitRule(**(step.about.get("exit") or {"threshold": 2.0}))
        self.steps = steps or int(step.about["steps"])
        self._keys: list[Hashable] = []
        self._taken = np.zeros(0, np.int64)
        self._total = np.zeros((0, len(step.about["classes"])))
        self._state = step.rest(0)

    def __len__(self) -> int:
        return len(self._keys)

    def restart(self, stream: Hashable) -> None:
        """Forget a stream, if it is there: with its next frame it begins anew."""
        if stream in self._keys:
            self._keep([key != stream for key in self._keys])

    def __call__(self, frames: Mapping[Hashable, Floats]) -> list[Decision]:
        """One step of the streams that have a frame (P, H, W) each; the others wait as they are."""
        if not frames:
            return []
        self._join([key for key in frames if key not in self._keys])
        rows = [self._keys.index(key) for key in frames]
        everyone = rows == list(range(len(self._keys)))
        before = self._state if everyone else tuple(part[rows] for part in self._state)
        logits, after = self.step(np.stack(list(frames.values())), before)
        if everyone:
            self._state = after
        else:
            for part, new in zip(self._state, after, strict=True):
                part[rows] = new
        self._total[rows] += logits
        self._taken[rows] += 1
        decisions = self._decide(list(frames), rows)
        if not self.stay:
            done = {decision.stream for decision in decisions if decision.final}
            self._keep([key not in done for key in self._keys])
        return decisions

    def _decide(self, keys: Sequence[Hashable], rows: Sequence[int]) -> list[Decision]:
        taken, total = self._taken[rows], self._total[rows]
        certainty = self.rule.certainty(total, taken)
        final = (certainty >= self.rule.threshold) | (taken >= self.steps)
        columns = (taken, total.argmax(-1), certainty, final)
        return [
            Decision(key, int(t), int(label), float(sure), bool(done))
            for key, t, label, sure, done in zip(keys, *columns, strict=True)
        ]

    def _join(self, new: Sequence[Hashable]) -> None:
        if not new:
            return
        self._keys += new
        self._taken = np.append(self._taken, np.zeros(len(new), np.int64))
        self._total = np.concatenate([self._total, np.zeros((len(new), self._total.shape[1]))])
        rest = self.step.rest(len(new))
        self._state = tuple(
            np.concatenate([part, fresh]) for part, fresh in zip(self._state, rest, strict=True)
        )

    def _keep(self, stays: Sequence[bool]) -> None:
        if all(stays):
            return
        self._keys = [key for key, stay in zip(self._keys, stays, strict=True) if stay]
        self._taken, self._total = self._taken[list(stays)], self._total[list(stays)]
        self._state = tuple(part[list(stays)] for part in self._state)
