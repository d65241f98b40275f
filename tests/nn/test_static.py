"""A static image shown for T steps: its first convolution and norm run once, nothing else changes.
Folds are views.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from little import close, close_all, in_chunks, network, sequence
from little import frames as drawn
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from anystep.evaluation.evaluate import collect
from anystep.nn.layers import direct_encoding, fold, is_static
from anystep.nn.neurons import ACTIVATIONS, NEURONS
from anystep.nn.norms import BatchNorm
from anystep.training.fabric import make_fabric
from anystep.training.fit import fit, start
from anystep.training.methods import create_method
from anystep.training.schedule import Plan

T, N = 5, 4
CHANNELS_LAST = {"memory_format": torch.channels_last}


def images(samples=N, channels=2, size=8, **options):
    return drawn(1, samples, channels, size, **options)[0]


def batches(model):
    """The batch that each convolution is given, in order."""
    seen = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda layer, inputs: seen.append(len(inputs[0])))
    return seen


class Operators(TorchDispatchMode):
    """The names of the operators that run inside the block."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


COPIES = {"clone", "copy_", "_to_copy", "contiguous", "cat", "stack", "expand_copy"}


def test_fold_runs_a_module_on_every_step_alone():
    convolution, x = nn.Conv2d(2, 3, 3, stride=2).double(), sequence()
    close(fold(convolution, x), torch.stack([convolution(step) for step in x]))
    assert fold(nn.Flatten(), x).shape == (3, 4, 50)


def test_a_static_image_is_seen_at_every_step_without_a_copy_and_gets_the_sum_of_the_gradients():
    images = torch.rand(4, 3, 5, 5, requires_grad=True)
    encoded = direct_encoding(images, 3)
    assert encoded.shape == (3, 4, 3, 5, 5)
    assert all(torch.equal(step, images) for step in encoded)
    assert encoded.stride(0) == 0
    assert encoded.data_ptr() == images.data_ptr()
    (torch.tensor([1.0, 10.0, 100.0]).reshape(3, 1, 1, 1, 1) * encoded).sum().backward()
    assert (images.grad == 111.0).all()


@pytest.mark.parametrize("training", [True, False])
def test_the_first_convolution_sees_an_image_once_and_the_others_see_every_step(training):
    model, x = network().train(training), direct_encoding(images(), 6)
    seen = batches(model)
    with torch.no_grad():
        whole = model(x)
        assert seen == [N, 6 * N, 6 * N]
        if not training:
            close(in_chunks(model, x, [3, 1, 2])[0], whole)
            assert seen[3::3] == [N, N, N]
            assert seen[4::3] == [3 * N, N, 2 * N]


@pytest.mark.parametrize("neuron", [*NEURONS, *ACTIVATIONS])
def test_a_training_step_on_static_images_is_that_on_their_copies(neuron):
    once, dense = network(neuron), network(neuron)
    for seed in range(3):
        x, y = (images(seed=seed).requires_grad_(True) for _ in range(2))
        weights = torch.randn(T, N, 5, dtype=x.dtype, generator=torch.Generator().manual_seed(seed))
        shown = direct_encoding(x, T), direct_encoding(y, T).contiguous()
        for model, batch in zip((once, dense), shown, strict=True):
            model.zero_grad()
            (model(batch) * weights).sum().backward()
        close(x.grad, y.grad, 1e-10)
        gradients = ([p.grad for p in model.parameters()] for model in (once, dense))
        close_all(*gradients, 1e-10)
    close_all(once.state_dict().values(), dense.state_dict().values())


def test_what_is_static():
    x = images()
    assert is_static(direct_encoding(x, 2))
    assert is_static(direct_encoding(x, 6)[2:4])
    assert is_static(direct_encoding(x.requires_grad_(True), 2))
    assert not is_static(direct_encoding(x, 1))
    assert not is_static(direct_encoding(x, 3).contiguous())
    assert not is_static(torch.empty(3, 0, 2, 8, 8))
    assert not is_static(direct_encoding(x, 3).detach().requires_grad_(True))  # a step's is its own


