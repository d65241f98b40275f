"""The fused scans against the reference: outputs, state, every gradient, any memory layout.

A session without a GPU holds numba to it; where there is one, Triton too. With TRITON_INTERPRET=1
it is Triton's interpreter on the CPU: see `test_triton_contract.py`, which starts such a session.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
import torch

from anystep.nn.kernels import Rule
from anystep.nn.kernels.fused import home
from anystep.nn.kernels.layout import rows, step_strides
from anystep.nn.neurons import LIF, scan, scan_for
from anystep.nn.surrogate import SURROGATES, QuadraticGate, Surrogate, Triangle, surrogate_of

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = {"triton": "cpu"} if INTERPRETED else {"numba": "cpu"}
DEVICES |= {"triton": "cuda"} if torch.cuda.is_available() and not INTERPRETED else {}

RULES = [
    Rule(surrogate_of(name), 0.45, v_reset, detach, at)
    for name, v_reset, detach, at in [
        ("quadratic_gate", 0.0, True, False),
        ("quadratic_gate", 0.0, False, True),
        ("triangle", 0.0, False, False),
        ("triangle", -0.1, True, True),
        ("rectangle", -0.1, False, False),
        ("rectangle", None, True, False),
        ("arctan", None, False, False),
        ("arctan", 0.0, True, True),
        ("sigmoid", None, True, True),
        ("sigmoid", -0.1, False, False),
    ]
]
TKS = RULES[0]
SHAPES = [(1, 3, 5, 7), (3, 3, 5, 7), (63, 2, 3), (3, 1), (2, 2, 1100), (2, 5000)]
# The interpreter is slow: every rule at one odd shape, one rule at the others.
CASES = [(rule, shape) for rule in RULES for shape in SHAPES]
if INTERPRETED:
    CASES = [(rule, (3, 3, 5, 7)) for rule in RULES] + [(RULES[9], shape) for shape in SHAPES[:-1]]


every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(RULES.index(rule)))


@pytest.fixture(params=DEVICES)
def backend(request):
    """A backend's name, while tensors are made where it runs."""
    with torch.device(DEVICES[request.param]):
        yield request.param


@pytest.fixture
def kernels(backend):
    return home(backend)


