"""A tiny made-up data set, methods that go wrong, and the command line in a process of its own.

`python tests/drivers.py train RECIPE --out RUN` is `anystep train RECIPE --out RUN` with the data
set "tiny" and the methods of `ROWS`.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np
import torch
import yaml

from anystep import intact
from anystep._files import atomic_path
from anystep.cli import main
from anystep.data.datasets import DATASETS
from anystep.data.recording import Events
from anystep.data.sets import FrameSet, FramesOf, Splits
from anystep.nn.models import create_model
from anystep.training.fit import fit, start
from anystep.training.methods import METHODS, LossMethod
from anystep.training.phases import Phase
from anystep.training.schedule import Plan

SIZE, CLASSES = 12, 4
TINY_MODEL = {
    "name": "vgg_snn",
    "neuron": {"name": "lif", "v_threshold": 0.5},
    "options": {"widths": [[4], [8]]},
}
RECIPE = {
    "name": "tiny",
    "data": {
        "name": "tiny",
        "binning": {"name": "fixed_duration", "steps": 3, "duration_us": 1000},
    },
    "model": TINY_MODEL,
    "method": {"name": "tks"},
    "train": {"epochs": 3, "batch_size": 16, "lr": 0.01},
    "engine": {"accelerator": "cpu"},
    "tensorboard": False,
}


def tiny_set(samples, seed, *, steps=3, width=SIZE):
    """Poisson counts that are brighter in the quarter of the frame that belongs to the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % CLASSES
    rate = np.full((samples, steps, 2, SIZE, width), 0.3)
    for sample, label in enumerate(labels):
        rate[sample, :, :, label * 3 : label * 3 + 3] = 0.9
    return FrameSet(rng.poisson(rate).astype(np.uint8), labels)


def tiny(*, binning, cache=None, workers=None, flaw=""):
    """Four classes of 12 x 12 frames made from a seed, the training samples with a `flaw`."""
    train, val, test = (
        tiny_set(n, seed, steps=binning.steps) for n, seed in ((64, 1), (24, 2), (24, 3))
    )
    if flaw == "labels":
        train = FrameSet(train.frames, train.labels + 7)
    elif flaw == "planes":
        train = [(frames[0], label) for frames, label in train]
    elif flaw == "width":
        train = tiny_set(64, 1, steps=binning.steps, width=SIZE + 2)
    elif flaw == "wide":  # and that is none: frames need not be square
        train, val, test = (tiny_set(24, seed, width=SIZE + 2) for seed in (1, 2, 3))
    elif flaw == "nan":
        train = FrameSet(train.frames.astype(np.float32), train.labels, np.arange(100, 164))
        train.frames[57, 1, 0, 3, 3] = np.nan
    elif flaw == "empty":
        train = FramesOf([(Events.from_arrays([], [], [], [], (SIZE, SIZE)), 0)] * 64, binning)
    names, causal = tuple(f"class {label}" for label in range(CLASSES)), binning.causal
    return Splits(train, val, test, names, "tiny/made-up", "0" * 16, causal, binning.describe())


def tiny_network(**options):
    """A network for the tiny frames, its weights drawn from seed 0."""
    torch.manual_seed(0)
    spec = {**TINY_MODEL["options"], "neuron": TINY_MODEL["neuron"], **options}
    return create_model(TINY_MODEL["name"], num_classes=CLASSES, input_size=SIZE, **spec)


class Dying(LossMethod):
    """Cross-entropy; once, halfway through training, the second process kills itself."""

    def __init__(self, marker: str) -> None:
        super().__init__("ce")
        self.marker = Path(marker)

    def loss(self, outputs, labels, progress):
        second = torch.distributed.is_initialized() and torch.distributed.get_rank() == 1
        if second and progress >= 0.5 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(outputs, labels, progress)


class Pair(LossMethod):
    """An ANN, then a spiking network that starts with its weights and learns from it."""

    def __init__(self) -> None:
        super().__init__("ce")

    def phases(self):
        second = Phase(name="snn", start_from="ann", teacher="ann", share=0.5)
        return (Phase(name="ann", neuron="relu", share=0.5), second)

    def loss(self, outputs, labels, progress):
        parts = super().loss(outputs, labels, progress)
        if "teacher" in outputs:
            parts["pull"] = 0.1 * (outputs["student"] - outputs["teacher"]).square().mean()
        return parts


ROWS = {"dying": Dying, "pair": Pair}


def register():
    """Add the rows for good; the process of the tests has the fixture `tiny_rows` instead."""
    DATASETS["tiny"] = tiny
    METHODS.update(ROWS)


def write_recipe(folder, **changes):
    """The recipe of all these tests, with `changes` of whole sections, as a file."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    return path


def die_in_write(number):
    """Make the process kill itself halfway through its checkpoint `number`, counted from 1."""
    whole, written = intact.write_bytes, []

    def half(path, content):
        written.append(path)
        if len(written) < number:
            return whole(path, content)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    intact.write_bytes = half


def command(arguments, output, number, limit):
    """The body of a process of `Command`."""
    # A session in the background ignores Ctrl-C, and its children inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    register()
    torch.set_num_threads(1)
    if number:
        die_in_write(number)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.exit(main(arguments))


class Command(multiprocessing.get_context("forkserver").Process):
    """`anystep ARGUMENTS` in a process of its own, forked from one that has imported torch already.

    `die_in_write` kills it in that checkpoint's writing; `file_limit` bounds its files, in bytes.
    """

    def __init__(self, *arguments, output, die_in_write=0, file_limit=0):
        multiprocessing.set_forkserver_preload(
            ["anystep.run", "lightning.fabric", "torch.utils.tensorboard"]
        )
        given = [str(each) for each in arguments], str(output), die_in_write, file_limit
        super().__init__(target=command, args=given)

    def run_to_end(self):
        """Start, wait, and return the exit code: 0, 1, 2, or minus the signal that killed it."""
        self.start()
        self.join(120)
        return self.exitcode


def fit_tiny(fabric, path):
    """Three epochs on the tiny data; the first process of `fabric` writes weights and log."""
    model = tiny_network(neuron="lif")
    plan = Plan(epochs=3, batch_size=16, lr=0.01, grad_clip=1.0)
    options = {"method": METHODS["tks"](), "plan": plan, "validation": tiny_set(24, 2)}
    state = fit(start(model, plan), tiny_set(64, 1), fabric=fabric, **options)
    if fabric.is_global_zero:
        torch.save({"model": model.state_dict(), "history": state.history}, path)


if __name__ == "__main__":
    register()
    sys.exit(main())
elif multiprocessing.current_process().name != "MainProcess":
    register()  # a worker of two-process training
