"""What the fused scans share: what they refuse, their autograd, and the one op that a trace sees.

A backend is a module of this package with

    forward(x, v, decay, gain, rule) -> spikes, last
    backward(x, v, d_spikes | None, d_last | None, decay, gain, rule, learnt) -> dx, dv, sums (2,)

where `sums` holds the gradients of decay and gain if they are `learnt`. Only x, v and coefficients
that are tensors are kept between the two. Eager calls go through an `autograd.Function`, because
`torch.func.grad` does not work through a custom op; `torch.compile` and `torch.export` see
`anystep::scan` and, in its backward, `anystep::scan_backward`, whose shapes and strides are known
without running.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from anystep._errors import UsageError
from anystep.nn.kernels import Rule
from anystep.nn.kernels.layout import empty_like, empty_step, step_strides
from anystep.nn.surrogate import (
    SURROGATES,
    Arctan,
    QuadraticGate,
    Rectangle,
    Sigmoid,
    Surrogate,
    Triangle,
)

Coefficient = float | Tensor
HOMES = {"numba": "anystep.nn.kernels.cpu", "triton": "anystep.nn.kernels.cuda"}

# A slope of the overshoot u as a kind and its p, q, r:
#   tent      r max(0, p - q |u|)
#   box       r where |u| < p
#   bell      p / (1 + (q u)^2)
#   logistic  p e / (1 + e)^2 with e = exp(-p |u|)
SLOPES: dict[type[Surrogate], Callable[[Any], tuple[str, float, float, float]]] = {
    QuadraticGate: lambda s: ("tent", s.alpha, s.alpha**2, 1.0),
    Triangle: lambda s: ("tent", s.width, 1.0, 1 / s.width**2),
    Rectangle: lambda s: ("box", s.width / 2, 0.0, 1 / s.width),
    Arctan: lambda s: ("bell", s.alpha / 2, math.pi / 2 * s.alpha, 0.0),
    Sigmoid: lambda s: ("logistic", s.alpha, 0.0, 0.0),
}


def home(backend: str) -> ModuleType:
    """The module that holds a backend's kernels, which import this one."""
    return importlib.import_module(HOMES[backend])


def _split(coefficient: Coefficient) -> tuple[Tensor | None, float]:
    """(the tensor that is to be kept for backward, the number where there is none)."""
    return (coefficient, 0.0) if isinstance(coefficient, Tensor) else (None, float(coefficient))


def _joined(tensor: Tensor | None, number: float) -> Coefficient:
    return number if tensor is None else tensor


def _shares(
    sums: Tensor, tensors: list[Tensor | None], wanted: tuple[bool, ...]
) -> list[Tensor | None]:
    """The gradients of decay and gain, each in its own dtype, where they are wanted."""
    return [
        share.to(tensor.dtype) if tensor is not None and needed else None
        for share, tensor, needed in zip(sums.unbind(), tensors, wanted, strict=True)
    ]


def _refuse_second(backend: str) -> None:
    raise RuntimeError(
        f"backend {backend!r} has no second derivative: make the neuron with backend='reference'"
    )


# Eager calls


