"""The scan of `anystep.neurons`, fused over time and compiled with numba, for float32 and float64 on the CPU.

Forward reads x and writes spikes. Backward reads x and the spikes' gradient, recomputes the membrane and writes the gradient
of x: 20 bytes a float32 element in all; only x and the first membrane are kept in between. The machine code is cached next to
this file, or in the user's cache folder if that is read-only, and compiled once a process where neither can be written.

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
from torch import Tensor

from anystep.kernels import Rule
from anystep.kernels.fused import SLOPES, Coefficient, Reach
from anystep.kernels.layout import Strides, empty_like, empty_step, rows, step_strides

KINDS = ("tent", "box", "bell", "logistic")  # of slopes: see `fused.SLOPES`
TENT, BOX, BELL, LOGISTIC = range(4)
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


def _flat(x: Tensor, strides: Strides) -> tuple[Any, int]:
    """`layout.rows` for numba."""
    flat, row = rows(x, strides)
    return flat.numpy(), row


def _described(x: Tensor, decay: Coefficient, gain: Coefficient, rule: Rule) -> tuple[Any, tuple[int, bool, bool, bool]]:
    """(constants, modes) of a kernel. numpy rounds to the dtype of x just as torch rounds a Python number."""
    kind, p, q, r = SLOPES[type(rule.surrogate)](rule.surrogate)
    soft = rule.v_reset is None
    values = [_number(decay), _number(gain), rule.v_threshold, 0.0 if rule.v_reset is None else rule.v_reset, p, q, r, 1.0]
    dtype = np.float32 if x.dtype == torch.float32 else np.float64
    return np.array(values, dtype), (KINDS.index(kind), soft, rule.detach_reset, rule.fire_at_threshold)


def _number(coefficient: Coefficient) -> float:
    return coefficient.detach().item() if isinstance(coefficient, Tensor) else coefficient


def forward(x: Tensor, v: Tensor, decay: Coefficient, gain: Coefficient, rule: Rule) -> tuple[Tensor, Tensor]:
    """Spikes (T, N, ...) and the last membrane (N, ...), in memory as the steps of x. No gradient: see `fused`."""
    strides = step_strides(x)
    spikes, last = empty_like(x, strides), empty_step(x, strides)
    if x.numel():
        x_flat, row = _flat(x, strides)
        flat = [_flat(tensor, strides)[0] for tensor in (v[None], spikes, last[None])]
        block = _block(x.shape[0], x.element_size())
        arguments = x_flat, row, *flat, *_described(x, decay, gain, rule)
        _run(_forward, arguments, elements=x.numel(), size=v.numel(), block=block)
    return spikes, last


def backward(
    x: Tensor,
    v: Tensor,
    d_spikes: Tensor | None,
    d_last: Tensor | None,
    decay: Coefficient,
    gain: Coefficient,
    rule: Rule,
    learnt: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of v, and of (decay, gain) if they are learnt, else zeros. An absent gradient is one of zeros."""
    strides, block = step_strides(x), _block(x.shape[0], x.element_size())
    dx, dv = empty_like(x, strides), empty_step(x, strides)
    totals = np.zeros((-(-v.numel() // block) if learnt else 0, 2))
    if x.numel():
        zeros = torch.zeros_like(dv)[None]
        x_flat, x_row = _flat(x, strides)
        d_flat, d_row = _flat(zeros.expand(x.shape) if d_spikes is None else d_spikes, strides)
        d_last_flat, _ = _flat(zeros if d_last is None else d_last[None], strides)
        inputs = x_flat, _flat(v[None], strides)[0], d_flat, d_last_flat
        outputs = _flat(dx, strides)[0], _flat(dv[None], strides)[0]
        arguments = inputs, (x_row, d_row), outputs, totals, *_described(x, decay, gain, rule)
        _run(_backward, arguments, elements=x.numel(), size=v.numel(), block=block)
    return dx, dv, torch.from_numpy(totals.sum(0))


_REACH = Reach("numba", "cpu", (torch.float32, torch.float64))
refusal, scan = _REACH.refusal, _REACH.scan
