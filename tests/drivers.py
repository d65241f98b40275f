"""The command line with a tiny made-up data set, and ways to go wrong: for tests that need a
process of their own.

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

from anystep import folder
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
    """Four classes of 12 x 12 frames made from a seed. With a `flaw` the training samples are wrong
    in that way.
    """
    train, val, test = (
        tiny_set(n, seed, steps=binning.steps) for n, seed in ((64, 1), (24, 2), (24, 3))
    )
    flawed = {
        "": lambda: train,
        "labels": lambda: FrameSet(train.frames, train.labels + 7),
        "planes": lambda: [(frames[0], label) for frames, label in train],
        "width": lambda: tiny_set(64, 1, steps=binning.steps, width=SIZE + 2),
        "empty": lambda: FramesOf(
            [(Events.from_arrays([], [], [], [], (SIZE, SIZE)), 0)] * 64, binning
        ),
    }
    names = tuple(f"class {label}" for label in range(CLASSES))
    return Splits(
        flawed[flaw](),
        val,
        test,
        names,
        "tiny/made-up",
        "0" * 16,
        binning.causal,
        binning.describe(),
    )


class Dying(LossMethod):
    """Cross-entropy; in the second half of training the second process kills itself, unless
    `marker` says it has before.
    """

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
    """Two phases: an ANN, then a spiking network that starts with its weights and has it as a
    teacher.
    """

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
    """Add the rows for good. The process of the tests has the fixture `tiny_rows` instead, which
    takes them away again.
    """
    DATASETS["tiny"] = tiny
    METHODS.update(ROWS)


def write_recipe(folder, **changes):
    """The recipe of all these tests, with `changes` of whole sections, as a file."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    return path


def die_in_write(number):
    """Make the process kill itself in the middle of writing its checkpoint number `number`, counted
    from 1.
    """
    whole, written = folder.write_bytes, []

    def half(path, content):
        written.append(path)
        if len(written) < number:
            return whole(path, content)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    folder.write_bytes = half


def command(arguments, output, number, limit):
    """The body of a process of `Command`."""
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
    """`anystep ARGUMENTS` in a process of its own, forked from a server that has torch and
    Lightning imported already.

    `die_in_write` kills it in that checkpoint's writing; `file_limit` is the largest file that it
    can write, in bytes.
    """

    def __init__(self, *arguments, output, die_in_write=0, file_limit=0):
        multiprocessing.set_forkserver_preload(
            ["anystep.run", "lightning.fabric", "torch.utils.tensorboard"]
        )
        super().__init__(
            target=command,
            args=([str(each) for each in arguments], str(output), die_in_write, file_limit),
        )

    def run_to_end(self):
        """Start, wait, and return the exit code: 0, 1, 2, or minus the signal that killed it."""
        self.start()
        self.join(120)
        return self.exitcode


def fit_tiny(fabric, path):
    """Three epochs on the tiny data in every process of `fabric`; the first one writes the weights
    and the log.
    """
    torch.manual_seed(0)
    model = create_model(
        **TINY_MODEL["options"], name="vgg_snn", num_classes=CLASSES, input_size=SIZE, neuron="lif"
    )
    plan = Plan(epochs=3, batch_size=16, lr=0.01, grad_clip=1.0)
    state = fit(
        start(model, plan),
        tiny_set(64, 1),
        method=METHODS["tks"](),
        plan=plan,
        validation=tiny_set(24, 2),
        fabric=fabric,
    )
    if fabric.is_global_zero:
        torch.save({"model": model.state_dict(), "history": state.history}, path)


if __name__ == "__main__":
    register()
    sys.exit(main())
elif multiprocessing.current_process().name != "MainProcess":
    register()  # a worker of two-process training
