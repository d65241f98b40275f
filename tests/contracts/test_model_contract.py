"""What every row of MODELS promises. A new row adds its small size to SMALL.

Every row is tested with LIF and batch norm, two with every other neuron and as every ANN twin, one
with every other norm.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from torch import nn

from anystep.nn.models import MODELS, create_model
from anystep.nn.neurons import ACTIVATIONS, NEURONS, Neuron
from anystep.nn.norms import NORMS

SMALL = {  # odd sides are halved on the way; some frames are not square
    "vgg_snn": {"input_size": [8, 11], "widths": [[4, 6], [8]]},
    "vgg9": {"input_size": 5, "widths": [[4, 6]], "pool": "max"},
    "resnet19": {"input_size": [5, 7], "stem": 4, "stages": [[4, 1], [6, 2]]},
    "sew_resnet18": {"input_size": 9, "stages": [[4, 1], [6, 2]]},
    "sew_resnet19": {"input_size": 5, "stem": 3, "stages": [[4, 1], [6, 2]]},
    "sew_resnet34": {"input_size": 13, "stages": [[4, 2], [6, 1]]},
    "sew_resnet50": {"input_size": [6, 9], "stages": [[2, 1], [3, 2]]},
}
EVENTS = {"in_planes": 2, "input_size": 48}
IMAGES = {"in_planes": 3, "input_size": 32}
LARGE = {"in_planes": 3, "input_size": 224}
PUBLISHED = [  # row, its options, classes -> trainable parameters
    ("vgg_snn", EVENTS, {10: 9_268_746, 101: 9_688_165}),
    ("vgg_snn", EVENTS | {"conv_bias": True}, {10: 9_271_498, 101: 9_690_917}),
    ("resnet19", IMAGES | {"stem": 64}, {10: 12_630_858, 100: 12_653_988}),
    ("resnet19", IMAGES | {"stem": 128}, {10: 12_698_250, 100: 12_721_380}),
    ("resnet19", EVENTS | {"stem": 128}, {10: 12_697_098}),
    ("sew_resnet19", IMAGES, {10: 12_630_858, 100: 12_653_988}),
    ("sew_resnet18", LARGE, {1000: 11_689_512, 200: 11_279_112, 120: 11_238_072, 196: 11_277_060}),
    ("sew_resnet34", LARGE, {1000: 21_797_672, 200: 21_387_272, 120: 21_346_232, 196: 21_385_220}),
    ("sew_resnet50", LARGE, {1000: 25_557_032}),
]
# of neurons and norms
OPTIONS = {"qcfs": {"clip_init": 2.0}, "qcfs_if": {"clip_init": 2.0}, "tebn": {"steps": 100}}
T, N, P, C = 10, 3, 2, 5
NEAR = 4e-5  # a spike may differ only where so little more or less input changes it
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12}


def networks(neurons):
    """(row, neuron, norm) of the networks to test."""
    others = [neuron for neuron in neurons if neuron != "lif"]
    chosen = [(name, "lif", "bn") for name in sorted(MODELS)]
    chosen += [(name, neuron, "bn") for name in ("vgg_snn", "resnet19") for neuron in others]
    return chosen + [("resnet19", "lif", norm) for norm in NORMS if norm != "bn"]


every_network = pytest.mark.parametrize("net", networks([*NEURONS, *ACTIVATIONS]), ids="-".join)
every_spiking = pytest.mark.parametrize("net", networks(NEURONS), ids="-".join)
every_dtype = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def spec(name):
    return {"name": name, **OPTIONS.get(name, {})}


@cache
def trained(name, neuron, norm, dtype, seed):
    """A small network in eval mode whose norms have seen data and let every layer fire."""
    torch.manual_seed(seed)
    model = create_model(
        name, num_classes=C, in_planes=P, neuron=spec(neuron), norm=spec(norm), **SMALL[name]
    ).to(dtype)
    for key, parameter in model.named_parameters():
        if key.endswith("norm.bias"):
            parameter.fill_(0.4)
        elif key.endswith("norm.p"):  # one factor a step
            parameter.uniform_(0.8, 1.2)
        elif key == "hidden.linear.bias":  # no norm comes to its aid
            parameter.fill_(0.4)
        elif key == "hidden.linear.weight":
            parameter.mul_(6)
    for _ in range(20):
        model.train()(frames(name, dtype=dtype, seed=100))
    return model.eval()


def make(name, neuron="lif", norm="bn", *, dtype=torch.float32, seed=0):
    return copy.deepcopy(trained(name, neuron, norm, dtype, seed))


def sides(name):
    size = SMALL[name]["input_size"]
    return size if isinstance(size, list) else (size, size)


def frames(name, *, steps=T, samples=N, dtype=torch.float32, seed=0):
    """Event counts, more of them in some places than in others."""
    height, width = sides(name)
    generator = torch.Generator().manual_seed(seed)
    rate = 2.0 * torch.rand(1, samples, P, height, width, generator=generator)
    return torch.poisson(rate.expand(steps, -1, -1, -1, -1), generator=generator).to(dtype)


@contextmanager
def recorded(model):
    """Every call of every spiking layer inside the block: name -> [(x, v, spikes)]."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Neuron)}
    calls = {name: [] for name in layers}

    def hook(name):
        return lambda layer, inputs, y: calls[name].append((*inputs, (y[0] != 0).to(y[0].dtype)))

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    yield calls
    for handle in handles:
        handle.remove()


