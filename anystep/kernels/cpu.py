"""The scan of `anystep.neurons`, fused over time and compiled with numba, for float32 and float64 on the CPU.

Forward reads x and writes spikes. Backward reads x and the spikes' gradient, recomputes the membrane and writes the gradient
of x: 20 bytes a float32 element in all, and only x and the first membrane are kept in between. The machine code is cached next
to this file, or in the user's cache folder if that is read-only, and compiled once a process where neither can be written.

A tensor `(T, N, ...)` is seen as T rows of M elements. Rows are cut into blocks that stay in cache over all T steps; the grid
of blocks depends on the shape alone, so the thread count does not change a bit of the result.
Parallelism is our own thread pool: numba's aborts when two threads enter it and does not survive a fork.
At (10, 16, 64, 48, 48) fresh memory costs more than the arithmetic: `THP_MEM_ALLOC_ENABLE=1` (torch's huge pages) helps.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn

from anystep.kernels import Rule
from anystep.surrogate import SURROGATES, Arctan, QuadraticGate, Rectangle, Sigmoid, Surrogate, Triangle

Strides = tuple[int, ...]

TENT, BOX, BELL, LOGISTIC = range(4)
_SLOPES: dict[type[Surrogate], Callable[[Any], tuple[int, float, float, float]]] = {
    QuadraticGate: lambda s: (TENT, s.alpha, s.alpha**2, 1.0),
    Triangle: lambda s: (TENT, s.width, 1.0, 1 / s.width**2),
    Rectangle: lambda s: (BOX, s.width / 2, 0.0, 1 / s.width),
    Arctan: lambda s: (BELL, s.alpha / 2, math.pi / 2 * s.alpha, 0.0),
    Sigmoid: lambda s: (LOGISTIC, s.alpha, 0.0, 0.0),
}
BLOCK = 2048  # elements of a row in flight: the membrane stays in the first cache
BUFFER = 256 * 1024  # bytes of recomputed membranes (T, block) in backward: they stay in the second cache
ALONE = 256 * 1024  # elements below which waking a thread (about 50 us) costs more than it saves


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(function, nogil=True, error_model="numpy", cache=True)
    except RuntimeError:  # no folder for the cache can be written
        return numba.njit(function, nogil=True, error_model="numpy")


# constants of a kernel, in the dtype of x: decay, gain, threshold, v_reset, the slope's p, q, r, and one
# modes of a kernel: (slope's code, soft, detach, at_threshold); blocks: (first, stop, size)


@numba.njit
def _copy(source, target):
    for i in range(target.size):
        target[i] = source[i]


@numba.njit
def _advance(x, membrane, kept, constants, modes, keep_charge):
    """One step over a block: `membrane` moves on, `kept` receives the spikes, or h if `keep_charge`.

    The reset is the reference's (1 - s) h + s v_reset with s put in: an infinite h becomes NaN in both.
    """
    _, soft, _, at = modes
    decay, gain, threshold, v_reset, one = constants[0], constants[1], constants[2], constants[3], constants[7]
    zero = one - one
    for i in range(membrane.size):
        h = decay * membrane[i] + gain * x[i]
        u = h - threshold
        fired = (u > zero) | (at & (u == zero))
        if soft:
            membrane[i] = h - threshold if fired else h - zero * threshold
        else:
            membrane[i] = zero * h + v_reset if fired else h + zero * v_reset
        kept[i] = h if keep_charge else (one if fired else zero)


@_compiled
def _forward(x, row, v, spikes, last, constants, modes, blocks):
    first, stop, block = blocks
    size = v.size
    for b in range(first, stop):
        low = b * block
        n = min(block, size - low)
        membrane = last[low : low + n]
        _copy(v[low : low + n], membrane)
        for t in range(spikes.size // size):
            _advance(x[t * row + low :][:n], membrane, spikes[t * size + low :][:n], constants, modes, False)


@numba.njit(error_model="numpy")
def _slopes(h, slopes, constants, code):
    threshold, p, q, r, one = constants[2], constants[4], constants[5], constants[6], constants[7]
    zero = one - one
    if code == TENT:
        for i in range(h.size):
            tent = p - q * abs(h[i] - threshold)
            slopes[i] = (zero if tent < zero else tent) * r  # this way round a NaN stays a NaN
    elif code == BOX:
        for i in range(h.size):
            slopes[i] = r if abs(h[i] - threshold) < p else zero
    elif code == BELL:
        for i in range(h.size):
            w = q * (h[i] - threshold)
            slopes[i] = p / (one + w * w)
    else:
        for i in range(h.size):
            e = math.exp(-p * abs(h[i] - threshold))
            slopes[i] = p * e / ((one + e) * (one + e))


@numba.njit
def _back(h, slopes, d_spikes, dx, dv, constants, modes):
    """One step backwards over a block: `dv` goes from after the step to before it; `slopes` becomes the gradient of h."""
    _, soft, detach, at = modes
    decay, gain, threshold, v_reset, one = constants[0], constants[1], constants[2], constants[3], constants[7]
    zero = one - one
    for i in range(h.size):
        u = h[i] - threshold
        ds, kept = d_spikes[i], dv[i]
        if not detach:
            ds += kept * (-threshold if soft else v_reset - h[i])
        if not soft:
            kept = zero * kept if (u > zero) | (at & (u == zero)) else kept
        dh = ds * slopes[i] + kept
        slopes[i] = dh
        dx[i] = gain * dh
        dv[i] = decay * dh


@numba.njit
def _add_products(sums, dh, before, x):
    """sums[0] += dh v_before, sums[1] += dh x, in float64: the gradients of decay and gain, element by element."""
    for i in range(dh.size):
        sums[0, i] += np.float64(dh[i]) * np.float64(before[i])
        sums[1, i] += np.float64(dh[i]) * np.float64(x[i])


@_compiled
def _backward(inputs, rows, outputs, totals, constants, modes, blocks):
    """`totals (blocks, 2)`: each block's share of the gradients of decay and gain; (0, 2) if nobody asks for them."""
    x, v, d_spikes, d_last = inputs
    dx, dv = outputs
    first, stop, block = blocks
    size = v.size
    steps = dx.size // size
    charges, befores = np.empty((steps, block), v.dtype), np.empty((steps if len(totals) else 0, block), v.dtype)
    scratch = np.empty((2, block), v.dtype)
    for b in range(first, stop):
        low = b * block
        n = min(block, size - low)
        membrane, slopes = scratch[0, :n], scratch[1, :n]
        _copy(v[low : low + n], membrane)
        for t in range(steps):
            if len(totals):
                _copy(membrane, befores[t, :n])
            _advance(x[t * rows[0] + low :][:n], membrane, charges[t, :n], constants, modes, True)
        back = dv[low : low + n]
        _copy(d_last[low : low + n], back)
        sums = np.zeros((2, n if len(totals) else 0))
        for t in range(steps - 1, -1, -1):
            _slopes(charges[t, :n], slopes, constants, modes[0])
            _back(charges[t, :n], slopes, d_spikes[t * rows[1] + low :][:n], dx[t * size + low :][:n], back, constants, modes)
            if len(totals):
                _add_products(sums, slopes, befores[t], x[t * rows[0] + low :][:n])
        if len(totals):
            for i in range(n):
                totals[b, 0] += sums[0, i]
                totals[b, 1] += sums[1, i]


