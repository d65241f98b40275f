"""Spiking neurons: the maths as step functions, sequences as a scan, state passed in and out.

A neuron maps `x (T, N, ...)` and a membrane `v (N, ...)` to spikes `(T, N, ...)` and the membrane
after the last step. Charge, fire and reset are written once, here; `anystep.nn.kernels` holds fused
twins of `scan` with the same signature.

Convention: the leak goes towards 0 and `decay = 1 - 1/tau`. SpikingJelly leaks towards `v_reset`
instead; the two agree for a hard reset to 0 and for a soft reset.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from importlib.util import find_spec
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from anystep._errors import UsageError
from anystep._extras import need
from anystep._lookup import check_arguments, choose
from anystep.nn.activations import ACTIVATIONS
from anystep.nn.kernels import Rule
from anystep.nn.surrogate import Surrogate, spike, surrogate_of

Coefficient = float | Tensor
Scan = Callable[[Tensor, Tensor, Coefficient, Coefficient, Rule], tuple[Tensor, Tensor]]


def charge(x: Tensor, v: Tensor, decay: Coefficient, gain: Coefficient) -> Tensor:
    """h = decay v + gain x. All shapes equal."""
    return decay * v + gain * x


def fire(h: Tensor, rule: Rule) -> Tensor:
    """s = 1[h > v_threshold], with the surrogate's slope as gradient."""
    return spike(h - rule.v_threshold, rule.surrogate, at_threshold=rule.fire_at_threshold)


def reset(h: Tensor, s: Tensor, rule: Rule) -> Tensor:
    """Hard: v = (1 - s) h + s v_reset. Soft: v = h - s v_threshold.

    The gradient takes s for a constant if `rule.detach_reset`.
    """
    s = s.detach() if rule.detach_reset else s
    if rule.v_reset is None:
        return h - s * rule.v_threshold
    return (1 - s) * h + s * rule.v_reset


def scan(
    x: Tensor, v: Tensor, decay: Coefficient, gain: Coefficient, rule: Rule
) -> tuple[Tensor, Tensor]:
    """The reference: charge, fire and reset at every step of `x (T, N, ...)`, from `v (N, ...)`."""
    spikes = []
    for current in x:
        h = charge(current, v, decay, gain)
        s = fire(h, rule)
        v = reset(h, s, rule)
        spikes.append(s)
    return torch.stack(spikes), v


def _numba() -> ModuleType:  # by a statement: torch.compile does not see through import_module
    from anystep.nn.kernels import cpu

    return cpu


def _triton() -> ModuleType:
    need("triton", extra="cuda", purpose="backend 'triton'")
    from anystep.nn.kernels import cuda

    return cuda


BACKENDS: dict[str, Callable[[], Scan]] = {
    "reference": lambda: scan,
    "numba": lambda: _numba().scan,
    "triton": lambda: _triton().scan,
}
HAS_TRITON = find_spec("triton") is not None


def scan_for(backend: str, x: Tensor, decay: Coefficient, gain: Coefficient, rule: Rule) -> Scan:
    """The scan that `backend` names. A named backend runs or raises; only `"auto"` may choose:

    - numba on the CPU, Triton on a CUDA device where it is installed, if their `refusal` lets them;
    - the reference for all else, and always under `torch.export` and `torch.jit.trace`, so that
      what is exported holds plain operations that ONNX and other runtimes know.

    Under `torch.compile`, and under export where a backend is named, a fused scan is the one op
    `anystep::scan`.
    """
    if backend == "graph":  # of an exported network: no gradient, so it is no row of BACKENDS
        from anystep.nn.kernels import graph

        return graph.scan
    if backend != "auto":
        return choose(BACKENDS, backend, "backend")()
    # The flag itself: torch 2.11 compiles `is_exporting()` as True where nothing is exported.
    if torch.compiler._is_exporting_flag or torch.jit.is_tracing():
        return scan
    if x.device.type == "cpu":
        kernels = _numba()
    elif x.device.type == "cuda" and HAS_TRITON:
        kernels = _triton()
    else:
        return scan
    return scan if kernels.refusal(x, decay, gain, rule) else kernels.scan


