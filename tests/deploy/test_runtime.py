"""The runtime keeps every stream's state apart, whoever joins, waits, leaves or starts anew."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from trained import CLASSES, STEPS, samples

import anystep
from anystep._errors import UsageError
from anystep.deploy.step import Step, Streams, seal
from anystep.evaluation.exits import ExitRule

NEVER = ExitRule(threshold=2.0)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return samples(6).numpy()


def alone(step: Step, frames: np.ndarray) -> list[tuple[int, int]]:
    """(step, label) of one stream that has the network for itself."""
    logits, _ = step.advance(frames[:, None], step.rest(1))
    return [(t + 1, int(total.argmax())) for t, total in enumerate(logits[:, 0].cumsum(0))]


def test_streams_that_join_late_wait_and_start_anew_say_what_each_says_alone(step, frames):
    streams = Streams(step, rule=NEVER)
    said: dict[str, list[tuple[int, int]]] = {"a": [], "b": [], "c": [], "d": []}
    turns: list[dict[str, tuple[int, int]]] = [
        {"a": (0, 0)},
        {"a": (0, 1), "b": (1, 0)},
        {"b": (1, 1), "c": (2, 0)},  # a waits
        {"c": (2, 1), "a": (0, 2), "b": (1, 2)},  # in another order
        {"a": (0, 3)},  # a is decided and leaves
        {"d": (3, 0), "c": (2, 2), "b": (1, 3)},
    ]
    for turn in turns:
        given = {key: frames[t, sample] for key, (sample, t) in turn.items()}
        for decision in streams(given):
            said[decision.stream].append((decision.step, decision.label))
    assert said["a"] == alone(step, frames[:, 0])
    assert said["b"] == alone(step, frames[:, 1])
    assert said["c"] == alone(step, frames[:3, 2])
    assert said["d"] == alone(step, frames[:1, 3])
    assert len(streams) == 2
    streams.restart("c")
    (decision,) = streams({"c": frames[0, 4]})
    assert (decision.step, decision.label) == alone(step, frames[:1, 4])[0]


def test_a_stream_leaves_when_it_is_sure_and_at_the_last_step_anyway(step, frames):
    decisions = Streams(step, rule=ExitRule(threshold=0.0))({"a": frames[0, 0]})
    assert [decision.final for decision in decisions] == [True]
    streams = Streams(step, rule=NEVER)
    finals = [streams({"a": frame})[0].final for frame in frames[:, 0]]
    assert finals == [False] * (STEPS - 1) + [True]
    assert len(streams) == 0


def test_one_that_stays_goes_on_after_its_decision(step, frames):
    streams = Streams(step, rule=ExitRule(threshold=0.0), stay=True)
    steps = [streams({"a": frame})[0].step for frame in frames[:3, 0]]
    assert steps == [1, 2, 3]


def test_a_batch_of_rows_may_be_dropped_and_moved(step, frames):
    whole, _ = step.advance(frames, step.rest(6))
    _, state = step.advance(frames[:2], step.rest(6))
    rows = [4, 1]
    logits, _ = step.advance(frames[2:, rows], tuple(part[rows] for part in state))
    np.testing.assert_allclose(logits, whole[2:, rows], atol=1e-5)


def test_what_does_not_fit_is_refused(step, frames):
    with pytest.raises(ValueError, match=r"a frame must be \(n, 2, 16, 16\)"):
        step(frames[0, :, :, :8], step.rest(6))
    with pytest.raises(ValueError, match="that of 6 samples"):
        step(frames[0], step.rest(5))


def test_a_foreign_cut_or_hostile_file_is_refused_by_name(exported, tmp_path):
    good = exported[0].read_bytes()
    cut, pickled, foreign, outside = (
        tmp_path / f"{n}.onnx" for n in ("cut", "pickle", "for", "out")
    )
    cut.write_bytes(good[: len(good) // 2])
    pickled.write_bytes(b"\x80\x04\x95" + bytes(64))
    model = onnx.load(exported[0])
    del model.metadata_props[:]
    onnx.save(model, foreign)
    model = onnx.load(exported[0])
    onnx.save_model(
        model, outside, save_as_external_data=True, location="weights.bin", size_threshold=256
    )
    huge = tmp_path / "huge.onnx"
    with huge.open("wb") as file:
        file.truncate((2 << 30) + 1)
    words = {cut: "cannot be run", pickled: "cannot be run", foreign: "not written by anystep"}
    words |= {outside: "damaged or was edited", huge: "larger than 2 GiB"}
    words |= {tmp_path: "must be a file", tmp_path / "none.onnx": "no model file"}
    for path, word in words.items():
        with pytest.raises(UsageError, match=word):
            Step(path)


def test_a_flipped_bit_is_seen(exported, tmp_path):
    good, draw = exported[0].read_bytes(), np.random.default_rng(0)
    path = tmp_path / "flipped.onnx"
    for place in draw.integers(0, len(good), 40):
        content = bytearray(good)
        content[place] ^= 1 << draw.integers(8)
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"flipped\.onnx"):
            Step(path)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"steps": 0}, "'steps'"),
        ({"steps": "10"}, "'steps'"),
        ({"classes": "abc"}, "'classes'"),
        ({"classes": ["a", "b"]}, "does not have the inputs and outputs"),
        ({"frame": None}, "'frame'"),
        ({"frame": [2, 16, 17]}, "does not have the inputs and outputs"),
        ({"states": 3}, "'states'"),
        ({"binning": {"name": "fixed_duration", "duration_us": -5}}, "'binning'"),
        ({"planes": ["on", "off"]}, "'planes'"),
        ({"exit": {"score": "margin"}}, "'exit'"),
        ({"exit": "now"}, "'exit'"),
        ({"resize": "x"}, "'resize'"),
        ({"format": "x"}, "'format'"),
        ({"accuracy": None}, "'accuracy'"),
        (None, "does not describe a network"),
    ],
)
def test_a_description_that_cannot_be_is_refused_by_its_key(exported, tmp_path, change, word):
    """Also where the file's hash is right: who edits a file can make one."""
    model = onnx.load(exported[0])
    (entry,) = model.metadata_props
    about = json.loads(entry.value) | {"seal": "0" * 64}
    entry.value = "[" * 100_000 if change is None else json.dumps(about | change)
    path = tmp_path / "edited.onnx"
    path.write_bytes(seal(model.SerializeToString()))
    with pytest.raises(UsageError, match=word):
        Step(path)


def test_the_runtime_needs_neither_torch_nor_what_reads_recipes(exported, frames, tmp_path):
    np.save(tmp_path / "frames.npy", frames)
    code = f"""
import sys
for name in ("torch", "yaml", "rich", "numba", "safetensors", "lightning", "onnx"):
    sys.modules[name] = None
import numpy as np
from anystep.deploy.step import Step, Streams, seal
streams = Streams(Step({str(exported[0])!r}))
for frame in np.load({str(tmp_path / "frames.npy")!r}):
    decisions = streams({{n: one for n, one in enumerate(frame)}})
print(len(decisions))
"""
    root = str(Path(anystep.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "6", done.stderr


def test_the_logits_have_a_class_for_each_name(step):
    logits, _ = step(np.zeros((1, 2, 16, 16), np.float32), step.rest(1))
    assert logits.shape == (1, CLASSES) == (1, len(step.about["classes"]))