_pool: ThreadPoolExecutor | None = None
_lock = threading.Lock()


def _forget_pool() -> None:
    """A forked child has the pool object but none of its threads."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forget_pool)


def _helpers() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="anystep")
        return _pool


def _block(steps: int, itemsize: int) -> int:
    """Elements in a block: a multiple of 16 whose membranes of all steps fill at most `BUFFER`."""
    return max(16, min(BLOCK, BUFFER // (steps * itemsize) // 16 * 16))


def _run(kernel: Callable[..., Any], arguments: tuple[Any, ...], *, elements: int, size: int, block: int) -> None:
    """The kernel over all blocks of `size`, shared by up to `torch.get_num_threads()` threads, this one included."""
    count = -(-size // block)
    workers = min(torch.get_num_threads(), count) if elements >= ALONE else 1
    edges = [count * i // workers for i in range(workers + 1)]
    mine, *others = [(first, stop, block) for first, stop in pairwise(edges)]
    waiting = [_helpers().submit(kernel, *arguments, share) for share in others]
    kernel(*arguments, mine)
    for future in waiting:
        future.result()


def _step_strides(x: Tensor) -> Strides:
    """The strides of one step of x if its elements lie without a gap in any order, else those of a contiguous copy."""
    shape = x.shape[1:]
    expected = 1
    for size, stride in sorted(zip(shape, x.stride()[1:], strict=True), key=lambda pair: pair[1]):
        if size == 1:
            continue
        if stride != expected:
            return torch.empty(shape, device="meta").stride()
        expected *= size
    return x.stride()[1:]


def _empty_like(x: Tensor, strides: Strides) -> Tensor:
    return torch.empty_strided(x.shape, (math.prod(x.shape[1:]), *strides), dtype=x.dtype, device=x.device)


def _empty_step(x: Tensor, strides: Strides) -> Tensor:
    return torch.empty_strided(x.shape[1:], strides, dtype=x.dtype, device=x.device)


def _rows(x: Tensor, strides: Strides) -> tuple[Any, int]:
    """`x (T, ...)` as a flat array and the distance of two steps in it (0 if all are the same).

    A view where each step lies in memory as `strides` say, else a view of a copy.
    """
    if any(size > 1 and a != b for size, a, b in zip(x.shape[1:], x.stride()[1:], strides, strict=True)):
        x = _empty_like(x, strides).copy_(x)
    row = x.stride(0)
    span = (x.shape[0] - 1) * row + math.prod(x.shape[1:])
    return x.as_strided((span,), (1,)).numpy(), row


def _described(x: Tensor, decay: float, gain: float, rule: Rule) -> tuple[Any, tuple[int, bool, bool, bool]]:
    """(constants, modes) of a kernel. numpy rounds to the dtype of x just as torch rounds a Python number."""
    code, p, q, r = _SLOPES[type(rule.surrogate)](rule.surrogate)
    soft = rule.v_reset is None
    values = [decay, gain, rule.v_threshold, 0.0 if rule.v_reset is None else rule.v_reset, p, q, r, 1.0]
    dtype = np.float32 if x.dtype == torch.float32 else np.float64
    return np.array(values, dtype), (code, soft, rule.detach_reset, rule.fire_at_threshold)


def _number(coefficient: float | Tensor) -> float:
    return coefficient.detach().item() if isinstance(coefficient, Tensor) else coefficient


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, v: Tensor, decay: float | Tensor, gain: float | Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
        strides = _step_strides(x)
        spikes, last = _empty_like(x, strides), _empty_step(x, strides)
        if x.numel():
            x_flat, row = _rows(x, strides)
            constants, modes = _described(x, _number(decay), _number(gain), rule)
            flat = [_rows(tensor, strides)[0] for tensor in (v[None], spikes, last[None])]
            block = _block(x.shape[0], x.element_size())
            _run(_forward, (x_flat, row, *flat, constants, modes), elements=x.numel(), size=v.numel(), block=block)
        return spikes, last

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, v, decay, gain, ctx.rule = inputs
        ctx.coefficients = _number(decay), _number(gain)
        ctx.kinds = [c.dtype if isinstance(c, Tensor) else None for c in (decay, gain)]
        ctx.save_for_backward(x, v)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, d_spikes: Tensor | None, d_last: Tensor | None) -> tuple[Tensor | None, ...]:
        learnt = any(ctx.needs_input_grad[2:4])
        dx, dv, sums = _Back.apply(*ctx.saved_tensors, d_spikes, d_last, (*ctx.coefficients, ctx.rule, learnt))
        shares = zip(sums, ctx.kinds, ctx.needs_input_grad[2:4], strict=True)
        return dx, dv, *(share.to(kind) if wanted else None for share, kind, wanted in shares), None


class _Back(torch.autograd.Function):
    """The backward of `_Scan`; a Function of its own, so that `torch.func.grad` works and a second derivative is refused."""

    @staticmethod
    def forward(
        x: Tensor, v: Tensor, d_spikes: Tensor | None, d_last: Tensor | None, how: tuple[float, float, Rule, bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, of v, and of (decay, gain) if `how` asks for them. An absent gradient is a row of zeros."""
        decay, gain, rule, learnt = how
        strides, block = _step_strides(x), _block(x.shape[0], x.element_size())
        dx, dv = _empty_like(x, strides), _empty_step(x, strides)
        totals = np.zeros((-(-v.numel() // block) if learnt else 0, 2))
        if x.numel():
            zeros = torch.zeros_like(dv)[None]
            x_flat, x_row = _rows(x, strides)
            d_flat, d_row = _rows(zeros.expand(x.shape) if d_spikes is None else d_spikes, strides)
            d_last_flat, _ = _rows(zeros if d_last is None else d_last[None], strides)
            inputs = x_flat, _rows(v[None], strides)[0], d_flat, d_last_flat
            outputs = _rows(dx, strides)[0], _rows(dv[None], strides)[0]
            arguments = inputs, (x_row, d_row), outputs, totals, *_described(x, decay, gain, rule)
            _run(_backward, arguments, elements=x.numel(), size=v.numel(), block=block)
        return dx, dv, torch.from_numpy(totals.sum(0))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        raise RuntimeError("backend 'numba' has no second derivative: make the neuron with backend='reference'")


def refusal(x: Tensor, decay: float | Tensor, gain: float | Tensor, rule: Rule) -> str | None:
    """Why this scan cannot run on these arguments, or None if it can."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return f"backend 'numba' runs float32 and float64 on the CPU, got {x.dtype} on {x.device}"
    if type(x) not in (Tensor, nn.Parameter):
        return f"backend 'numba' runs plain tensors, got {type(x).__name__}"
    if type(rule.surrogate) not in _SLOPES:
        known = ", ".join(SURROGATES)
        return f"backend 'numba' has no kernel for the surrogate {type(rule.surrogate).__name__}. Known: {known}"
    for name, value in (("decay", decay), ("gain", gain)):
        if isinstance(value, Tensor) and (value.dim() or not value.is_floating_point() or value.device.type != "cpu"):
            kind = f"{value.dtype} of shape {tuple(value.shape)} on {value.device}"
            return f"backend 'numba': {name} must be a number or a floating point tensor of shape () on the CPU, got {kind}"
    return None


def scan(x: Tensor, v: Tensor, decay: float | Tensor, gain: float | Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """Charge, fire, reset for every step of `x (T, N, ...)` from the membrane `v (N, ...)`; see `anystep.neurons.scan`.

    Spikes and membrane lie in memory as the steps of x do (channels_last stays so). The membrane is recomputed in backward,
    so second derivatives are refused. `ValueError` for what `refusal` names and for a membrane unlike a step of x.
    """
    if (reason := refusal(x, decay, gain, rule)) is not None:
        raise ValueError(reason)
    if x.dim() < 1 or x.shape[0] < 1:
        raise ValueError(f"backend 'numba': x must be (T, ...) with T >= 1, got shape {tuple(x.shape)}")
    if v.shape != x.shape[1:] or v.dtype != x.dtype or v.device != x.device:
        raise ValueError(
            f"backend 'numba': v must be {tuple(x.shape[1:])} {x.dtype}, like a step of x, got {tuple(v.shape)} {v.dtype}"
        )
    return _Scan.apply(x, v, decay, gain, rule)