def test_derivatives_through_a_static_fold_are_right():
    convolution = nn.Conv2d(1, 2, 2).double()
    x = images(samples=1, channels=1, size=3).requires_grad_(True)
    weights = torch.arange(1.0, 4.0, dtype=x.dtype).reshape(3, 1, 1, 1, 1)

    def cubed(x):
        return fold(torch.tanh, fold(convolution, direct_encoding(x, 3))) ** 3 * weights

    def dense(x):
        y = torch.tanh(functional.conv2d(x, convolution.weight, convolution.bias))
        return y.expand(3, -1, -1, -1, -1) ** 3 * weights

    assert torch.autograd.gradcheck(cubed, (x,))
    assert torch.autograd.gradgradcheck(cubed, (x,))
    # a gradient that is itself the same at every step
    assert torch.autograd.gradcheck(lambda x: cubed(x).sum(), (x,))
    close(torch.func.jacrev(cubed)(x), torch.func.jacrev(dense)(x))
    close(torch.func.vmap(cubed)(x[:, None]), torch.func.vmap(dense)(x[:, None]))


def test_the_gradient_of_a_static_fold_is_laid_out_like_that_of_its_steps():
    x, seen = images().to(**CHANNELS_LAST).requires_grad_(True), []
    middle = torch.tanh(x)
    middle.register_hook(lambda gradient: seen.append(gradient))
    y = fold(lambda each: middle * 2, direct_encoding(x, T))
    gradient = torch.ones(T * N, 2, 8, 8, dtype=x.dtype).contiguous(**CHANNELS_LAST)
    torch.autograd.grad(y, x, gradient.unflatten(0, (T, N)))
    assert seen[0].is_contiguous(**CHANNELS_LAST)


def test_a_compiled_network_and_an_exported_one_take_static_images():
    model, x = network(dtype=torch.float32), direct_encoding(images(dtype=torch.float32), 3)
    gradients = []
    torch.compiler.reset()
    for call in (torch.compile(model, backend="aot_eager", fullgraph=True), model):
        model.zero_grad()
        call(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    close_all(*gradients, 1e-4)
    exported = torch.export.export(model.eval(), (x,)).module()
    close(exported(x), model(x.contiguous()), 1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_over_folded_time_copies_nothing(layout, training):
    x = images(T * N).contiguous(memory_format=layout).unflatten(0, (T, N)).requires_grad_(True)
    gradient = torch.ones_like(x)
    norm = BatchNorm(2).double().train(training)
    with Operators() as ran:
        y = norm(x)
        y.backward(gradient)
    assert "native_batch_norm_backward" in ran.names
    assert not COPIES & set(ran.names)
    for each in (y, x.grad):
        assert each.flatten(0, 1).is_contiguous(memory_format=layout)
    with Operators() as ran:  # a copy would be noticed
        fold(lambda each: each, x.transpose(0, 1))
    assert COPIES & set(ran.names)


def test_training_and_judging_images_is_that_of_their_copies_with_one_convolution_an_update():
    once, dense = network(dtype=torch.float32), network(dtype=torch.float32)
    plan = Plan(epochs=2, batch_size=N, lr=1e-3, warmup_epochs=0)
    told, seen = [], batches(once)
    for model, data in ((once, Pictures()), (dense, Pictures(copies=True))):
        options = {"plan": plan, "fabric": make_fabric(accelerator="cpu"), "validation": data}
        state = fit(start(model, plan), data, method=create_method("tks"), **options)
        told.append([row["train_loss"] for row in state.history])
    assert told[0] == pytest.approx(told[1], rel=1e-4)
    assert seen[::3] == [N] * 2 * (2 + 2)  # epochs x (updates + batches of validation)
    assert set(seen[1::3] + seen[2::3]) == {T * N}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)  # the images are float32
def test_judging_images_is_that_of_their_copies_with_one_convolution_a_batch(dtype):
    model = network(dtype=dtype)
    seen = batches(model)
    told = collect(model, Pictures(), batch_size=N)
    assert seen == [N, T * N, T * N] * 2
    theirs = collect(model, Pictures(copies=True))
    np.testing.assert_allclose(told.logits, theirs.logits, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(told.labels, theirs.labels)


class Pictures:
    """Eight images of three classes, each shown for T steps without a copy, or as T copies."""

    def __init__(self, *, copies=False):
        self.images, self.copies = images(8, dtype=torch.float32).numpy(), copies

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        shown = np.broadcast_to(self.images[index], (T, 2, 8, 8))
        return shown.copy() if self.copies else shown, index % 3
