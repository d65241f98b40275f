"""`deploy`: an exported step beside its ReLU twin's, a stream beside its steps, and early exit
beside all steps.

Networks are untrained: what a step costs does not depend on what it says. Early exit needs samples
that leave at different times: its threshold is the one whose mean T is nearest to half of T on the
very samples that are timed.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anystep._errors import UsageError
from anystep.data.recording import Events
from anystep.deploy.network import decide
from anystep.deploy.onnx import export_step, prepared
from anystep.deploy.sources import FileSource
from anystep.deploy.step import Step
from anystep.deploy.stream import Follower
from anystep.deploy.windows import Windows
from anystep.evaluation.exits import ExitRule, certainties, exit_steps
from anystep.nn.models import create_model
from anystep.nn.models.base import StepModel
from benchmarks.measure import Contender, Rows, Setup, digits, measure, measure_groups, median_of

LIF = {"name": "lif", "tau": 2.0, "v_threshold": 0.5}
NETWORKS: dict[str, dict[str, Any]] = {
    "VGG-SNN, 48 x 48": {"input_size": 48},
    "the digits network, 34 x 34": {"input_size": 34, "widths": [[16], [32], [64]]},
}
FULL, SMALL = NETWORKS
STEPS, BATCH, CLASSES = 10, 32, 10
WINDOW_US = 30_000
TWIN, STEP, STREAM = "relu twin", "anystep step", "anystep stream"
ALL, EARLY = "all steps", "early exit"
FLOOD = 10_000_000
FLOODED = f"a second of 10 million events, {SMALL}"
LEAVING = f"a sample of a batch of {BATCH}, {FULL}"


def _network(name: str, neuron: str | dict[str, Any]) -> StepModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = create_model("vgg_snn", num_classes=CLASSES, neuron=neuron, **NETWORKS[name])
    return made.eval()


def _frames(model: StepModel, count: int) -> torch.Tensor:
    """(T, N, P, H, W) of counts; no two samples are as busy."""
    draw = torch.Generator().manual_seed(0)
    busy = torch.linspace(0.05, 1, count)[:, None, None, None]
    return torch.poisson(busy.expand(STEPS, count, *model.frame_shape), generator=draw)


def _exported(name: str, neuron: str | dict[str, Any], folder: Path) -> Step:
    """The exported step of a network, compared with torch."""
    model = _network(name, neuron)
    path = folder / f"{'twin' if neuron == 'relu' else 'step'}-{model.frame_shape[-1]}.onnx"
    about = {
        "classes": list("0123456789"),
        "steps": STEPS,
        "accuracy": {"prefix": "live"},
        "from_first": False,
        "binning": {"name": "fixed_duration", "steps": STEPS, "duration_us": WINDOW_US},
    }
    export_step(model, path, frames=_frames(model, 2), about=about)
    return Step(path)


def _recording(side: int, *, windows: int, per_second: int) -> Events:
    draw = np.random.default_rng(0)
    count = per_second * windows * WINDOW_US // 1_000_000
    t = np.sort(draw.integers(0, windows * WINDOW_US, count))
    x, y, p = (draw.integers(0, high, count) for high in (side, side, 2))
    return Events.from_arrays(t, x, y, p, (side, side))


def _stream(step: Step, events: Events) -> None:
    cutter = Windows(step.about["binning"], events.sensor)
    never = ExitRule(threshold=2.0)
    counted = lambda counts: counts.astype(np.float32)  # noqa: E731
    for _ in Follower(step, FileSource(events), cutter, to_frame=counted, rule=never):
        pass


def _steps(step: Step, count: int) -> None:
    """So many steps without a stream, from rest every T of them."""
    frame = np.ones((1, *step.frame_shape), np.float32)
    for _ in range(count // STEPS):
        state = step.rest(1)
        for _ in range(STEPS):
            _, state = step(frame, state)


def _a_step(name: str, folder: Path, setup: Setup) -> Rows:
    """A step of a network and of its twin, exported the same way."""
    group, count = f"a step, {name}", 3 * STEPS
    twin, own = (_exported(name, neuron, folder) for neuron in ("relu", LIF))
    contenders = [
        Contender(TWIN, lambda: _steps(twin, count), group, 1 / count),
        Contender(STEP, lambda: _steps(own, count), group, 1 / count),
    ]
    return measure(contenders, setup, against=[TWIN])


def _a_window(name: str, folder: Path, setup: Setup) -> Rows:
    """A window of a stream, from events to a decision, beside the step that is in it."""
    group, count = f"a window of 9,000 events, {name}", 3 * STEPS
    step = _exported(name, LIF, folder)
    events = _recording(step.frame_shape[-1], windows=count, per_second=300_000)
    contenders = [
        Contender(STEP, lambda: _steps(step, count), group, 1 / count),
        Contender(STREAM, lambda: _stream(step, events), group, 1 / count),
    ]
    return measure(contenders, setup, against=[STEP])


def _flood(folder: Path, setup: Setup) -> Rows:
    """A second of a recording with ten million events a second."""
    step = _exported(SMALL, LIF, folder)
    second = 1_000_000 // WINDOW_US + 1
    events = _recording(step.frame_shape[-1], windows=second, per_second=FLOOD)
    share = 1e6 / (second * WINDOW_US)
    run = Contender(STREAM, lambda: _stream(step, events), FLOODED, share)
    return measure([run], setup, against=[])


def _early(setup: Setup) -> tuple[Rows, float]:
    """(rows, mean T): a batch from which samples leave, beside the same one that stays."""
    model = prepared(_network(FULL, LIF), backend="auto")
    frames = _frames(model, BATCH)
    with torch.inference_mode():
        sure = certainties(model(frames).numpy())
    taken = {each: exit_steps(sure, each).mean() for each in np.unique(sure)}
    threshold = min(taken, key=lambda each: abs(taken[each] - STEPS / 2))
    rules = {ALL: ExitRule(threshold=2.0), EARLY: ExitRule(threshold=float(threshold))}
    contenders = [
        Contender(name, partial(decide, model, frames, rule), LEAVING, 1 / BATCH)
        for name, rule in rules.items()
    ]
    mean_t = float(decide(model, frames, rules[EARLY])[1].mean())
    return measure(contenders, setup, against=[ALL]), mean_t


def bench_deploy(setup: Setup) -> dict[str, Any]:
    """Run all groups on the CPU."""
    if setup.device.type != "cpu" or setup.shapes:
        raise UsageError("bench: deploy measures its own shapes, on the cpu")
    mean_t = 0.0

    def early() -> Rows:
        nonlocal mean_t
        rows, mean_t = _early(setup)
        return rows

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows, left_out = measure_groups(
            {
                **{f"step, {each}": partial(_a_step, each, folder, setup) for each in NETWORKS},
                **{f"window, {each}": partial(_a_window, each, folder, setup) for each in NETWORKS},
                FLOODED: partial(_flood, folder, setup),
                LEAVING: early,
            },
            setup,
        )
    return {"rows": rows, "summary": _summary(rows, mean_t), "left_out": left_out}


def _summary(rows: Rows, mean_t: float) -> dict[str, Any]:
    """What the targets speak of, of the groups that were measured."""
    found = {(row["group"], row["name"]): row for row in rows}
    told: dict[str, Any] = {}
    for name in NETWORKS:
        if row := found.get((f"a step, {name}", STEP)):
            told.setdefault("step_to_twin", {})[name] = row["ratio_to"][TWIN]
        group = f"a window of 9,000 events, {name}"
        if row := found.get((group, STREAM)):
            more = row["median_ms"] - median_of(rows, STEP, group)
            told.setdefault("stream_to_step", {})[name] = row["ratio_to"][STEP]
            told.setdefault("stream_overhead_ms", {})[name] = digits(more)
    if row := found.get((FLOODED, STREAM)):
        told["flood_real_time_factor"] = digits(1000 / row["median_ms"])
    if row := found.get((LEAVING, EARLY)):
        told["exit_mean_t"] = digits(mean_t)
        told["exit_ms_to_mean_t"] = digits(row["ratio_to"][ALL] * STEPS / mean_t)
    return told
