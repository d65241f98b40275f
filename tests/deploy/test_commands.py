"""From a run folder to decisions, by the command line; real recordings stream as they evaluate."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from trained import samples

from anystep.data.digits import digits_test_recording
from anystep.data.frames import FixedDuration
from anystep.data.readers import read_events
from anystep.data.recording import Events
from anystep.deploy.network import TorchStep, decide
from anystep.deploy.onnx import prepared
from anystep.deploy.sources import FileSource
from anystep.deploy.stream import Follower
from anystep.deploy.windows import Windows
from anystep.evaluation.exits import ExitRule, certainties, exit_steps
from anystep.pretrained import shipped, trained

NMNIST = Path(os.environ.get("ANYSTEP_DATA", "")) / "NMNIST" / "Test"


def test_a_run_is_calibrated_exported_and_followed(terminal, run, tmp_path):
    found = terminal.done("calibrate", run, "--mean-t", "2")
    assert found["early exit"]["mean_t"] <= 3
    assert found["all steps"]["mean_t"] == 3
    model = tmp_path / "net.onnx"
    terminal.done("export", run, "--out", model)
    parity = json.loads((tmp_path / "net.parity.json").read_text())
    assert parity["spikes"] == parity["ties"]

    draw = np.random.default_rng(0)
    t = np.sort(draw.integers(0, 9000, 2000))
    recording = tmp_path / "recording.npz"
    x, y, p = draw.integers(0, (12, 12, 2), (2000, 3)).T
    np.savez(recording, t=t, x=x, y=y, p=p)
    said = {}
    for source in (model, run):
        code, out, _ = terminal("stream", source, "--source", recording, "--sensor", "12,12")
        *lines, last = map(json.loads, out.splitlines())
        assert code == 0
        assert last["summary"]["events"] == 2000
        said[source] = [(line["t_us"], line["step"], line["label"]) for line in lines]
    assert said[model] == said[run]


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["calibrate", "run"], "name one target"),
        (["calibrate", "run", "--accuracy", "101"], "--accuracy must be a percentage"),
        (["calibrate", "run", "--mean-t", "2", "--score", "sure"], "unknown score 'sure'"),
        (["export", "nowhere", "--out", "x.onnx"], "unknown folder or network 'nowhere'"),
        (["export", "run", "--out", "x.onnx", "--quick"], "unknown argument '--quick'"),
        (["stream", "run", "--source", "-", "--max-rate", "0"], "--max-rate must be > 0"),
        (["stream", "run", "--source", "-", "--max-rate", "inf"], "--max-rate must be > 0"),
        (["stream", "run", "--source", "-", "--steps", "10001"], "at most 10,000, got 10001"),
        (["export", "run", "--out", "none/x.onnx"], "in a folder that exists"),
        (["stream", "run", "--source", "-", "--sensor", "8,8"], "trained on 12 x 12 pixels"),
        (["stream", "run", "--source", "digits-dvs:359"], "test recordings 0 to 358, got 359"),
    ],
)
def test_a_wrong_word_is_refused(terminal, run, words, word):
    assert word in terminal.refused(*words)


@pytest.mark.parametrize("threshold", [0.0, 0.45, 0.6, 2.0])
def test_samples_leave_the_batch_when_the_logits_say_so(network, threshold):
    fused, frames = prepared(network, backend="auto"), samples(40)
    rule = ExitRule(threshold=threshold)
    sizes = []
    handle = fused.classifier.register_forward_pre_hook(
        lambda _, inputs: sizes.append(inputs[0].shape[1])
    )
    labels, steps = decide(fused, frames, rule)
    handle.remove()
    with torch.inference_mode():
        logits = fused(frames).numpy()
    wanted = exit_steps(certainties(logits), threshold)
    np.testing.assert_array_equal(steps, wanted)
    np.testing.assert_array_equal(labels, logits.cumsum(0)[wanted - 1, np.arange(40)].argmax(-1))
    assert sizes == [int((wanted >= t).sum()) for t in range(1, wanted.max() + 1)]


def streamed(step: TorchStep, events: Events) -> list[int]:
    """What a stream of a recording says after each of the first ten windows."""
    cutter = Windows(step.about["binning"], events.sensor, from_first=step.about["from_first"])
    source, never = FileSource(events), ExitRule(threshold=2.0)
    follower = Follower(step, source, cutter, to_frame=lambda c: c.astype(np.float32), rule=never)
    return [line["label"] for line in follower][:10]


def offline(step: TorchStep, events: Events) -> list[int]:
    """What the network says of its frames, cut at once."""
    frames = torch.from_numpy(FixedDuration(10, 30_000)(events).astype(np.float32))
    with torch.inference_mode():
        return step.network(frames[:, None])[:, 0].double().cumsum(0).argmax(-1).tolist()


def shipped_step(name: str) -> TorchStep:
    found = trained(name)
    network = prepared(found.model, backend="auto")
    return TorchStep(network, {**found.about, "frame": list(network.frame_shape)})


@pytest.mark.parametrize("name", ["digits_ce", "digits_tks"])
def test_test_recordings_stream_as_they_evaluate(name):
    step = shipped_step(name)
    right = []
    for number in range(12):
        events, label = digits_test_recording(number)
        said = streamed(step, events)
        assert said == offline(step, events), number
        right.append(said[-1] == label)
    assert sum(right) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shipped() if name.startswith("digits")])
def test_a_whole_test_set_streams_to_the_accuracies_of_its_card(name):
    step = shipped_step(name)
    said, labels = [], []
    for number in range(step.about["accuracy"]["samples"]):
        events, label = digits_test_recording(number)
        said.append(streamed(step, events))
        labels.append([label] * 10)
    top1 = 100 * (np.array(said) == np.array(labels)).mean(0)
    assert top1.tolist() == pytest.approx(step.about["accuracy"]["prefix_top1"])


@pytest.mark.skipif(not NMNIST.is_dir(), reason="ANYSTEP_DATA names no folder with NMNIST")
def test_real_recordings_stream_as_they_evaluate():
    step = shipped_step("nmnist_tks")
    for path in sorted(NMNIST.glob("*/*.bin")):
        events = read_events(path)
        assert streamed(step, events) == offline(step, events), path