def draw(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator("cpu").manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu") * 0.8 + 0.4
    x.view(-1)[::5] = 0.45 / 0.7  # membranes at or a rounding away from the threshold
    return x.to(torch.get_default_device(), dtype)


def agree(ours, theirs, *, atol=1e-6):
    """Whether float32 results are the same, and not all of them zero."""
    return theirs.abs().max() > 0 and torch.allclose(ours, theirs, rtol=1e-5, atol=atol)


def everything(run, x, v, *, rule=TKS, learnt=True, with_last=True, dtype=None):
    """(spikes, v) and the gradients of x, v, and of decay and gain if `learnt`, under random
    weights, computed in `dtype`."""
    own, dtype = x.dtype, dtype or x.dtype
    x, v = x.detach().to(dtype).requires_grad_(), v.detach().to(dtype).requires_grad_()
    given = [0.6, 0.7]
    if learnt:
        given = [torch.tensor(c, dtype=own).to(dtype).requires_grad_() for c in given]
    spikes, last = run(x, v, *given, rule)
    outputs = [spikes, last] if with_last else [spikes]
    weights = [draw(*y.shape, seed=8 + i).to(own).to(dtype) for i, y in enumerate(outputs)]
    gradients = torch.autograd.grad(outputs, [x, v, *given] if learnt else [x, v], weights)
    return (spikes.detach(), last.detach()), gradients


def assert_same(got, expected, *, rtol, exact=True):
    for ours, theirs in zip(got[0], expected[0], strict=True):
        assert ours.shape == theirs.shape
        assert not exact or torch.equal(ours, theirs)
    for ours, theirs in zip(got[1], expected[1], strict=True):
        assert ours.shape == theirs.shape
        limit = rtol * max(theirs.abs().max().item(), 1) if theirs.numel() else 0
        assert (ours.double() - theirs.double()).abs().le(limit).all()


def as_the_reference(kernels, x, v, *, rtol=1e-5, **options):
    """Outputs of the same bits, and gradients that agree."""
    assert_same(*(everything(run, x, v, **options) for run in (kernels.scan, scan)), rtol=rtol)


@pytest.mark.parametrize(("rule", "shape"), CASES, ids=lambda value: str(value)[-60:])
def test_outputs_are_bit_identical_and_every_gradient_agrees(kernels, rule, shape):
    x, v = draw(*shape), draw(*shape[1:], seed=1)
    as_the_reference(kernels, x, v, rule=rule)
    as_the_reference(kernels, x.double(), v.double(), rule=rule, rtol=1e-12)


@pytest.mark.parametrize("learnt", [False, True])
@pytest.mark.parametrize("with_last", [False, True])
def test_any_subset_of_the_gradients_can_be_asked_for(kernels, learnt, with_last):
    as_the_reference(kernels, draw(3, 2, 9), draw(2, 9, seed=1), learnt=learnt, with_last=with_last)


@every_rule
def test_float32_gradients_are_those_of_a_float64_reference(kernels, rule):
    x, v = draw(4, 6, 50), draw(6, 50, seed=1)
    x[x == x[0, 0, 0]] += 0.01  # at a tie the two precisions may fire differently
    ours = everything(kernels.scan, x, v, rule=rule)
    exact = everything(scan, x, v, rule=rule, dtype=torch.float64)
    assert torch.equal(ours[0][0].double(), exact[0][0])
    assert_same(ours, exact, rtol=1e-5, exact=False)


def test_the_last_membrane_alone_can_be_differentiated(kernels):
    x, v = draw(3, 2, 9).requires_grad_(), draw(2, 9, seed=1)
    lasts = [run(x, v, 0.6, 0.7, RULES[1])[1] for run in (kernels.scan, scan)]
    assert agree(*(torch.autograd.grad(last.sum(), x)[0] for last in lasts))


@pytest.mark.parametrize("shape", [(3, 0), (2, 0, 4), (1, 5, 0, 2)], ids=str)
def test_an_empty_batch_works(kernels, shape):
    nothing, zero = torch.zeros(shape), torch.tensor(0.0)
    expected = (nothing, nothing[0]), (nothing, nothing[0], zero, zero)
    assert_same(everything(kernels.scan, nothing, nothing[0]), expected, rtol=0)


def last_channels(*shape):
    return draw(*shape).to(memory_format=torch.channels_last)


LAYOUTS = {
    "contiguous": lambda: draw(3, 4, 2, 5, 6),
    "a later slice": lambda: draw(4, 4, 2, 5, 6)[1:],
    "every other step": lambda: draw(6, 4, 2, 5, 6)[::2],
    "channels last, time folded": lambda: last_channels(12, 2, 5, 6).view(3, 4, 2, 5, 6),
    "static input": lambda: draw(4, 2, 5, 6).expand(3, 4, 2, 5, 6),
    "static channels last": lambda: last_channels(4, 2, 5, 6).expand(3, 4, 2, 5, 6),
    "one sample, samples first": lambda: draw(1, 3, 2, 5, 6).transpose(0, 1),
    "windows that overlap": lambda: draw(100).unfold(0, 60, 20)[:, None, :],
}
COPIED = {
    "samples first": lambda: draw(4, 3, 2, 5, 6).transpose(0, 1),
    "time last": lambda: draw(4, 2, 5, 6, 3).movedim(-1, 0),
    "cropped": lambda: draw(3, 4, 2, 7, 8)[..., 1:6, 1:7],
    "expanded inside a step": lambda: draw(3, 4, 1, 1, 6).expand(3, 4, 2, 5, 6),
}


@pytest.mark.parametrize("layout", [*LAYOUTS, *COPIED])
def test_any_memory_layout_gives_the_same(kernels, layout):
    x = {**LAYOUTS, **COPIED}[layout]()
    v = draw(*x.shape[1:], seed=1)  # contiguous, whatever x is
    assert_same(everything(kernels.scan, x, v), everything(scan, x.contiguous(), v), rtol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_without_gaps_is_read_in_place_and_its_layout_kept(kernels, layout):
    x = LAYOUTS[layout]()
    flat, row = rows(x, step_strides(x))
    assert flat.data_ptr() == x.data_ptr()
    assert row == x.stride(0)
    spikes, last = kernels.scan(x, torch.zeros(x.shape[1:]), 0.6, 0.7, TKS)
    assert spikes[0].stride() == last.stride() == x[0].stride()


@pytest.mark.parametrize("layout", ["contiguous", "channels last, time folded", "samples first"])
def test_one_number_for_all_membranes_is_the_same_as_a_membrane_full_of_it(kernels, layout):
    x = {**LAYOUTS, **COPIED}[layout]()
    v = torch.tensor(0.3).expand(x.shape[1:])
    shared, dense = (everything(kernels.scan, x, each) for each in (v, v.contiguous()))
    for ours, theirs in zip((*shared[0], *shared[1]), (*dense[0], *dense[1]), strict=True):
        assert torch.equal(ours, theirs)
    assert (v == 0.3).all()


def test_without_a_gradient_the_scan_is_a_plain_call_and_says_the_same(kernels):
    x, v = draw(3, 2, 9).requires_grad_(), draw(2, 9, seed=1)
    expected = kernels.scan(x, v, 0.6, 0.7, TKS)
    assert all(result.requires_grad for result in expected)
    for quiet in (torch.no_grad, torch.inference_mode):
        with quiet():
            results = kernels.scan(x, v, 0.6, 0.7, TKS)
        assert not any(result.requires_grad for result in results)
        assert all(torch.equal(*pair) for pair in zip(results, expected, strict=True))


def test_a_transform_sees_the_scan_though_the_gradient_is_off_around_it(kernels):
    x, v = draw(3, 2, 9), torch.zeros(2, 9)
    losses = [lambda x, run=run: run(x, v, 0.6, 0.7, TKS)[0].sum() for run in (kernels.scan, scan)]
    with torch.no_grad():
        assert agree(*(torch.func.grad(loss)(x) for loss in losses))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_a_forward_gradient_is_refused_and_not_lost(kernels):
    with torch.autograd.forward_ad.dual_level(), torch.no_grad():
        x = torch.autograd.forward_ad.make_dual(draw(3, 9), torch.ones(3, 9))
        with pytest.raises(NotImplementedError, match="jvp"):
            kernels.scan(x, torch.zeros(9), 0.6, 0.7, TKS)


def test_gradients_of_any_layout_may_arrive(kernels):
    x = draw(3, 4, 2, 5, 6).requires_grad_()
    v = torch.zeros(4, 2, 5, 6)
    for weigh in (
        lambda s: s.mean(),
        lambda s: (s.mean(0) ** 2).sum(),
        lambda s: (s.transpose(0, 1) * draw(4, 3, 2, 5, 6)).sum(),
    ):
        losses = [weigh(run(x, v, 0.6, 0.7, TKS)[0]) for run in (kernels.scan, scan)]
        assert agree(*(torch.autograd.grad(loss, x)[0] for loss in losses), atol=1e-7)


def test_memory_full_of_nan_does_not_leak(kernels, monkeypatch):
    fresh = torch.empty_strided
    monkeypatch.setattr(torch, "empty_strided", lambda *a, **k: fresh(*a, **k).fill_(float("nan")))
    x, v = draw(3, 3, 5, 7), draw(3, 5, 7, seed=1)
    for source in (x, x.transpose(1, 3).contiguous().transpose(1, 3)):
        assert_same(everything(kernels.scan, source, v), everything(scan, x, v), rtol=1e-5)


@every_rule
def test_nan_and_infinity_go_where_the_reference_sends_them(kernels, rule):
    x, v = draw(4, 40), draw(40, seed=1)
    x[1, 3], x[2, 5], x[1, 7], v[9] = float("nan"), float("inf"), -float("inf"), float("nan")
    ours, theirs = (everything(run, x, v, rule=rule, learnt=False) for run in (kernels.scan, scan))
    for a, b in zip((*ours[0], *ours[1]), (*theirs[0], *theirs[1]), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert ours[0][1][[3, 9]].isnan().all()


def test_backward_keeps_the_input_and_the_first_membrane_only(kernels):
    kept = []
    x, v = draw(6, 2, 9).requires_grad_(), draw(2, 9, seed=1)
    pack = lambda t: kept.append(t.data_ptr()) or t  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        kernels.scan(x, v, 0.6, 0.7, TKS)
    assert kept == [x.data_ptr(), v.data_ptr()]


def test_torch_func_grad_works_and_a_second_derivative_is_refused(kernels, backend):
    x, v = draw(3, 2, 9), torch.zeros(2, 9)
    leak = torch.tensor(0.6)

    def loss(run, leak, x):
        return (run(x, v, leak, 1 - leak, TKS)[0] * draw(3, 2, 9, seed=4)).sum()

    for argument in (1, 2):
        slope = torch.func.grad(loss, argnums=argument)
        assert agree(slope(kernels.scan, leak, x), slope(scan, leak, x))
    x.requires_grad_()
    gradient = torch.autograd.grad(loss(kernels.scan, leak, x), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match=f"{backend!r} has no second derivative"):
        gradient.sum().backward()


@dataclass(frozen=True)
class Steep(QuadraticGate):
    """A user's own surrogate; being a subclass does not make it the same slope."""

    def slope(self, u):
        return 3 * super().slope(u)


@dataclass(frozen=True)
class Own(Surrogate):
    width: float = 1.0

    def slope(self, u):
        return torch.ones_like(u)


@pytest.mark.parametrize("surrogate", [Steep(), Own()])
def test_a_surrogate_of_your_own_runs_and_is_refused_if_a_kernel_is_named(backend, surrogate):
    x = draw(3, 2, 9)
    gradients = []
    for name in ("auto", "reference"):
        leaf = x.clone().requires_grad_()
        spikes, _ = LIF(surrogate=surrogate, backend=name)(leaf)
        gradients += torch.autograd.grad(spikes.sum(), leaf)
    assert torch.equal(*gradients)
    with pytest.raises(ValueError, match=f"no kernel for the surrogate {type(surrogate).__name__}"):
        LIF(surrogate=surrogate, backend=backend)(x)


def test_every_surrogate_of_the_table_has_a_kernel(kernels):
    for kind in SURROGATES.values():
        assert kernels.refusal(draw(2, 2), 0.5, 0.5, Rule(kind(), 0.5, 0.0, True, False)) is None


class Tagged(torch.Tensor):
    pass


def test_a_named_backend_runs_and_auto_takes_the_one_of_the_device(kernels, backend):
    x = draw(2, 3)
    assert scan_for("reference", x, 0.5, 0.5, TKS) is scan
    assert scan_for(backend, x, 0.5, 0.5, TKS) == kernels.scan
    assert INTERPRETED or scan_for("auto", x, 0.5, 0.5, TKS) == kernels.scan


@pytest.mark.parametrize(
    ("make", "decay", "message"),
    [
        (lambda x: x.to(torch.float8_e4m3fn), 0.5, "devices, got torch.float8_e4m3fn on"),
        (lambda x: x.to("meta"), 0.5, "devices, got torch.float32 on meta"),
        (lambda x: x, torch.ones(3), "decay must be a number or a floating point tensor"),
        (lambda x: x, torch.ones((), device="meta"), "got torch.float32 of shape () on meta"),
        (lambda x: x.as_subclass(Tagged), 0.5, "runs plain tensors, got Tagged"),
    ],
)
def test_what_a_kernel_cannot_run_is_refused_and_left_to_the_reference_by_auto(
    kernels, backend, make, decay, message
):
    x = make(torch.zeros(2, 3))
    assert scan_for("auto", x, decay, 0.5, TKS) is scan
    with pytest.raises(ValueError, match=f"backend {backend!r}") as error:
        kernels.scan(x, x[0], decay, 0.5, TKS)
    assert message in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_float32_rounded_once_or_refused_by_name(kernels, backend, dtype):
    x, v = draw(7, 3, 50, dtype=dtype), draw(3, 50, dtype=dtype, seed=1)
    if backend == "numba":
        with pytest.raises(ValueError, match=f"runs float32 and float64 on CPU .*, got {dtype}"):
            kernels.scan(x, v, 0.6, 0.7, TKS)
        return
    # the interpreter cuts bfloat16 off instead of rounding it
    once = torch.finfo(dtype).eps / (1 if INTERPRETED else 2)
    for rule in (TKS, RULES[3], RULES[6]):
        ours = everything(kernels.scan, x, v, rule=rule)
        theirs = everything(scan, x, v, rule=rule, dtype=torch.float32)
        assert [result.dtype for result in (*ours[0], *ours[1])] == [dtype] * 6
        assert torch.equal(ours[0][0].float(), theirs[0][0])
        for rounded, exact in zip((ours[0][1], *ours[1]), (theirs[0][1], *theirs[1]), strict=True):
            assert ((rounded.double() - exact.double()).abs() <= once * exact.abs() + 1e-6).all()


@pytest.mark.parametrize(
    ("x", "v", "message"),
    [
        ((2, 3), torch.zeros(4), r"v must be \(3,\) torch.float32 on \w+, .*, got \(4,\)"),
        ((2, 3), torch.zeros(3).double(), r"got \(3,\) torch.float64"),
        ((2, 3), torch.zeros(3, device="meta"), r"got \(3,\) torch.float32 on meta"),
        ((0, 3), torch.zeros(3), r"x must be \(T, ...\) with T >= 1, got \(0, 3\)"),
    ],
)
def test_a_membrane_unlike_a_step_is_refused_before_memory_is_touched(kernels, x, v, message):
    with pytest.raises(ValueError, match=message):
        kernels.scan(torch.zeros(x), v, 0.5, 0.5, Rule(Triangle(), 0.5, 0.0, True, False))