class _Back(torch.autograd.Function):
    """`_Scan`'s backward, a Function too, so that `torch.func.grad` works; it has no backward."""

    @staticmethod
    def forward(x: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, of v, and of (decay, gain) if they are learnt."""
        d_spikes, d_last, decay, gain, (backend, rule, learnt) = rest
        return home(backend).backward(x, v, d_spikes, d_last, decay, gain, rule, learnt)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.backend = inputs[-1][0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        _refuse_second(ctx.backend)
        return ()


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, v: Tensor, decay: Coefficient, gain: Coefficient, how: tuple[str, Rule]
    ) -> tuple[Tensor, Tensor]:
        backend, rule = how
        return home(backend).forward(x, v, decay, gain, rule)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, v, decay, gain, ctx.how = inputs
        (decay, decay_number), (gain, gain_number) = _split(decay), _split(gain)
        ctx.numbers = decay_number, gain_number
        ctx.save_for_backward(x, v, decay, gain)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, d_spikes: Tensor | None, d_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, v, *tensors = ctx.saved_tensors
        decay, gain = map(_joined, tensors, ctx.numbers)
        wanted = ctx.needs_input_grad[2:4]
        dx, dv, sums = _Back.apply(x, v, d_spikes, d_last, decay, gain, (*ctx.how, any(wanted)))
        return dx, dv, *_shares(sums, tensors, wanted), None


# Traces: the op. A schema knows numbers and text only, so a rule is spelt out.

_SETTINGS = (
    "Tensor? decay, Tensor? gain, float decay_number, float gain_number, "
    "str surrogate, float parameter, float v_threshold, float? v_reset, "
    "bool detach_reset, bool fire_at_threshold, str backend"
)
_COUNT = _SETTINGS.count(",") + 1
_GRADIENTS = "Tensor? d_spikes, Tensor? d_last, bool learnt"
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)
for _name, _schema in {
    "anystep::scan": f"(Tensor x, Tensor v, {_SETTINGS}) -> (Tensor, Tensor)",
    "anystep::scan_backward": f"(Tensor x, Tensor v, {_SETTINGS}, {_GRADIENTS}) "
    "-> (Tensor, Tensor, Tensor)",
}.items():
    torch.library.define(_name, _schema, tags=_TAGS)


def _packed(backend: str, decay: Coefficient, gain: Coefficient, rule: Rule) -> tuple[Any, ...]:
    (decay_tensor, decay_number), (gain_tensor, gain_number) = _split(decay), _split(gain)
    surrogate = next(name for name, kind in SURROGATES.items() if kind is type(rule.surrogate))
    parameter = getattr(rule.surrogate, fields(rule.surrogate)[0].name)
    reset = None if rule.v_reset is None else float(rule.v_reset)
    coefficients = decay_tensor, gain_tensor, decay_number, gain_number
    firing = surrogate, float(parameter), float(rule.v_threshold), reset
    return *coefficients, *firing, rule.detach_reset, rule.fire_at_threshold, backend


def _unpacked(settings: tuple[Any, ...]) -> tuple[Coefficient, Coefficient, Rule, str]:
    """(decay, gain, rule, backend)."""
    decay, gain, decay_number, gain_number, surrogate, parameter, *firing, backend = settings
    kind: Callable[[float], Surrogate] = SURROGATES[surrogate]
    rule = Rule(kind(parameter), *firing)
    return _joined(decay, decay_number), _joined(gain, gain_number), rule, backend


@torch.library.impl("anystep::scan", "default")
def _op(x: Tensor, v: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    decay, gain, rule, backend = _unpacked(settings)
    return home(backend).forward(x, v, decay, gain, rule)


@torch.library.register_fake("anystep::scan")
def _fake(x: Tensor, v: Tensor, *settings: object) -> tuple[Tensor, Tensor]:
    strides = step_strides(x)
    return empty_like(x, strides), empty_step(x, strides)


@torch.library.impl("anystep::scan_backward", "default")
def _op_backward(x: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    decay, gain, rule, backend = _unpacked(rest[:_COUNT])
    d_spikes, d_last, learnt = rest[_COUNT:]
    return home(backend).backward(x, v, d_spikes, d_last, decay, gain, rule, learnt)


@torch.library.register_fake("anystep::scan_backward")
def _fake_backward(x: Tensor, v: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor]:
    return *_fake(x, v), torch.empty(2, dtype=torch.float64, device=x.device)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, v, decay, gain, *ctx.settings = inputs
    ctx.save_for_backward(x, v, decay, gain)


def _differentiate(ctx: Any, d_spikes: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
    x, v, *tensors = ctx.saved_tensors
    wanted = ctx.needs_input_grad[2:4]
    dx, dv, sums = torch.ops.anystep.scan_backward(
        x, v, *tensors, *ctx.settings, d_spikes, d_last, any(wanted)
    )
    return dx, dv, *_shares(sums, tensors, wanted), *[None] * len(ctx.settings)


def _keep_backend(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.backend = inputs[2 + _COUNT - 1]


torch.library.register_autograd("anystep::scan", _differentiate, setup_context=_keep)
torch.library.register_autograd(
    "anystep::scan_backward",
    lambda ctx, *gradients: _refuse_second(ctx.backend),
    setup_context=_keep_backend,
)


# Which of the two


def _traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _differentiated(*arguments: Coefficient) -> bool:
    """Whether autograd or a transform of `torch.func` may have to know of the scan. Without them it
    is a plain call: an `autograd.Function` takes 40 microseconds to look at its own signature.
    """
    if torch._C._are_functorch_transforms_active():
        return True
    tensors = [each for each in arguments if isinstance(each, Tensor)]
    if torch.is_grad_enabled() and any(each.requires_grad for each in tensors):
        return True
    return any(unpack_dual(each).tangent is not None for each in tensors)


@dataclass(frozen=True)
class Reach:
    """What a backend runs on: the type of device, and its dtypes."""

    backend: str
    device: str
    dtypes: tuple[torch.dtype, ...]

    def refusal(self, x: Tensor, decay: Coefficient, gain: Coefficient, rule: Rule) -> str | None:
        """Why the backend cannot run on these arguments, or None if it can."""
        backend = f"backend {self.backend!r}"
        if x.device.type != self.device or x.dtype not in self.dtypes:
            *most, last = (str(dtype).removeprefix("torch.") for dtype in self.dtypes)
            known = f"{', '.join(most)} and {last} on {self.device.upper()} devices"
            return f"{backend} runs {known}, got {x.dtype} on {x.device}"
        if type(x) not in (Tensor, nn.Parameter) and not _traced():
            return f"{backend} runs plain tensors, got {type(x).__name__}"
        if type(rule.surrogate) not in SLOPES:
            own, known = type(rule.surrogate).__name__, ", ".join(SURROGATES)
            return f"{backend} has no kernel for the surrogate {own}. Known: {known}"
        for name, value in (("decay", decay), ("gain", gain)):
            if isinstance(value, Tensor) and (
                value.dim() or not value.is_floating_point() or value.device != x.device
            ):
                wanted = f"a number or a floating point tensor of shape () on {x.device}"
                got = f"{value.dtype} of shape {tuple(value.shape)} on {value.device}"
                return f"{backend}: {name} must be {wanted}, got {got}"
        return None

    def scan(
        self, x: Tensor, v: Tensor, decay: Coefficient, gain: Coefficient, rule: Rule
    ) -> tuple[Tensor, Tensor]:
        """The scan of `anystep.nn.neurons` by this backend.

        Errors: what `refusal` says; no step; a v unlike a step of x.
        """
        if (reason := self.refusal(x, decay, gain, rule)) is not None:
            raise UsageError(reason)
        backend, step = f"backend {self.backend!r}", tuple(x.shape[1:])
        if x.dim() < 1 or x.shape[0] < 1:
            raise ValueError(f"{backend}: x must be (T, ...) with T >= 1, got {tuple(x.shape)}")
        if v.shape != x.shape[1:] or v.dtype != x.dtype or v.device != x.device:
            raise ValueError(
                f"{backend}: v must be {step} {x.dtype} on {x.device}, like a step of x, "
                f"got {tuple(v.shape)} {v.dtype} on {v.device}"
            )
        if _traced():
            return torch.ops.anystep.scan(x, v, *_packed(self.backend, decay, gain, rule))
        if not _differentiated(x, v, decay, gain):
            return home(self.backend).forward(x, v, decay, gain, rule)
        return _Scan.apply(x, v, decay, gain, (self.backend, rule))
