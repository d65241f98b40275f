"""Firing rates and operations, counted by hand, by loops and by NeuroBench."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

from anystep.evaluation.energy import FiringRates, Operations, firing_rates, operations
from anystep.nn.activations import ReLU
from anystep.nn.layers import direct_encoding
from anystep.nn.models import create_model
from anystep.nn.neurons import IF, LIF, ClippedIF


def chain(*layers):
    return nn.ModuleDict(dict(layers))


def test_rates_by_hand():
    model = chain(("slow", IF(v_threshold=1.0)), ("fast", IF(v_threshold=0.5)))
    with firing_rates(model) as rates:
        x = torch.full((4, 2, 3), 0.6)
        model["slow"](x)  # 0.6, 1.2 > 1: every second step
        model["fast"](x)  # every step
    assert rates.mean() == {"slow": 0.5, "fast": 1.0}


def test_calls_of_different_sizes_weigh_by_their_elements():
    model = chain(("n", LIF(tau=2.0, v_threshold=0.5)))
    with firing_rates(model) as rates:
        model["n"](torch.full((1, 3, 4), 2.0))  # 12 elements, all fire
        model["n"](torch.zeros(3, 4, 3))  # 36 elements, none does
    assert rates.mean() == {"n": 12 / 48}


def test_a_spike_counts_once_whatever_it_is_worth():
    model = chain(("worth 8", ClippedIF()), ("worth 1", ClippedIF(scale="folded")))
    with firing_rates(model) as rates:
        x = torch.full((4, 2, 3), 4.0)  # membranes 1, 1.5 > 1, 1, 1.5 > 1
        assert model["worth 8"](x)[0].max() == 8
        model["worth 1"](x)
    assert rates.mean() == {"worth 8": 0.5, "worth 1": 0.5}


def test_nothing_is_counted_before_or_after_the_block_and_no_hook_stays():
    model = chain(("n", IF()))
    x = torch.ones(2, 1, 1)
    model["n"](x)
    with firing_rates(model) as rates:
        assert rates.mean() == {}
        model["n"](x)
    model["n"](0 * x)
    assert rates.mean() == {"n": 1.0}
    assert not model["n"]._forward_hooks


def test_no_hook_stays_after_an_error():
    model = chain(("n", IF()))
    with pytest.raises(ValueError, match=r"x must be \(T, N, \.\.\.\)"), firing_rates(model):
        model["n"](torch.ones(3))
    assert not model["n"]._forward_hooks


def test_an_activation_has_no_rate_and_no_elements_are_no_spikes():
    model = chain(("relu", ReLU()), ("n", IF()))
    with firing_rates(model) as rates:
        model["relu"](torch.ones(2, 1, 1))
        model["n"](torch.ones(2, 0, 1))
    assert rates.mean() == {"n": 0.0}
    assert FiringRates().mean() == {}


def test_rates_at_each_step_by_hand_also_where_recordings_end_early():
    model = chain(("n", IF(v_threshold=1.0)))
    with firing_rates(model) as rates:
        model["n"](torch.full((4, 2, 3), 0.6))  # fires at steps 2 and 4
        model["n"](torch.full((2, 1, 3), 2.0))  # fires at both
    assert rates.by_step() == {"n": [1 / 3, 1.0, 0.0, 1.0]}


def pattern(*shape):
    return (torch.arange(torch.Size(shape).numel()) * 7 % 5 == 0).float().reshape(shape)


@pytest.mark.parametrize(
    ("layer", "x", "effective", "dense"),
    [
        (nn.Conv2d(3, 5, 3, stride=2, padding=1), pattern(4, 3, 7, 7), 1210, 6000),
        (nn.Conv2d(4, 8, (3, 1), groups=2, dilation=2), pattern(4, 4, 6, 6), 464, 2304),
        (nn.Linear(12, 7), pattern(4, 12), 70, 336),
    ],
)
def test_one_layer_counts_what_neurobench_counts(layer, x, effective, dense):
    """The numbers are those of neurobench 2.3.0, `single_layer_MACs(x, layer)`."""
    counted = Operations()
    counted.begin(torch.zeros(2, 2, 1))
    counted.add("frames come in", layer, x)
    counted.spikes()
    counted.add("spikes come in", layer, x)
    counted.add("means come in", layer, x / 4)
    layers = counted.describe()["layers"]
    none = {"acs": 0, "macs": 0, "dense": dense / 2}
    assert layers["frames come in"] == none | {"macs": effective / 2}
    assert layers["spikes come in"] == none | {"acs": effective / 2}
    assert layers["means come in"] == none | {"macs": effective / 2}


def meetings(layer, x, out):
    """By loops: each input that is not 0, and each weight that meets it."""
    met = [0] * len(x)
    side, pad = layer.kernel_size[0], layer.padding[0]
    places = [(y, x) for y in range(out.shape[2]) for x in range(out.shape[3])]
    for row, plane, dy, dx in product(range(len(x)), range(x.shape[1]), range(side), range(side)):
        for top, left in places:
            y, column = top + dy - pad, left + dx - pad
            if 0 <= y < x.shape[2] and 0 <= column < x.shape[3] and x[row, plane, y, column]:
                met[row] += out.shape[1]
    return met


@pytest.mark.parametrize("pool", ["max", "average"])
def test_a_network_is_counted_step_by_step(pool):
    torch.manual_seed(0)
    neuron = {"name": "lif", "v_threshold": 0.2}  # so that enough of them fire
    size = {"num_classes": 3, "in_planes": 2, "input_size": 6, "widths": [[3, 4]]}
    model = create_model("vgg_snn", neuron=neuron, pool=pool, **size).eval()
    frames = torch.poisson(torch.full((3, 2, 2, 6, 6), 0.5))
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    expected = []
    keep = [
        each.register_forward_hook(lambda layer, x, y: expected.append(meetings(layer, x[0], y)))
        for each in convolutions
    ]
    linear = []
    keep.append(model.classifier.register_forward_pre_hook(lambda _, x: linear.append(x[0])))
    with torch.no_grad(), operations(model) as counted:
        model(frames)
    assert len(keep) == 3
    first, second = (torch.tensor(met).reshape(3, 2).sum(1) / 2 for met in expected)
    last = 3 * (linear[0] != 0).sum((1, 2)) / 2
    told = counted.describe()
    means = pool == "average"  # of spikes: what comes behind the pool multiplies
    assert second.sum() > 0
    assert last.sum() > 0
    assert told["macs"] == (first + last * means).tolist()
    assert told["acs"] == (second + last * (not means)).tolist()
    assert told["picojoules"] == pytest.approx(
        [0.9 * ac + 4.6 * mac for ac, mac in zip(told["acs"], told["macs"], strict=True)]
    )


def test_a_still_image_costs_its_first_layer_at_every_step():
    torch.manual_seed(0)
    model = create_model("vgg_snn", num_classes=3, in_planes=1, input_size=6, widths=[[3]]).eval()
    image = torch.rand(2, 1, 6, 6)
    told = []
    for frames in (direct_encoding(image, 4), direct_encoding(image, 4).contiguous()):
        with torch.no_grad(), operations(model) as counted:
            model(frames)
        told.append(counted.describe())
    assert told[0] == told[1]


def test_a_twin_without_time_multiplies_only_and_no_hook_stays():
    model = create_model(
        "vgg_snn", num_classes=3, in_planes=1, input_size=6, widths=[[3]], neuron="relu"
    ).eval()
    with torch.no_grad(), operations(model) as counted:
        model(torch.rand(1, 2, 1, 6, 6))
    told = counted.describe()
    assert told["acs"] == [0]
    assert 0 < told["macs"][0] <= told["dense"][0]
    assert not any(each._forward_pre_hooks or each._forward_hooks for each in model.modules())
