"""ResNet-19 and the SEW-ResNets: topology, sizes, and a plain loop over their layers that says the
same.
"""

from __future__ import annotations

from itertools import groupby

import pytest
import torch
from little import close
from test_static import COPIES, Operators
from torch import nn
from torch.nn import functional

from anystep.evaluation.energy import firing_rates
from anystep.nn.fuse import fuse_model
from anystep.nn.models import create_model
from anystep.nn.models.blocks import ConvNorm, Identity
from anystep.nn.models.resnet import NormOnly
from anystep.nn.neurons import LIF

RESIDUAL = {
    "resnet19": {"stem": 4, "stages": [[4, 2], [6, 1]]},
    "resnet19 of TET": {"stem": 3, "stages": [[4, 2], [6, 1]]},
    "sew_resnet18": {"stages": [[4, 2], [6, 1]]},
    "sew_resnet19": {"stem": 3, "stages": [[4, 2], [6, 1]]},
    "sew_resnet50": {"stages": [[2, 2], [3, 1]]},
}


def small(kind, *, size=9, **options):
    """A network in eval mode whose norms have seen data and let most layers fire."""
    torch.manual_seed(0)
    options = {"num_classes": 3, "input_size": size, **RESIDUAL[kind], **options}
    model = create_model(kind.split()[0], **options).double()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("norm.bias"):
                parameter.fill_(0.6)
        for _ in range(20):
            model.train()(counts(size))
        if hasattr(model, "hidden"):
            centre(model.eval(), counts(size))
    return model.eval()


def centre(model, x):
    """Bring what the hidden layer says, which has no norm, around its neurons' threshold."""
    linear, seen = model.hidden.linear, []
    handle = linear.register_forward_hook(lambda layer, inputs, y: seen.append(y))
    model(x)
    handle.remove()
    width, middle = seen[0].std((0, 1)) + 1e-3, seen[0].mean((0, 1))
    linear.bias.copy_((linear.bias - middle) / width + 0.5)
    linear.weight.div_(width[:, None])


def counts(size, *, steps=5, samples=3):
    rate = torch.full((steps, samples, 2, size, size), 1.5)
    return torch.poisson(rate, generator=torch.Generator().manual_seed(1)).double()


def on_meta(name, **options):
    with torch.device("meta"):
        return create_model(name, **{"num_classes": 10, "in_planes": 3, **options})


# --- a plain loop over the layers, which knows only the state dict and where the strides are ---


@pytest.fixture(params=RESIDUAL)
def kind(request):
    return request.param