@dataclass(eq=False, repr=False, kw_only=True)
class Neuron(nn.Module):
    """What all neurons share: a firing rule, an initial membrane, a scan.

    `forward(x (T, N, ...), v (N, ...) | None) -> (spikes (T, N, ...), v (N, ...))`; `v=None` starts
    at `v_init`. `rest(n)` needs the `shape` of one sample's membrane. The arguments are those of
    `Rule`; `backend` is one of `BACKENDS` or "auto".

    A neuron that remembers more than one membrane says how many, as `membranes`: its state is then
    (N, membranes, ...).
    """

    membranes: ClassVar[int] = 1

    v_threshold: float = 0.5
    v_reset: float | None = 0.0
    surrogate: Surrogate | str | dict[str, Any] = "quadratic_gate"
    detach_reset: bool = True
    fire_at_threshold: bool = False
    v_init: float = 0.0
    backend: str = "auto"
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__init__()
        name, threshold = type(self).__name__, self.v_threshold
        if not threshold > 0:
            raise UsageError(f"{name}: v_threshold must be > 0, got {threshold}")
        if self.v_reset is not None and not self.v_reset < threshold:
            raise UsageError(
                f"{name}: v_reset must be None or below v_threshold {threshold}, got {self.v_reset}"
            )
        if self.backend != "auto":
            choose(BACKENDS, self.backend, "backend")
        self.surrogate = surrogate_of(self.surrogate)
        self.rule = Rule(
            self.surrogate, threshold, self.v_reset, self.detach_reset, self.fire_at_threshold
        )

    def coefficients(self) -> tuple[Coefficient, Coefficient]:
        """(decay, gain) of the charge h = decay v + gain x."""
        return 1.0, 1.0

    @property
    def spike_height(self) -> Coefficient:
        """What a spike is worth in the output: spikes are 0 or this."""
        return 1.0

    def rest(
        self, n: int, *, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> Tensor:
        """The membrane `(n, *shape)` before the first step."""
        shared = self.shared_rest(n, dtype=dtype, device=device)
        return shared.clone(memory_format=torch.contiguous_format)

    def shared_rest(
        self, n: int, *, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> Tensor:
        """`rest(n)` as one number that all elements share: nobody may write to it."""
        if self.shape is None:
            raise ValueError(f"{type(self).__name__}: rest(n) needs shape=(...), one sample's")
        start = torch.full((), self.v_init, dtype=dtype, device=device)
        return start.expand(self._state_shape((n, *self.shape)))

    def _state_shape(self, step: tuple[int, ...]) -> tuple[int, ...]:
        """Of the state, for the shape (N, ...) of a step."""
        return step if self.membranes == 1 else (step[0], self.membranes, *step[1:])

    def begin(self, x: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor]:
        """The input and the state that a `forward` starts with. Errors: shapes and dtypes."""
        name = type(self).__name__
        if x.dim() < 2 or x.shape[0] < 1:
            raise ValueError(f"{name}: x must be (T, N, ...) with T >= 1, got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"{name}: x must be floating point, got {x.dtype}")
        if v is not None and torch.is_autocast_enabled(x.device.type):
            x = x.to(v.dtype)  # the membrane adds up over time: it keeps its own precision
        shape = self._state_shape(x.shape[1:])
        if v is None:
            return x, x.new_full((), self.v_init).expand(shape)
        if v.shape != shape or v.dtype != x.dtype:
            raise ValueError(
                f"{name}: the membrane must be {tuple(shape)} {x.dtype}, like a step of x, "
                f"got {tuple(v.shape)} {v.dtype}"
            )
        return x, v

    def forward(self, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        at_rest = v is None
        x, v = self.begin(x, v)
        decay, gain = self.coefficients()
        run = scan_for(self.backend, x, decay, gain, self.rule)
        if at_rest and run is scan:  # it computes in the memory format of its membrane
            v = torch.full_like(x[0], self.v_init)
        return run(x, v, decay, gain, self.rule)

    def extra_repr(self) -> str:
        names = [field.name for field in fields(self) if field.name != "shape"]
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


@dataclass(eq=False, repr=False, kw_only=True)
class IF(Neuron):
    """Integrate and fire: h = v + x."""


@dataclass(eq=False, repr=False, kw_only=True)
class LIF(Neuron):
    """Leaky integrate and fire.

        h = (1 - 1/tau) v + x/tau   with `decay_input` (TKS, BrainCog)
        h = (1 - 1/tau) v + x       without (TET)

    `LIF(tau=2, v_threshold=0.5)` and `LIF(tau=2, v_threshold=1, decay_input=False,
    surrogate="triangle")` (TET) are the same neuron seen in the units v and u = 2v: same spikes,
    and same gradients if `detach_reset` is equal. BrainCog detaches the reset, TET does not.
    Defaults: TKS. Error: `tau` below 1 step.
    """

    tau: float = 2.0
    decay_input: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.tau >= 1 and math.isfinite(self.tau)):
            raise UsageError(f"LIF: tau is in time steps and must be >= 1, got {self.tau}")

    def coefficients(self) -> tuple[Coefficient, Coefficient]:
        return 1 - 1 / self.tau, 1 / self.tau if self.decay_input else 1.0


@dataclass(eq=False, repr=False, kw_only=True)
class PLIF(Neuron):
    """LIF whose 1/tau = sigmoid(w) is learnt from `tau`, one scalar a layer. Fang et al. 2021."""

    tau: float = 2.0
    decay_input: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.tau > 1 and math.isfinite(self.tau)):
            raise UsageError(f"PLIF: tau is in time steps and must be > 1, got {self.tau}")
        self.w = nn.Parameter(torch.tensor(-math.log(self.tau - 1)))

    def coefficients(self) -> tuple[Coefficient, Coefficient]:
        leak = torch.sigmoid(self.w)
        return 1 - leak, leak if self.decay_input else 1.0


SCALES = ("output", "folded")


@dataclass(eq=False, repr=False, kw_only=True)
class ClippedIF(Neuron):
    """The neuron that a trained `QCFS` becomes: IF in units of its clip, from half a threshold,
    with a soft reset.

        h = v + x / clip,    s = 1[h > 1],    v' = h - s,    v_0 = 1/2

    The textbook form has threshold `clip` and v_0 = clip / 2: the same spikes. For a constant x the
    rate over T = `levels` steps is QCFS(x) / clip, exact ties x = (k - 1/2) clip / levels aside,
    where only `fire_at_threshold=True` agrees.

    `clip` is a buffer, not trained, and loads from the twin's `clip` by its key. `scale` says where
    the factor clip of a spike is:

    - `"output"`: the output is clip s, as in Bu et al. 2022;
    - `"folded"`: the output is s, and the weights of the next layer hold the clip, see
      `fuse.fold_scales_`. The buffer `folded` says whether they do; those of a twin do not.

    Defaults are HSD's: `>`, surrogate ds/dx = triangle((v - clip) / clip) / clip, a reset that is
    not detached. Bu et al. fire at the threshold, and their triangle has raw width 1 and is
    multiplied by clip.

    Errors, when weights are loaded: a clip that is not above 0, or weights that hold the clip where
    `scale="output"` would apply it again.
    """

    v_threshold: float = 1.0
    v_reset: float | None = None
    surrogate: Surrogate | str | dict[str, Any] = "triangle"
    detach_reset: bool = False
    v_init: float = 0.5
    clip_init: float = 8.0
    scale: str = "output"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.clip_init > 0 and math.isfinite(self.clip_init)):
            raise UsageError(f"ClippedIF: clip_init must be > 0 and finite, got {self.clip_init}")
        choose(dict.fromkeys(SCALES), self.scale, "scale")
        self.clip = nn.Buffer(torch.tensor(float(self.clip_init)))
        self.folded = nn.Buffer(torch.tensor(False))

    def coefficients(self) -> tuple[Coefficient, Coefficient]:
        return 1.0, self.clip.reciprocal()

    @property
    def spike_height(self) -> Coefficient:
        return self.clip if self.scale == "output" else 1.0

    def forward(self, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        spikes, v = super().forward(x, v)
        return (self.clip * spikes if self.scale == "output" else spikes), v

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        clip = state_dict.get(f"{prefix}clip")
        if clip is not None:
            if not bool(clip > 0):
                raise UsageError(f"ClippedIF: {prefix}clip must be > 0, got {float(clip)}")
            folded = state_dict.setdefault(f"{prefix}folded", torch.tensor(False))
            if bool(folded) and self.scale == "output":
                raise UsageError(
                    f"ClippedIF: the weights after {prefix[:-1]!r} hold its clip: "
                    "make it with scale='folded'"
                )
        super()._load_from_state_dict(state_dict, prefix, *rest)


NEURONS: dict[str, type[Neuron]] = {
    "if": IF,
    "lif": LIF,
    "plif": PLIF,
    "qcfs_if": ClippedIF,
}


def neuron_factory(name: str, **options: Any) -> Callable[..., nn.Module]:
    """`factory(shape=...)` makes one layer's neuron or activation.

    >>> neuron_factory("lif", tau=2.0)(shape=(4, 3, 3)).rest(1).shape
    torch.Size([1, 4, 3, 3])
    """
    kind = choose({**NEURONS, **ACTIVATIONS}, name, "neuron")
    check_arguments(kind, options, f"neuron {name}")
    kind(**options)  # a wrong value is refused here, not deep in a model
    return partial(kind, **options)
