"""A spike forward, a surrogate slope backward.

The spike s = 1[u > 0] of an overshoot u = v - threshold has no useful derivative. A surrogate says
what stands in its place: `slope(u)`, used by the reference and matched by the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from anystep._errors import UsageError
from anystep._lookup import check_arguments, choose


@dataclass(frozen=True)
class Surrogate:
    """A slope ds/du with one positive shape parameter, its only field."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise UsageError(f"{type(self).__name__}: {field.name} must be > 0, got {value}")

    def slope(self, u: Tensor) -> Tensor:
        """ds/du at the overshoot `u`; same shape."""
        raise TypeError(f"{type(self).__name__} defines no slope(u)")


@dataclass(frozen=True)
class QuadraticGate(Surrogate):
    """ds/du = max(0, alpha - alpha^2 |u|): a tent of height alpha over |u| < 1/alpha.

    The gate of TKS (BrainCog's `QGateGrad`, alpha = 2), after Bi-Real Net (Liu et al. 2018).
    """

    alpha: float = 2.0

    def slope(self, u: Tensor) -> Tensor:
        return (self.alpha - self.alpha**2 * u.abs()).clamp(min=0)


@dataclass(frozen=True)
class Triangle(Surrogate):
    """ds/du = max(0, width - |u|) / width^2, which is QuadraticGate(1 / width).

    TET and HSD (`ZIF`, width = 1).
    """

    width: float = 1.0

    def slope(self, u: Tensor) -> Tensor:
        return (self.width - u.abs()).clamp(min=0) / self.width**2


@dataclass(frozen=True)
class Rectangle(Surrogate):
    """ds/du = 1[|u| < width / 2] / width. STBP (Wu et al. 2018), NDA."""

    width: float = 1.0

    def slope(self, u: Tensor) -> Tensor:
        return (u.abs() < self.width / 2).to(u.dtype) / self.width


@dataclass(frozen=True)
class Arctan(Surrogate):
    """ds/du = (alpha / 2) / (1 + (pi alpha u / 2)^2). PLIF (Fang et al. 2021), alpha = 2."""

    alpha: float = 2.0

    def slope(self, u: Tensor) -> Tensor:
        return (self.alpha / 2) / (1 + (math.pi / 2 * self.alpha * u) ** 2)


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """ds/du = alpha g (1 - g) with g = 1 / (1 + exp(-alpha u)), alpha = 4."""

    alpha: float = 4.0

    def slope(self, u: Tensor) -> Tensor:
        gate = torch.sigmoid(self.alpha * u)
        return self.alpha * gate * (1 - gate)


SURROGATES: dict[str, type[Surrogate]] = {
    "quadratic_gate": QuadraticGate,
    "triangle": Triangle,
    "rectangle": Rectangle,
    "arctan": Arctan,
    "sigmoid": Sigmoid,
}


def surrogate_of(spec: Surrogate | str | Mapping[str, Any]) -> Surrogate:
    """A surrogate from itself, its name, or `{"name": ..., parameter: value}` as a recipe has it.

    >>> surrogate_of({"name": "triangle", "width": 0.5})
    Triangle(width=0.5)
    """
    if isinstance(spec, Surrogate):
        return spec
    if not isinstance(spec, (str, Mapping)):
        raise UsageError(f"a surrogate is a name or a mapping with a name, got {spec!r}")
    options = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("name", "")
    kind = choose(SURROGATES, name, "surrogate")
    check_arguments(kind, options, f"surrogate {name}")
    return kind(**options)


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(u: Tensor, surrogate: Surrogate, at_threshold: bool) -> Tensor:
        return (u >= 0 if at_threshold else u > 0).to(u.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Surrogate, bool], output: Tensor) -> None:
        u, ctx.surrogate, _ = inputs
        ctx.save_for_backward(u)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (u,) = ctx.saved_tensors
        return gradients[0] * ctx.surrogate.slope(u), None, None


def spike(u: Tensor, surrogate: Surrogate, *, at_threshold: bool = False) -> Tensor:
    """s = 1[u > 0], or 1[u >= 0] with `at_threshold`, whose gradient is `surrogate.slope(u)`.

    >>> u = torch.tensor([-0.5, 0.0, 0.5], requires_grad=True)
    >>> spike(u, Triangle()).sum().backward()
    >>> u.grad
    tensor([0.5000, 1.0000, 0.5000])
    """
    return _Spike.apply(u, surrogate, at_threshold)
