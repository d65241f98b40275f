"""`fit` and `start`: what is learnt, at what rate, and what is left alone."""

from __future__ import annotations

import random
from typing import ClassVar

import drivers
import numpy as np
import pytest
import torch
from torch import nn

from anystep import AnystepWarning
from anystep._errors import RunError
from anystep.training.fabric import choose_precision, make_fabric
from anystep.training.fit import fit, start, validate
from anystep.training.methods import create_method
from anystep.training.phases import Method, Phase, phase_epochs
from anystep.training.schedule import Plan

PLAN = Plan(epochs=3, batch_size=16, lr=0.01)
DATA = drivers.tiny_set(64, 1)


def trained(plan=PLAN, *, model=None, data=DATA, **options):
    options = {"method": create_method("ce"), "fabric": make_fabric(accelerator="cpu"), **options}
    state = start(model or drivers.tiny_network(), plan, phase=options.pop("phase", None))
    return fit(state, data, plan=plan, **options)


class Recorder(Method):
    """Cross-entropy of `weight * logits`; remembers what it was asked."""

    def __init__(self, weight=1.0):
        self.weight, self.progress, self.generators, self.shapes = weight, [], [], []

    def views(self, x, phase, generator):
        self.generators.append(int(torch.randint(2**31, (), generator=generator)))
        return super().views(x, phase, generator)

    def loss(self, outputs, labels, progress):
        self.progress.append(progress)
        self.shapes.append(tuple(outputs["student"].shape))
        return {"ce": self.weight * nn.functional.cross_entropy(outputs["student"].mean(0), labels)}


def test_training_learns_the_training_set_and_a_row_says_all_of_an_epoch():
    plan = Plan(epochs=6, batch_size=16, lr=0.01)
    options = {"validation": drivers.tiny_set(24, 2), "method": create_method("tks")}
    rows = trained(plan, **options).history
    assert rows[-1]["train_acc"] > 90 > 60 > rows[0]["train_acc"]
    assert rows[-1]["val_acc"] > 90
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    said = "phase epoch train_loss train_acc parts val_loss val_acc val_acc_first"
    assert set(rows[0]) == {*said.split(), *["lr", "seconds", "samples_per_s", "mem_mib"]}
    assert set(rows[0]["parts"]) == {"ce", "tks"}
    assert rows[1]["train_loss"] == pytest.approx(sum(rows[1]["parts"].values()))


def test_equal_seeds_give_equal_bits_and_another_seed_gives_others():
    first, second, other = (trained(seed=seed).model.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_training_leaves_the_global_generators_as_they_were():
    def states():
        numpy_state = np.random.get_state()[1].tolist()  # noqa: NPY002 - the global one is meant
        return torch.get_rng_state().tolist(), random.getstate(), numpy_state

    model = drivers.tiny_network()
    before = states()
    trained(Plan(epochs=1, batch_size=16), validation=drivers.tiny_set(24, 2), model=model)
    assert states() == before


def test_weight_decay_spares_biases_norms_and_learnt_time_constants():
    model = drivers.tiny_network(neuron="plif", conv_bias=True)
    groups = start(model, Plan(weight_decay=0.3)).optimizer.param_groups
    decay = {p: group["weight_decay"] for group in groups for p in group["params"]}
    by_name = {name: decay[p] for name, p in model.named_parameters()}
    assert len(by_name) == len(decay)
    decayed = {name for name, value in by_name.items() if value == 0.3}
    convolutions = {"stages.0.0.conv.weight", "stages.1.0.conv.weight"}
    assert decayed == {*convolutions, "classifier.weight"}
    spared = {name for name, value in by_name.items() if value == 0}
    assert {"stages.0.0.conv.bias", "stages.0.0.norm.weight", "stages.0.0.neuron.w"} <= spared


def test_the_learning_rate_is_that_of_the_plan_in_every_epoch():
    plan = Plan(epochs=5, batch_size=32, lr=0.02, min_lr=0.001, warmup_epochs=2, warmup_lr=0.004)
    used = []

    def note(state, row):
        used.append((row["lr"], {group["lr"] for group in state.optimizer.param_groups}))

    trained(plan, on_epoch=note)
    expected = [0.004, 0.012, *(0.001 + 0.019 * (1 + np.cos(np.pi * e / 5)) / 2 for e in (2, 3, 4))]
    assert [row for row, _ in used] == pytest.approx(expected)
    assert all(groups == {row} for row, groups in used)


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_gradients_are_clipped_to_the_plan_s_norm(monkeypatch, clip):
    norms = []
    step = torch.optim.AdamW.step

    def recording(self, *arguments, **options):
        gradients = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.cat(gradients).norm()))
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", recording)
    trained(Plan(epochs=1, batch_size=16, grad_clip=clip))
    assert len(norms) == 4
    assert all(norm == pytest.approx(1e-3, rel=1e-3) if clip else norm > 1e-2 for norm in norms)


def test_progress_is_the_share_of_epochs_done_and_constant_in_an_epoch():
    methods = Recorder(), Recorder()
    for each in methods:
        trained(Plan(epochs=4, batch_size=32), method=each)
    method, again = methods
    assert method.progress == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]
    assert len(set(method.generators)) == 8  # every batch of every epoch has a chance of its own
    assert method.generators == again.generators


def test_a_phase_has_its_share_of_the_epochs_and_its_frames():
    method = Recorder()
    phase = Phase(name="short", share=0.5, frames=slice(1, 3))
    state = trained(Plan(epochs=4, batch_size=64), method=method, phase=phase)
    assert [row["phase"] for row in state.history] == ["short", "short"]
    assert method.shapes == [(2, 64, drivers.CLASSES)] * 2
    assert phase_epochs(Phase(share=0.01), Plan(epochs=4)) == 1


