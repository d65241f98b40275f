"""What the fused scans share: what they refuse, their autograd, and the one op that a trace sees.

A backend is a module of this package with

    forward(x, v, decay, gain, rule) -> spikes, last
    backward(x, v, d_spikes | None, d_last | None, decay, gain, rule, learnt) -> dx, dv, sums (2,)

where `sums` holds the gradients of decay and gain if they are `learnt`. Eager calls go through an
`autograd.Function`, because `torch.func.grad` does not work through a custom op; `torch.compile`
and `torch.export` see the ops `anystep::scan` and `anystep::scan_backward`.
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


# A rule and its coefficients as numbers, text and two tensors: a schema knows nothing else
_SETTINGS = (
    "Tensor? decay, Tensor? gain, float decay_number, float gain_number, "
    "str surrogate, float parameter, float v_threshold, float? v_reset, "
    "bool detach_reset, bool fire_at_threshold, str backend"
)
_COUNT = _SETTINGS.count(",") + 1


def _split(coefficient: Coefficient) -> tuple[Tensor | None, float]:
    """(the tensor that is to be kept for backward, the number where there is none)."""
    return (coefficient, 0.0) if isinstance(coefficient, Tensor) else (None, float(coefficient))


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
    decay, gain = decay_number if decay is None else decay, gain_number if gain is None else gain
    return decay, gain, Rule(kind(parameter), *firing), backend


def _forward(x: Tensor, v: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    decay, gain, rule, backend = _unpacked(settings)
    return home(backend).forward(x, v, decay, gain, rule)


def _backward(x: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of v, and of (decay, gain) if they are learnt."""
    decay, gain, rule, backend = _unpacked(rest[:_COUNT])
    d_spikes, d_last, learnt = rest[_COUNT:]
    return home(backend).backward(x, v, d_spikes, d_last, decay, gain, rule, learnt)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, v, decay, gain, *ctx.settings = inputs
    ctx.save_for_backward(x, v, decay, gain)


def _differentiate(
    ctx: Any, back: Callable[..., tuple[Tensor, ...]], d_spikes: Tensor, d_last: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of all that went in, by `_backward` as `back` calls it."""
    x, v, *tensors = ctx.saved_tensors
    wanted = ctx.needs_input_grad[2:4]
    dx, dv, sums = back(x, v, *tensors, *ctx.settings, d_spikes, d_last, any(wanted))
    shares = [  # each in its own dtype, where it is wanted
        share.to(tensor.dtype) if tensor is not None and needed else None
        for share, tensor, needed in zip(sums.unbind(), tensors, wanted, strict=True)
    ]
    return dx, dv, *shares, *[None] * len(ctx.settings)


def _keep_backend(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.backend = inputs[2 + _COUNT - 1]


def _refuse_second(ctx: Any, *gradients: Tensor) -> None:
    raise RuntimeError(f"backend {ctx.backend!r} has no second derivative: take 'reference'")


class _Back(torch.autograd.Function):
    """`_Scan`'s backward, a Function too, so that `torch.func.grad` works."""

    forward = staticmethod(_backward)
    setup_context = staticmethod(_keep_backend)
    backward = staticmethod(_refuse_second)


class _Scan(torch.autograd.Function):
    forward = staticmethod(_forward)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _keep(ctx, inputs, output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _differentiate(ctx, _Back.apply, *gradients)


def _fake(x: Tensor, v: Tensor, *settings: object) -> tuple[Tensor, Tensor]:
    """Memory as `_forward` would return it."""
    strides = step_strides(x)
    return empty_like(x, strides), empty_step(x, strides)


def _fake_backward(x: Tensor, v: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor]:
    return *_fake(x, v), torch.empty(2, dtype=torch.float64, device=x.device)


def _differentiate_op(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    return _differentiate(ctx, torch.ops.anystep.scan_backward, *gradients)


_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)
_TENSORS = "Tensor x, Tensor v"
_GRADIENTS = "Tensor? d_spikes, Tensor? d_last, bool learnt"

_OP = "anystep::scan"
torch.library.define(_OP, f"({_TENSORS}, {_SETTINGS}) -> (Tensor, Tensor)", tags=_TAGS)
torch.library.impl(_OP, "default", _forward)
torch.library.register_fake(_OP, _fake)
torch.library.register_autograd(_OP, _differentiate_op, setup_context=_keep)

_BACK = "anystep::scan_backward"
_SCHEMA = f"({_TENSORS}, {_SETTINGS}, {_GRADIENTS}) -> (Tensor, Tensor, Tensor)"
torch.library.define(_BACK, _SCHEMA, tags=_TAGS)
torch.library.impl(_BACK, "default", _backward)
torch.library.register_fake(_BACK, _fake_backward)
torch.library.register_autograd(_BACK, _refuse_second, setup_context=_keep_backend)


def _traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _differentiated(*arguments: Coefficient) -> bool:
    """Whether autograd or `torch.func` may have to know; a plain call saves 40 microseconds."""
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
        """The scan of `anystep.nn.neurons` by this backend. Errors: what `refusal` says."""
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
        if not _traced() and not _differentiated(x, v, decay, gain):
            return home(self.backend).forward(x, v, decay, gain, rule)
        settings = _packed(self.backend, decay, gain, rule)
        if _traced():
            return torch.ops.anystep.scan(x, v, *settings)
        return _Scan.apply(x, v, *settings)
