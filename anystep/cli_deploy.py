"""`anystep export`, `calibrate` and `stream`: a finished run goes somewhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from anystep._command import say
from anystep._errors import RunError, UsageError
from anystep.cli_data import Arguments, Flags, Result
from anystep.deploy.flags import STREAM_FLAGS

TIMED = 256  # test samples that early exit is timed on


def export(arguments: Arguments, overrides: Sequence[str]) -> Result:
    """Write one time step of a trained network to a file, its state outside; or all of it to a
    folder for others.
    """
    from anystep._files import write_json
    from anystep.deploy.onnx import export_step
    from anystep.pretrained import save_pretrained, trained

    out = Path(arguments.out)
    if arguments.to == "folder":
        say(f"pretrained network: {save_pretrained(arguments.run, out)}")
        return {"folder": str(out)}
    if out.suffix != ".onnx" or out.is_dir() or not out.parent.is_dir():
        rule = "--out: the model must end in .onnx, in a folder that exists"
        raise UsageError(f"{rule}, got {str(out)!r}")
    found = trained(arguments.run)
    try:
        parity = export_step(found.model, out, frames=found.samples, about=found.about)
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
    from anystep.folder import RunFolder, load_model
    from anystep.nn.fuse import fuse_model, why_not_fusable
    from anystep.pretrained import stacked
    from anystep.run import load_splits, seen_frames

    if (arguments.accuracy is None) == (arguments.mean_t is None):
        raise UsageError("name one target: --accuracy PERCENT or --mean-t STEPS")
    if not 0 < (arguments.accuracy or 1) <= 100 or not (arguments.mean_t or 1) > 0:
        raise UsageError("--accuracy must be a percentage, --mean-t a number of steps")
    place = RunFolder(arguments.run)
    judged = place.read()
    if judged.scores["split"] != "test":
        raise UsageError(f"{arguments.run} was judged on {judged.scores['split']}, not on test")
    record, model = place.read_record(), load_model(arguments.run)
    splits, frames = load_splits(record), seen_frames(record)
    network = model if why_not_fusable(model) else fuse_model(model)
    validation = collect(network, splits.val, frames=frames)
    found = calibrate_exit(
        network,
        validation=(validation.logits, validation.labels),
        test=(judged.outputs["logits"], judged.outputs["labels"]),
        frames=stacked(splits.test, TIMED, frames),
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

    if Path(arguments.model).is_file() or Path(arguments.model).suffix == ".onnx":
        return follow(Step(arguments.model, threads=arguments.threads), arguments)

    import torch

    from anystep.deploy.network import TorchStep
    from anystep.deploy.onnx import prepared
    from anystep.pretrained import trained

    torch.set_num_threads(arguments.threads)
    found = trained(arguments.model)
    network = prepared(found.model, backend="auto")
    step: AnyStep = TorchStep(network, {**found.about, "frame": list(network.frame_shape)})
    return follow(step, arguments)


DEPLOY_FLAGS: dict[str, Flags] = {
    "export": {
        "run": {"help": "a finished run folder, or a pretrained network by folder or name"},
        "--to": {
            "choices": ["onnx", "folder"],
            "default": "onnx",
            "help": "one step as ONNX (default), or a folder of the pretrained network for others",
        },
        "--out": {"required": True, "metavar": "FILE", "help": "the model or the folder to write"},
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
