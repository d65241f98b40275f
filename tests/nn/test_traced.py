"""What `torch.compile`, `torch.export` and `torch.jit.trace` see of a fused scan: one op."""

from __future__ import annotations

import pytest
import torch
from contracts.test_kernel_contract import RULES, draw
from little import network

from anystep.nn.kernels import fused
from anystep.nn.neurons import LIF


def small(backend):
    spec = {"name": "plif", "backend": backend}
    return network(spec, dtype=torch.float32, num_classes=3, widths=[[4], [6]])


def ops(graph):
    """The names of our ops in a graph, in order."""
    return [node.target.name() for node in graph.nodes if "anystep" in str(node.target)]


def trained(model, call, x):
    """The loss of one training step and every gradient."""
    model.zero_grad()
    loss = call(x).square().sum()
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters())]


@pytest.fixture
def graphs():
    """A `torch.compile` backend that keeps the graphs of forward and backward as they are."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func

    seen = []

    def keep(graph_module, inputs):
        seen.append(graph_module.graph)
        return make_boxed_func(graph_module.forward)

    torch.compiler.reset()
    yield seen, aot_autograd(fw_compiler=keep)
    torch.compiler.reset()


@pytest.mark.parametrize("backend", ["numba", "auto"])
def test_a_compiled_model_is_one_graph_with_one_op_a_layer_and_trains_the_same(graphs, backend):
    x, (seen, compiler) = draw(4, 2, 2, 8, 8), graphs
    model, twin = small(backend), small(backend)
    ours = trained(model, torch.compile(model, fullgraph=True, backend=compiler), x)
    for a, b in zip(ours, trained(twin, twin, x), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)
    assert [ops(graph) for graph in seen] == [["anystep::scan"] * 2, ["anystep::scan_backward"] * 2]


@pytest.mark.parametrize("strict", [False, True])
def test_a_named_backend_is_exported_as_one_op_a_layer_for_any_batch(strict):
    model, x = small("numba").eval(), draw(4, 3, 2, 8, 8)
    batch = {1: torch.export.Dim("n", min=2, max=64)}
    exported = torch.export.export(model, (x,), strict=strict, dynamic_shapes=(batch,))
    assert ops(exported.graph) == ["anystep::scan"] * 2
    y = draw(4, 5, 2, 8, 8, seed=1)
    assert torch.allclose(exported.module()(y), model(y), atol=1e-6)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_what_auto_exports_holds_plain_operations_only(backend):
    """ONNX knows no op of ours."""
    model, x = small(backend).eval(), draw(4, 3, 2, 8, 8)
    exported = torch.export.export(model, (x,)).run_decompositions()
    calls = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert {call.namespace for call in calls if hasattr(call, "namespace")} == {"aten"}
    assert torch.allclose(exported.module()(x), model(x), atol=1e-6)


@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*:DeprecationWarning"
)
@pytest.mark.parametrize(("backend", "count"), [("numba", 1), ("auto", 0)])
def test_a_jit_trace_records_the_op_of_a_named_backend_and_the_reference_for_auto(backend, count):
    neuron, x = LIF(backend=backend), draw(3, 4, 5)
    traced = torch.jit.trace(neuron, (x, x[0]))
    assert str(traced.graph).count("anystep::scan") == count
    y = draw(3, 4, 5, seed=1)
    assert torch.equal(traced(y, x[0])[0], neuron(y, x[0])[0])


def arguments(x, rule):
    decay = torch.tensor(0.6, requires_grad=True)
    v = draw(*x.shape[1:], seed=1).requires_grad_()
    return x.requires_grad_(), v, *fused._packed("numba", decay, 0.7, rule)


@pytest.mark.parametrize(
    ("rule", "channels_last"), [(RULES[0], True), (RULES[6], False)], ids=["hard", "soft"]
)
def test_the_ops_tell_pytorch_the_truth_about_themselves(rule, channels_last):
    x = draw(12, 2, 5, 6)
    x = (x.to(memory_format=torch.channels_last) if channels_last else x).view(3, 4, 2, 5, 6)
    forward = arguments(x, rule)
    torch.library.opcheck(torch.ops.anystep.scan.default, forward)
    plain = [value.detach() if isinstance(value, torch.Tensor) else value for value in forward]
    d_last = plain[1] if channels_last else None
    torch.library.opcheck(torch.ops.anystep.scan_backward.default, (*plain, plain[0], d_last, True))


def test_the_op_refuses_a_second_derivative_and_what_the_scan_refuses():
    x, *rest = arguments(draw(3, 4), RULES[1])
    spikes, _ = torch.ops.anystep.scan(x, *rest)
    gradient = torch.autograd.grad(spikes.square().sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="'numba' has no second derivative"):
        gradient.sum().backward()
    half = torch.zeros(2, 3, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"on CPU devices, got torch\.float16 on cpu"):
        torch.export.export(LIF(backend="numba"), (half,))