def certain(layer, x, v, spikes):
    """Whether a call's spikes stay as they are when every input is a little larger or smaller."""
    moved = ((layer(x + by, v)[0] != 0).to(spikes.dtype) for by in (NEAR, -NEAR))
    return all(torch.equal(each, spikes) for each in moved)


@cache
def case(name, neuron, norm, dtype):
    """A network, frames that keep all membranes away from the threshold (every spike is certain),
    and what it says.
    """
    model = make(name, neuron, norm, dtype=dtype)
    layers = dict(model.named_modules())
    for seed in range(50):
        x = frames(name, dtype=dtype, seed=seed)
        with recorded(model) as calls:
            logits = model(x)
        firsts = {layer: call[0] for layer, call in calls.items()}
        if all(certain(layers[key], *call) for key, call in firsts.items()):
            return model, x, logits, {layer: spikes for layer, (_, _, spikes) in firsts.items()}
    raise AssertionError("no seed keeps all membranes away from the threshold")


def run_in_chunks(model, x, sizes):
    state, said = model.rest(x.shape[1]), []
    for chunk in x.split(sizes):
        logits, state = model.advance(chunk, state)
        said.append(logits)
    return torch.cat(said), state


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCES.get(expected.dtype, 0))


@every_network
@every_dtype
def test_step_logits_are_steps_by_samples_by_classes_of_the_dtype_of_the_weights(net, dtype):
    model = make(*net, dtype=dtype)
    for steps, samples in [(1, 1), (1, 4), (3, 1), (5, 2)]:
        x = frames(net[0], steps=steps, samples=samples, dtype=dtype)
        logits, state = model.advance(x, model.rest(samples))
        assert (logits.shape, logits.dtype) == ((steps, samples, C), dtype)
        assert logits.isfinite().all()
        assert_close(model(x), logits)
        assert isinstance(state, tuple)
        assert all(isinstance(rows, torch.Tensor) and len(rows) == samples for rows in state)


@every_spiking
def test_every_layer_of_the_test_case_fires_sometimes_and_not_always(net):
    *_, spikes = case(*net, torch.float32)
    assert spikes
    for layer in spikes.values():
        assert 0.01 < layer.mean() < 0.95
        assert set(layer.unique().tolist()) == {0.0, 1.0}


@every_network
@every_dtype
def test_prefix_law(net, dtype):
    model, x, logits, spikes = case(*net, dtype)
    for t in range(1, T + 1):
        with recorded(model) as calls:
            prefix = model(x[:t])
        assert_close(prefix, logits[:t])
        for layer, call in calls.items():
            assert torch.equal(call[0][2], spikes[layer][:t])


@every_network
@every_dtype
@pytest.mark.parametrize("sizes", [[1] * T, [3, 3, 3, 1], [9, 1], [1, 9], [2, 5, 3]], ids=str)
def test_stream_law(net, dtype, sizes):
    model, x, logits, spikes = case(*net, dtype)
    with recorded(model) as calls:
        said, after = run_in_chunks(model, x, sizes)
    assert_close(said, logits)
    for layer, call in calls.items():
        assert torch.equal(torch.cat([each[2] for each in call]), spikes[layer])
    for mine, whole in zip(after, model.advance(x, model.rest(N))[1], strict=True):
        assert_close(mine, whole)


@every_network
def test_the_state_matters_unless_there_is_none(net):
    model, x, logits, _ = case(*net, torch.float64)
    fresh = model(x[5:])
    if not any(isinstance(layer, Neuron) for layer in model.modules()):
        assert model.rest(N) == ()
        assert_close(fresh, logits[5:])
    else:
        assert (fresh - logits[5:]).abs().max() > 1e-3


@every_network
@pytest.mark.parametrize("training", [False, True])
def test_a_call_leaves_nothing_behind(net, training):
    model = make(*net).train(training)
    x, state = frames(net[0]), model.rest(N)
    kept, kept_state = x.clone(), [rows.clone() for rows in state]
    first = model(x)
    model.advance(x, state)
    model(frames(net[0], samples=7, steps=2, seed=5))
    assert torch.equal(model(x), first)
    assert torch.equal(x, kept)
    assert all(torch.equal(rows, before) for rows, before in zip(state, kept_state, strict=True))