def conv_norm(weights, name, x, stride=1):
    """Convolution and eval-mode norm of a list of steps."""
    kernel = weights[f"{name}.conv.weight"]
    options = {"stride": stride, "padding": kernel.shape[-1] // 2}
    return norm(weights, name, [functional.conv2d(step, kernel, **options) for step in x])


def norm(weights, name, x):
    keys = ("running_mean", "running_var", "weight", "bias")
    parameters = [weights[f"{name}.norm.{key}"] for key in keys]
    return [functional.batch_norm(step, *parameters) for step in x]


def linear(weights, name, x):
    return [step @ weights[f"{name}.weight"].T + weights[f"{name}.bias"] for step in x]


def lif(x):
    """tau 2, threshold 0.5, hard reset to 0."""
    v, spikes = torch.zeros_like(x[0]), []
    for step in x:
        h = v + (step - v) / 2
        spikes.append((h > 0.5).to(h.dtype))
        v = torch.where(h > 0.5, torch.zeros_like(h), h)
    return spikes


def plus(x, y):
    return [a + b for a, b in zip(x, y, strict=True)]


def plain_residual(weights, x, strides):
    x = lif(conv_norm(weights, "stem", x))
    for number, stride in enumerate(strides):
        block = f"blocks.{number}"
        y = lif(conv_norm(weights, f"{block}.first", x, stride))
        y = conv_norm(weights, f"{block}.second", y)
        if f"{block}.shortcut.conv.weight" in weights:
            x = conv_norm(weights, f"{block}.shortcut", x, stride)
        elif f"{block}.shortcut.norm.weight" in weights:
            x = norm(weights, f"{block}.shortcut", x)
        x = lif(plus(y, x))
    return x


def plain_sew(weights, x, strides, *, large):
    x = lif(conv_norm(weights, "stem", x, 2 if large else 1))
    if large:
        x = [functional.max_pool2d(step, 3, stride=2, padding=1) for step in x]
    for number, stride in enumerate(strides):
        block, y = f"blocks.{number}", x
        layers = sum(f"{block}.body." in key and "conv.weight" in key for key in weights)
        for layer in range(layers):
            strided = layer == (1 if layers == 3 else 0)
            y = lif(conv_norm(weights, f"{block}.body.{layer}", y, stride if strided else 1))
        if f"{block}.shortcut.conv.weight" in weights:
            x = lif(conv_norm(weights, f"{block}.shortcut", x, stride))
        x = plus(y, x)
    return x


def test_a_network_is_what_a_plain_loop_over_its_layers_says_fused_or_not(kind):
    model, x, strides = small(kind), list(counts(9)), (1, 1, 2)
    weights = model.state_dict()
    large = kind in ("sew_resnet18", "sew_resnet50")
    if "sew" in kind:
        last = plain_sew(weights, x, strides, large=large)
    else:
        last = plain_residual(weights, x, strides)
    features = [step.mean((2, 3)) for step in last]
    if not large:
        features = lif(linear(weights, "hidden.linear", features))
    assert torch.stack(features).std() > 0.05
    expected = torch.stack(linear(weights, "classifier", features))
    fused = fuse_model(model)
    for each in (model, fused):
        with torch.no_grad():
            close(each(counts(9)), expected)
    left = [name for name, m in fused.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert all("shortcut" in name for name in left)


@pytest.mark.parametrize("stem", [64, 128])
def test_resnet19_is_seventeen_convolutions_two_linear_layers_and_its_shortcuts(stem):
    model = on_meta("resnet19", input_size=32, stem=stem)
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    main = {name: m for name, m in layers if "shortcut" not in name}
    assert [m.out_channels for m in main.values()] == [stem] + [128] * 6 + [256] * 6 + [512] * 4
    strided = [name for name, m in main.items() if m.stride != (1, 1)]
    assert strided == ["blocks.3.first.conv", "blocks.6.first.conv"]
    first = NormOnly if stem == 128 else ConvNorm
    kinds = [first, Identity, Identity, ConvNorm, Identity, Identity, ConvNorm, Identity]
    assert [type(block.shortcut) for block in model.blocks] == kinds
    assert model.hidden.linear.weight.shape == (256, 512)
    assert model.classifier.in_features == 256


# (layers of neurons, their side), by hand: the stem; blocks times their layers, and a shortcut
# where the shape changes. The first layer of a bottleneck comes before the stride, so it has the
# side of the stage before.
SIDES = [
    ("resnet19", 32, [(7, 32), (6, 16), (4, 8)]),
    ("resnet19", 49, [(7, 49), (6, 25), (4, 13)]),
    ("sew_resnet19", 33, [(1 + 6 + 1, 33), (6 + 1, 17), (4 + 1, 9)]),
    ("sew_resnet18", 224, [(1, 112), (4, 56), (4 + 1, 28), (4 + 1, 14), (4 + 1, 7)]),
    ("sew_resnet34", 225, [(1, 113), (6, 57), (8 + 1, 29), (12 + 1, 15), (6 + 1, 8)]),
    ("sew_resnet50", 224, [(1, 112), (9 + 1 + 1, 56), (12 + 1, 28), (18 + 1, 14), (9, 7)]),
]


@pytest.mark.parametrize(("name", "size", "expected"), SIDES, ids=str)
def test_neurons_have_the_sides_of_the_published_network(name, size, expected):
    layers = [m.shape for m in on_meta(name, input_size=size).modules() if isinstance(m, LIF)]
    sides = [height for _, height, _ in (shape for shape in layers if len(shape) == 3)]
    assert [(len(list(same)), side) for side, same in groupby(sides)] == expected


def test_spikes_are_zero_or_one_and_rates_stay_between_though_sew_blocks_add_up_to_more(kind):
    model, largest = small(kind), []
    for block in model.blocks:
        block.register_forward_hook(lambda layer, inputs, y: largest.append(y.max().item()))
    with torch.no_grad(), firing_rates(model) as rates:
        model(counts(9))
    assert all(0 < rate < 1 for rate in rates.mean().values())
    assert largest == ([2.0, 3.0, 2.0] if "sew" in kind else [1.0, 1.0, 1.0])


@pytest.mark.parametrize(("name", "stem"), [("resnet19", 4), ("resnet19", 3), ("sew_resnet19", 4)])
def test_norms_know_whether_they_stand_before_an_addition(name, stem):
    options = {"stem": stem, "stages": [[4, 2], [6, 1]], "norm": {"name": "tdbn", "v_threshold": 1}}
    model = create_model(name, num_classes=3, input_size=8, **options)
    places = ["blocks.0.shortcut", "blocks.2.shortcut", *(f"blocks.{n}.second" for n in range(3))]
    before = {f"{place}.norm" for place in [*places, *(["stem"] if stem == 4 else [])]}
    norms = {key: m for key, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    smaller = {key for key, norm in norms.items() if norm.weight[0] < 0.9}
    assert smaller == (set() if name == "sew_resnet19" else before)


@pytest.mark.parametrize("size", [1, 2, 5, 8, 11])
def test_any_side_will_do_and_neurons_know_theirs(kind, size):
    model, shapes = small(kind, size=size), []
    for layer in model.modules():
        if isinstance(layer, LIF):
            layer.register_forward_hook(
                lambda layer, inputs, y: shapes.append((layer.shape, tuple(y[0].shape[2:])))
            )
    with torch.no_grad():
        model(counts(size))
    assert shapes
    assert all(said == seen for said, seen in shapes)


@pytest.mark.parametrize("neuron", ["lif", "relu"])
@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
def test_activations_and_gradients_stay_channels_last_without_a_copy(kind, neuron):
    model, layouts = small(kind, neuron=neuron).train(), []

    def look(*tensors):
        layouts.extend(each.is_contiguous(memory_format=torch.channels_last) for each in tensors)

    for layer in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        layer.register_forward_hook(lambda layer, inputs, y: look(inputs[0], y))
        layer.register_full_backward_hook(lambda layer, into, out: look(out[0]))
    x = counts(9).flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (5, 3))
    with Operators() as ran:
        logits = model(x)
    assert not COPIES & set(ran.names)
    with Operators() as ran:
        logits.square().sum().backward()
    # that of the spatial mean, where it meets the last neurons
    assert sum(name in COPIES for name in ran.names) <= 2
    assert layouts
    assert all(layouts)