def test_a_loss_that_is_no_longer_finite_stops_with_its_parts_and_a_way_out():
    message = r"no longer finite \(\{'ce': (inf|nan)\}\): lower train.lr or set train.grad_clip"
    with pytest.raises(RunError, match=message):
        trained(method=Recorder(weight=float("inf")))


@pytest.mark.filterwarnings("ignore::anystep.AnystepWarning")  # the other layer is named too
@pytest.mark.parametrize(("threshold", "word"), [(1e6, "silent"), (1e-6, "saturated")])
def test_a_layer_that_never_or_always_fires_is_named(threshold, word):
    neuron = {"name": "if", "v_threshold": threshold, "v_init": 0.0}
    bright = drivers.FrameSet(np.full((32, 3, 2, 12, 12), 9, np.uint8), np.arange(32) % 4)
    model = drivers.tiny_network(neuron=neuron)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("norm.bias"):
                p.fill_(1.0 if word == "silent" else 50.0)
    said = f"layer 'stages.0.0.neuron' is {word}: it fires at a rate of "
    with pytest.warns(AnystepWarning, match=said):
        trained(Plan(epochs=1, batch_size=16, lr=1e-6), model=model, data=bright)


def test_validation_agrees_with_a_slow_loop():
    model, data = drivers.tiny_network(), drivers.tiny_set(10, 4)
    model.train()
    got = validate(model, data, frames=slice(1, None), plan=Plan(batch_size=4))
    assert model.training
    model.eval()
    with torch.no_grad():
        steps = [model(torch.tensor(frames[1:, None]).float())[:, 0] for frames, _ in data]
    labels = [label for _, label in data]
    losses, last, first = [], [], []
    for said, label in zip(steps, labels, strict=True):
        losses.append(float(-said.mean(0).log_softmax(-1)[label]))
        last.append(int(said.mean(0).argmax()) == label)
        first.append(int(said[0].argmax()) == label)
    assert got["val_loss"] == pytest.approx(np.mean(losses), abs=1e-6)
    assert (got["val_acc"], got["val_acc_first"]) == (100 * np.mean(last), 100 * np.mean(first))


@pytest.mark.parametrize(
    ("accelerator", "halves", "chosen"),
    [("gpu", True, "bf16-mixed"), ("gpu", False, "32-true"), ("cpu", True, "32-true")],
)
def test_a_gpu_that_computes_in_bfloat16_trains_in_it_unless_told_otherwise(
    monkeypatch, accelerator, halves, chosen
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: halves)
    assert choose_precision(accelerator) == chosen


def test_sixteen_bits_on_a_cpu_are_said_to_be_slow_and_train_all_the_same():
    with pytest.warns(AnystepWarning, match="slower than 32-true"):
        fabric = make_fabric(accelerator="cpu", precision="bf16-mixed")
    plan = Plan(epochs=4, batch_size=16, lr=0.01)
    rows = trained(plan, fabric=fabric, validation=drivers.tiny_set(24, 2)).history
    assert rows[-1]["train_loss"] < 0.8 * rows[0]["train_loss"]
    assert np.isfinite(rows[-1]["val_loss"])


def test_a_bar_gives_the_terminal_back_when_training_fails():
    class Bar:
        said: ClassVar = []

        def on_epoch_start(self, **what):
            self.said.append("start")

        def on_epoch_end(self):
            self.said.append("end")

    with pytest.raises(TypeError, match="Method defines no loss"):
        trained(method=Method(), fabric=make_fabric(accelerator="cpu", callbacks=[Bar()]))
    assert Bar.said == ["start", "end"]


# Optimisers and sampling that recipes name


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)],
)
def test_the_plan_names_the_optimiser_and_what_it_decays(name, kind):
    plan = Plan(optimizer=name, lr=0.1, weight_decay=0.3, momentum=0.7, decay_all=True)
    optimizer = start(drivers.tiny_network(), plan).optimizer
    assert type(optimizer) is kind
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3]
    assert optimizer.param_groups[0].get("momentum", 0.7) == 0.7


def test_a_phase_may_have_its_own_part_of_the_plan():
    phase = Phase(name="own", plan={"lr": 1e-4, "optimizer": "sgd"})
    state = trained(phase=phase)
    assert type(state.optimizer) is torch.optim.SGD
    assert state.history[0]["lr"] == 1e-4


def test_a_phase_that_trains_nothing_leaves_the_network_alone():
    model = drivers.tiny_network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = trained(model=model, phase=Phase(share=0.0))
    assert state.history == []
    assert all(torch.equal(before[key], value) for key, value in state.model.state_dict().items())


def test_a_teacher_is_a_frozen_copy_that_shares_no_tensor_and_stays_in_eval_mode():
    def addresses(model):
        return {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}

    method, ann = drivers.Pair(), drivers.tiny_network(neuron="relu")
    before = {key: value.clone() for key, value in ann.state_dict().items()}
    state = start(drivers.tiny_network(), PLAN, phase=method.phases()[1], networks={"ann": ann})
    fit(state, DATA, method=method, plan=PLAN)
    model, teacher = state.model, state.teacher
    assert not addresses(teacher) & (addresses(model) | addresses(ann))
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    for key, value in before.items():  # norm statistics too: it does not drift
        assert torch.equal(teacher.state_dict()[key], value), key
    assert not torch.equal(model.classifier.weight, before["classifier.weight"])