@every_network
def test_rows_reset_dropped_and_moved_in_mid_stream_go_on_as_streams_of_their_own(net):
    model = make(*net, dtype=torch.float64)
    x = frames(net[0], steps=8, samples=4, dtype=torch.float64)
    y = frames(net[0], steps=5, samples=1, dtype=torch.float64, seed=1)
    alone = [model(x[:, [n]]) for n in range(4)]
    newcomer = model(y)

    _, state = model.advance(x[:3], model.rest(4))
    # sample 1 ends and a newcomer takes its row; the others go on
    state = tuple(rows.clone() for rows in state)
    for rows, rest in zip(state, model.rest(1), strict=True):
        rows[1] = rest[0]
    logits, state = model.advance(torch.cat([x[3:5, [0]], y[:2], x[3:5, 2:]], dim=1), state)
    for row, expected in enumerate([alone[0][3:5], newcomer[:2], alone[2][3:5], alone[3][3:5]]):
        assert_close(logits[:, [row]], expected)
    # sample 2 is dropped, and the rest change places
    order = [3, 1, 0]
    state = tuple(rows[order] for rows in state)
    logits, _ = model.advance(torch.cat([x[5:, [3]], y[2:], x[5:, [0]]], dim=1), state)
    for row, expected in enumerate([alone[3][5:], newcomer[2:], alone[0][5:]]):
        assert_close(logits[:, [row]], expected)


@every_network
def test_the_hundredth_frame_costs_what_the_first_did(net):
    model, work, costs = make(*net), [], []
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear | Neuron)]
    for layer in layers:
        layer.register_forward_hook(
            lambda layer, inputs, _: work.append((id(layer), *(i.shape for i in inputs)))
        )
    state = model.rest(1)
    for frame in frames(net[0], steps=100, samples=1).split(1):
        work.clear()
        _, state = model.advance(frame, state)
        costs.append((*work, *(rows.shape for rows in state)))
    assert len(work) == len(layers)
    assert set(costs) == {costs[0]}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_frames_of_a_wrong_shape_or_dtype_are_refused_by_name(name):
    model, (h, w) = make(name), sides(name)
    wanted = rf"{type(model).__name__}: frames must be \(T, N, 2, {h}, {w}\) with T >= 1, got"
    wrong = [(T, N, P + 1, h, w), (T, N, P, h + 1, w), (T, N, P, h, w - 1)]
    for shape in [*wrong, (N, P, h, w), (0, N, P, h, w), (5,), ()]:
        with pytest.raises(ValueError, match=wanted):
            model(torch.zeros(shape))
    for dtype in (torch.float64, torch.uint8, torch.int64, torch.float16):
        with pytest.raises(ValueError, match=rf"must be torch.float32 like .*, got {dtype}"):
            model(torch.zeros(T, N, P, h, w, dtype=dtype))


@every_spiking
def test_a_state_of_another_batch_network_shape_or_dtype_is_refused_by_name(net):
    model, x = make(*net), frames(net[0])
    state = model.rest(N)
    wrong = [
        (model.rest(N + 1), rf"'.*(neuron|norm)' has {N + 1} rows for a batch of {N} samples"),
        (state[:-1], rf"the state must have {len(state)} tensors .*, got {len(state) - 1}"),
        ((), rf"the state must have {len(state)} tensors .*, got 0"),
        (state[::-1], r"the (membrane|state) must be"),
        (tuple(rows.double() for rows in state), r"the (membrane|state) must be .* torch.float64"),
    ]
    for other, message in wrong:
        with pytest.raises(ValueError, match=message):
            model.advance(x, other)


@every_spiking
def test_the_ann_twin_has_the_same_keys_and_shapes_apart_from_those_of_the_neuron(net):
    name, neuron, norm = net
    spiking, twin = (make(name, kind, norm).state_dict() for kind in (neuron, "relu"))
    for key in spiking.keys() ^ twin.keys():
        assert {"neuron", "norm"} & set(key.split("."))
    shared = spiking.keys() & twin.keys()
    assert any(key.endswith("conv.weight") for key in shared)
    assert all(spiking[key].shape == twin[key].shape for key in shared)
    assert [key for key in spiking if key in shared] == [key for key in twin if key in shared]


@pytest.mark.parametrize(("name", "options", "counts"), PUBLISHED, ids=str)
def test_the_published_network_has_the_published_number_of_parameters(name, options, counts):
    for classes, count in counts.items():
        for neuron in ("lif", "relu"):
            with torch.device("meta"):
                model = create_model(name, num_classes=classes, neuron=neuron, **options)
            assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


@every_network
def test_gradients_reach_every_parameter_and_the_frames(net):
    model = make(*net).train()
    x = frames(net[0]).requires_grad_(True)
    with torch.enable_grad():
        model(x).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().max() > 0, key
    assert x.grad.abs().max() > 0


# one of each kind: a compilation takes seconds
@pytest.mark.parametrize("name", ["vgg_snn", "resnet19", "sew_resnet50"])
def test_a_compiled_network_says_the_same(name):
    model, x, logits, _ = case(name, "lif", "bn", torch.float32)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x[:3]), logits[:3], rtol=0, atol=1e-5)
