"""`anystep export`, `calibrate` and `stream`: a finished run goes somewhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from anystep._command import say
from anystep._errors import RunError, UsageError
from anystep._files import Json
from anystep.cli_data import Arguments, Flags, Result
from anystep.deploy.flags import STREAM_FLAGS

if TYPE_CHECKING:
    from torch import Tensor

    from anystep.data.sets import DataSet, Splits
    from anystep.nn.models.base import StepModel

COMPARED = 16  # validation samples that the two sides of an export are compared on
TIMED = 256  # test samples that early exit is timed on


def _described(run: str) -> tuple[StepModel, Json, Splits, slice]:
    """The network of a finished run, what it says of itself, its data, and the frames it sees."""
    from anystep._files import content_hash
    from anystep.data.events.catalogue import EVENT_SETS
    from anystep.deploy.describe import describe
    from anystep.folder import RunFolder, load_model, weights_file
    from anystep.run import load_splits, seen_frames

    place = RunFolder(run)
    record = place.read()
    row = EVENT_SETS.get(record.config["data"]["name"])
    asked = place.read_record()  # before the network: it knows the modules that this needs
    model, splits = load_model(run), load_splits(asked)
    about = describe(
        scores=record.scores,
        environment=record.env,
        config=record.config,
        weights=content_hash(weights_file(run).read_bytes()),
        from_first=row is not None and row.from_first,
        formats=row.formats if row else {},
        scale={"mean": splits.train.mean, "std": splits.train.std},
        exit_rule=place.read_exit(),
    )
    return model, about, splits, seen_frames(asked)


def _stacked(dataset: DataSet, count: int, frames: slice) -> Tensor:
    """The first `count` samples as one batch (T, N, P, H, W)."""
    import numpy as np
    import torch

    samples = [np.asarray(dataset[index][0])[frames] for index in range(min(count, len(dataset)))]
    if len({len(sample) for sample in samples}) > 1:
        samples = samples[:1]
    return torch.from_numpy(np.stack(samples, axis=1).astype(np.float32))


def export(arguments: Arguments, overrides: Sequence[str]) -> Result:
    """Write one time step of a finished run's network to a file, with its state outside."""
    from anystep._files import write_json
    from anystep.deploy.onnx import export_step

    out = Path(arguments.out)
    if out.suffix != ".onnx":
        raise UsageError(f"--out: the model must end in .onnx, got {str(out)!r}")
    model, about, splits, frames = _described(arguments.run)
    samples = _stacked(splits.val, COMPARED, frames)
    try:
        parity = export_step(model, out, frames=samples, about=about)
    except RuntimeError as error:
        raise RunError(str(error)) from error
    report = out.with_suffix(".parity.json")
    write_json(report, {"run": arguments.run, "samples of": "val", **asdict(parity)})
    say(f"model: {out}\ncompared with torch: {report}")
    return {"model": str(out), "parity": asdict(parity)}


def calibrate(arguments: Arguments, overrides: Sequence[str]) -> Result:
    """Choose on validation when a sample may leave early, and say what that is worth on test."""
    from anystep.console import print_table
    from anystep.deploy.calibrate import calibrate_exit
    from anystep.evaluation.evaluate import collect
    from anystep.folder import RunFolder
    from anystep.nn.fuse import fuse_model, why_not_fusable

    if (arguments.accuracy is None) == (arguments.mean_t is None):
        raise UsageError("name one target: --accuracy PERCENT or --mean-t STEPS")
    place = RunFolder(arguments.run)
    judged = place.read()
    if judged.scores["split"] != "test":
        raise UsageError(f"{arguments.run} was judged on {judged.scores['split']}, not on test")
    model, _, splits, frames = _described(arguments.run)
    network = model if why_not_fusable(model) else fuse_model(model)
    validation = collect(network, splits.val, frames=frames)
    found = calibrate_exit(
        network,
        validation=(validation.logits, validation.labels),
        test=(judged.outputs["logits"], judged.outputs["labels"]),
        frames=_stacked(splits.test, TIMED, frames),
        score=arguments.score,
        reads=arguments.reads,
        accuracy=arguments.accuracy,
        mean_t=arguments.mean_t,
    )
    place.write_exit(found["rule"])
    header = ["", "accuracy %", "mean T", "p50 T", "p95 T", "ms a sample"]
    keys = ("accuracy", "mean_t", "p50_t", "p95_t", "ms")
    names = ("early exit", "all steps")
    rows = [[name, *(f"{found[name][key]:.2f}" for key in keys)] for name in names]
    rule = found["rule"]
    title = f"test, {rule['score']} of the {rule['reads']} >= {rule['threshold']:.4f} (from val)"
    print_table(title, header, rows)
    return {"run": arguments.run, **found}


def stream(arguments: Arguments, overrides: Sequence[str]) -> Result:
    """Follow events as they come and print a decision for every window."""
    from anystep.deploy.command import follow
    from anystep.deploy.step import AnyStep, Step

    if not Path(arguments.model).is_dir():
        return follow(Step(arguments.model, threads=arguments.threads), arguments)

    import torch

    from anystep.deploy.network import TorchStep
    from anystep.deploy.onnx import prepared

    torch.set_num_threads(arguments.threads)
    model, about, _, _ = _described(arguments.model)
    network = prepared(model, backend="auto")
    step: AnyStep = TorchStep(network, {**about, "frame": list(network.frame_shape)})
    return follow(step, arguments)


DEPLOY_FLAGS: dict[str, Flags] = {
    "export": {
        "run": {"help": "a finished run folder"},
        "--to": {"choices": ["onnx"], "default": "onnx", "help": "the format (default: onnx)"},
        "--out": {"required": True, "metavar": "FILE", "help": "the model to write"},
    },
    "calibrate": {
        "run": {"help": "a finished run folder"},
        "--accuracy": {"type": float, "metavar": "PERCENT", "help": "the fewest steps with this"},
        "--mean-t": {"type": float, "metavar": "STEPS", "help": "the best accuracy within these"},
        "--score": {"default": "confidence", "help": "confidence (default), entropy or margin"},
        "--reads": {"default": "mean", "help": "of the mean (default) or sum of the logits so far"},
    },
    "stream": STREAM_FLAGS,
}
