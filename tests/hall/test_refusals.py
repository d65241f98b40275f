"""What the hall refuses: one line on stderr, exit code 2, and nothing trained."""

from __future__ import annotations

import os

import pytest

from anystep import run

LEARNS = "--method.name kd --method.options.teacher run"

# Behind `anystep train RECIPE --out run`: flags, and a word of the refusal.
TRAIN = [
    # names
    ("--method.name tsk", "Did you mean 'tks'?"),
    ("--method.options.alfa 1", "unknown argument 'alfa' in method tks. Did you mean 'alpha'?"),
    ("--method.options.name x", "unknown argument 'name' in method tks"),
    ("--model.name vgg_sn", "Did you mean 'vgg_snn'?"),
    ("--model.neuron liff", "Did you mean 'lif'?"),
    ("--model.norm bnn", "Did you mean 'bn'?"),
    ("--model.options.width [[4]]", "unknown argument 'width' in model vgg_snn"),
    ("--data.name tinny", "Did you mean 'tiny'?"),
    ("--data.options.flow x", "unknown argument 'flow' in dataset tiny. Did you mean 'flaw'?"),
    ("--data.binning.name fixed", "unknown binning 'fixed'. Did you mean 'fixed_"),
    ("--engine.accelerator abacus", "engine: "),
    ("--name ../../x", "name must be a plain name of a folder, got '../../x'"),
    # values
    ("--data.binning.steps ten", "fixed_duration: steps must be int or None, got 'ten'"),
    ("--data.binning.steps null", "training needs recordings of one length"),
    ("--model.neuron.tau 0.5", "LIF: tau is in time steps and must be >= 1, got 0.5"),
    ("--devices 3", "share a batch of 16 equally, got 3"),
    ("--model.options.widths 3", "VGGSNN: widths must be one list of channels a stage, got 3"),
    ("--model.name resnet19 --model.options.stages 3", "must be [channels, blocks] of each stage"),
    ("--data.name cifar10 --data.options.root 3", "root must be str or os.PathLike[str] or None"),
    ("--data.name nmnist --data.options.root 3", "root must be Folder or None, got 3"),
    ("--model.neuron.surrogate 3", "a surrogate is a name or a mapping with a name, got 3"),
    ("--model.neuron.surrogate.name=arctan --model.neuron.surrogate.alpha=x", "alpha must be floa"),
    ('--data.augment [{"name":"randaugment","fill":3}]', "three numbers, one a colour"),
    ("--teacher nowhere", "teacher: method tks with these options learns from no other run"),
    (LEARNS, "name its folder with --teacher RUN"),
    (f"{LEARNS} --teacher pipe.safetensors", "there is no file pipe.safetensors"),
    ("--method.name hsd", "method hsd needs model.neuron qcfs_if, got 'lif'"),
    # data
    ("--data.options.flaw labels", "labels must be in 0..3, got 7..7 in a batch"),
    ("--data.options.flaw planes", "train are (2, 12, 12), those of val (3, 2, 12, 12)"),
    ("--data.options.flaw width", "train are (3, 2, 12, 14), those of val (3, 2, 12, 12)"),
    ("--data.options.flaw empty", "fixed_duration: an empty event stream has no frames"),
    ("--data.frames [1,9]", "must be [first, stop] within the 3 frames of a recording"),
]

# Whole commands. RECIPE and nothing.yaml are files; there is no none.yaml.
COMMANDS = [
    ("train", "name a recipe, or go on with a run: --resume RUN"),
    ("train nothing.yaml", "nothing.yaml is not a YAML recipe: line 2: "),
    (
        "train RECIPE --out nothing.yaml",
        "cannot write the folder nothing.yaml: Not a directory",
    ),
    ("train pipe.yaml", "cannot read the recipe pipe.yaml: it is not a regular file"),
    ("train --resume nowhere", "nowhere is not a run folder: it has no config.yaml"),
    ("evaluate nowhere", "nowhere is not a run folder"),
    ("evaluate run --fast", "unknown argument '--fast'"),
    ("export run --out run/config.yaml", "the model must end in .onnx"),
    ("report run --fast", "unknown argument '--fast'"),
    ("data list --all", "unknown argument '--all'"),
    ("data get nmnst", "Did you mean 'nmnist'?"),
    ("data get imagenet-1k imagenet", "https://image-net.org"),
    ("keys --all", "unknown argument '--all'"),
    ("compare none.yaml --methods ce", "cannot read the recipe none.yaml"),
    ("compare RECIPE --methods ce,tkss", "Did you mean 'tks'?"),
    ("compare RECIPE --methods ce --seeds 0", "at least one method and one seed"),
    ("compare RECIPE --methods ce --seed 5", "--seed is for train"),
    ("compare RECIPE", "one recipe needs --methods, like --methods ce,tks"),
    ("compare RECIPE RECIPE --methods ce", "--methods is for one recipe"),
    ("compare RECIPE RECIPE", "some names are named twice: tiny, tiny"),
    ("compare RECIPE --methods ce,ce", "some methods are named twice: ce, ce"),
    ("sweep RECIPE --train-steps 1,4", "train_steps must be in 1..3, the time steps of tiny"),
    ("sweep RECIPE --train-steps 0,1", "train_steps must be in 1..3, the time steps of tiny"),
    ("sweep RECIPE --train-steps 1,2 --data.frames [1,2]", "train_steps must be in 1..1"),
    ("sweep RECIPE --train-steps 1,2,1", "sweep: some train_steps are named twice: 1, 2, 1"),
    ("sweep RECIPE --train-steps 1,x", "--train-steps: whole numbers with commas between"),
    ("sweep RECIPE --train-steps 1 --methods ce,tsk", "Did you mean 'tks'?"),
    ("sweep RECIPE --train-steps 1 --train.steps 3", "sweep sets train.steps itself"),
]


@pytest.fixture(autouse=True)
def nothing_may_be_trained(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "launch", None)
    (tmp_path / "nothing.yaml").write_text("train: {epochs: 3\nseed: 2")
    for pipe in ("pipe.safetensors", "pipe.yaml"):
        os.mkfifo(tmp_path / pipe)


@pytest.mark.parametrize(("flags", "word"), TRAIN)
def test_a_run_that_cannot_work_is_refused_before_its_folder_is_made(
    terminal, recipe, tmp_path, flags, word
):
    assert word in terminal.refused("train", recipe, "--out", "run", *flags.split())
    assert not (tmp_path / "run").exists()  # or the corrected record would find another run there


@pytest.mark.parametrize(("command", "word"), COMMANDS)
def test_a_command_that_cannot_work_is_refused(terminal, recipe, tmp_path, command, word):
    assert word in terminal.refused(*command.replace("RECIPE", str(recipe)).split())
    assert not (tmp_path / "runs").exists()
