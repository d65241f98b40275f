"""The scan of `anystep.nn.neurons`, fused over time in Triton, for a CUDA device.

One program owns `BLOCK` elements of a step and walks over all T steps with their membranes in
registers: one launch forward, one backward. The arithmetic of float16 and bfloat16 is float32: the
membrane is rounded once, where it leaves the scan.

Only x and the first membrane are kept. Backward first runs the recursion again and writes the
membranes of its own block to scratch, then walks back over them. The scratch is the memory of the
gradient of x, whose step t is written after the membrane of step t was read (for the two half
precisions, float32 memory of its own). So nothing is unrolled or compiled anew for another T.

decay and gain are compiled in where they are numbers and read through a pointer where they are
tensors: nothing here waits for the device. Their gradients are summed in float64, by program and
then over programs: no atomics, the same bits every time. Multiplications and additions are not
contracted, so forward rounds as the reference does, and backward as forward did.

No GPU has run these kernels yet, unless `results/` holds its record: they have been run by Triton's
interpreter, on the CPU, and compiled for sm_90. No speed is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from anystep.nn.kernels import Rule
from anystep.nn.kernels.fused import SLOPES, Coefficient, Reach
from anystep.nn.kernels.layout import empty_like, empty_step, rows, step_strides

BLOCK = 512  # elements of a program: with 4 warps, 16 bytes of float32 a thread
WARPS = 4

# RULE: (decay, gain, v_threshold, v_reset, detach_reset, fire_at_threshold,
#        kind of slope, p, q, r); see `fused.SLOPES`


@triton.jit
def _coefficient(pointer: tl.tensor, number: tl.constexpr, dtype: tl.constexpr) -> tl.tensor:
    if pointer is None:
        return tl.full((), number, dtype)
    else:
        return tl.load(pointer).to(dtype)


@triton.jit
def _fire(h: tl.tensor, RULE: tl.constexpr) -> tl.tensor:
    u = h - tl.full((), RULE[2], h.dtype)
    if RULE[5]:
        return (u >= 0).to(h.dtype)
    else:
        return (u > 0).to(h.dtype)


@triton.jit
def _reset(h: tl.tensor, s: tl.tensor, RULE: tl.constexpr) -> tl.tensor:
    if RULE[3] is None:
        return h - s * tl.full((), RULE[2], h.dtype)
    else:
        return (1 - s) * h + s * tl.full((), RULE[3], h.dtype)


@triton.jit
def _slope(h: tl.tensor, RULE: tl.constexpr) -> tl.tensor:
    p, q = tl.full((), RULE[7], h.dtype), tl.full((), RULE[8], h.dtype)
    r = tl.full((), RULE[9], h.dtype)
    zero = tl.full((), 0, h.dtype)
    u = h - tl.full((), RULE[2], h.dtype)
    if RULE[6] == "tent":
        tent = p - q * tl.abs(u)
        return r * tl.where(tent < 0, zero, tent)  # this way round a NaN stays a NaN
    elif RULE[6] == "box":
        return tl.where(tl.abs(u) < p, r, zero)
    elif RULE[6] == "bell":
        return p / (1 + (q * u) * (q * u))
    else:
        e = tl.exp(-p * tl.abs(u))
        return p * e / ((1 + e) * (1 + e))


@triton.jit
def _forward(
    tensors: tl.tuple,
    coefficients: tl.tuple,
    sizes: tl.tuple,
    RULE: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    x_at, v_at, spikes_at, last_at = tensors
    row, size, steps = sizes
    decay = _coefficient(coefficients[0], RULE[0], DTYPE)
    gain = _coefficient(coefficients[1], RULE[1], DTYPE)
    here = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = here < size
    x_at += here
    spikes_at += here
    v = tl.load(v_at + here, mask, 0).to(DTYPE)
    for _ in range(steps):  # pointers move by a step: t * size may be more than 32 bits
        h = decay * v + gain * tl.load(x_at, mask, 0).to(DTYPE)
        s = _fire(h, RULE)
        tl.store(spikes_at, s, mask)
        v = _reset(h, s, RULE)
        x_at += row
        spikes_at += size
    tl.store(last_at + here, v, mask)


@triton.jit
def _replay(
    inputs: tl.tuple,
    charges_at: tl.tensor,
    coefficients: tl.tuple,
    sizes: tl.tuple,
    RULE: tl.constexpr,
    DTYPE: tl.constexpr,
) -> None:
    """Forward once more over a block, from its own pointers: h of every step to `charges_at`."""
    x_at, v_at, mask = inputs
    row, size, steps = sizes
    decay, gain = coefficients
    v = tl.load(v_at, mask, 0).to(DTYPE)
    for _ in range(steps):
        h = decay * v + gain * tl.load(x_at, mask, 0).to(DTYPE)
        tl.store(charges_at, h, mask)
        v = _reset(h, _fire(h, RULE), RULE)
        x_at += row
        charges_at += size


@triton.jit
def _back(h: tl.tensor, ds: tl.tensor, dv: tl.tensor, RULE: tl.constexpr) -> tl.tensor:
    """The gradient of h from those of the spike and of the membrane after the step."""
    s = _fire(h, RULE)
    if RULE[3] is None:
        if not RULE[4]:
            ds += dv * -tl.full((), RULE[2], h.dtype)
    else:
        if not RULE[4]:
            ds += dv * (tl.full((), RULE[3], h.dtype) - h)
        dv = (1 - s) * dv
    return ds * _slope(h, RULE) + dv


@triton.jit
def _backward(
    inputs: tl.tuple,
    outputs: tl.tuple,
    coefficients: tl.tuple,
    sizes: tl.tuple,
    RULE: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """`totals (programs, 2)`: each program's share of the gradients of decay and gain, or None."""
    x_at, v_at, d_spikes_at, d_last_at = inputs
    dx_at, dv_at, charges_at, totals_at = outputs
    row, d_row, size, steps = sizes
    decay = _coefficient(coefficients[0], RULE[0], DTYPE)
    gain = _coefficient(coefficients[1], RULE[1], DTYPE)
    here = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = here < size
    block = x_at + here, v_at + here, mask
    _replay(block, charges_at + here, (decay, gain), (row, size, steps), RULE, DTYPE)
    tl.debug_barrier()  # another thread of this program may read what this one wrote
    end = tl.full((), steps, tl.int64)  # the walk starts after the last step
    x_at += here + end * row
    dx_at += here + end * size
    charges_at += here + end * size
    if d_spikes_at is not None:
        d_spikes_at += here + end * d_row
    dv = tl.full((BLOCK,), 0, DTYPE)
    if d_last_at is not None:
        dv = tl.load(d_last_at + here, mask, 0).to(DTYPE)
    d_decay, d_gain = tl.full((BLOCK,), 0, tl.float64), tl.full((BLOCK,), 0, tl.float64)
    for done in range(steps):
        x_at -= row
        dx_at -= size
        charges_at -= size
        h = tl.load(charges_at, mask, 0)
        ds = tl.full((BLOCK,), 0, DTYPE)
        if d_spikes_at is not None:
            d_spikes_at -= d_row
            ds = tl.load(d_spikes_at, mask, 0).to(DTYPE)
        dh = _back(h, ds, dv, RULE)
        if totals_at is not None:
            # the membrane after the step before, if there is one (one comparison: two joined by &
            # are numbers to the interpreter of Triton 3.9, and no load takes numbers as a mask)
            h = tl.load(charges_at - size, here < tl.where(done < steps - 1, size, 0), 0)
            rest = tl.load(v_at + here, mask, 0).to(DTYPE)
            before = tl.where(done < steps - 1, _reset(h, _fire(h, RULE), RULE), rest)
            d_decay += dh.to(tl.float64) * before.to(tl.float64)
            d_gain += dh.to(tl.float64) * tl.load(x_at, mask, 0).to(tl.float64)
        tl.store(dx_at, gain * dh, mask)
        dv = decay * dh
    tl.store(dv_at + here, dv, mask)
    if totals_at is not None:
        tl.store(totals_at + tl.program_id(0) * 2, tl.sum(d_decay))
        tl.store(totals_at + tl.program_id(0) * 2 + 1, tl.sum(d_gain))


def described(decay: Coefficient, gain: Coefficient, rule: Rule) -> tuple[Any, ...]:
    """What a kernel is compiled for, besides dtypes: see RULE above."""
    numbers = [None if isinstance(c, Tensor) else float(c) for c in (decay, gain)]
    reset = None if rule.v_reset is None else float(rule.v_reset)
    kind, *parameters = SLOPES[type(rule.surrogate)](rule.surrogate)
    firing = float(rule.v_threshold), reset, rule.detach_reset, rule.fire_at_threshold
    return *numbers, *firing, kind, *map(float, parameters)


def _precision(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _programs(x: Tensor) -> int:
    return -(-math.prod(x.shape[1:]) // BLOCK)


def _launch(
    kernel: Any,
    x: Tensor,
    tensors: Sequence[tuple[Tensor | None, ...]],
    sizes: tuple[int, ...],
    decay: Coefficient,
    gain: Coefficient,
    rule: Rule,
) -> None:
    pointers = tuple(c if isinstance(c, Tensor) else None for c in (decay, gain))
    compiled_in = {
        "RULE": described(decay, gain, rule),
        "DTYPE": tl.float64 if _precision(x) == torch.float64 else tl.float32,
        "BLOCK": BLOCK,
    }
    with torch.cuda.device_of(x):
        kernel[(_programs(x),)](
            *tensors, pointers, sizes, **compiled_in, num_warps=WARPS, enable_fp_fusion=False
        )


def forward(
    x: Tensor, v: Tensor, decay: Coefficient, gain: Coefficient, rule: Rule
) -> tuple[Tensor, Tensor]:
    """Spikes and the last membrane, in memory as the steps of x. No gradient: see `fused`."""
    strides = step_strides(x)
    spikes, last = empty_like(x, strides), empty_step(x, strides)
    if x.numel():
        x_flat, row = rows(x, strides)
        tensors = x_flat, rows(v[None], strides)[0], spikes, last
        sizes = row, v.numel(), x.shape[0]
        _launch(_forward, x, (tensors,), sizes, decay, gain, rule)
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
    """Gradients of x, of v, and of (decay, gain), zeros unless `learnt`. None stands for zeros."""
    strides = step_strides(x)
    dx, dv = empty_like(x, strides), empty_step(x, strides)
    totals = torch.zeros((_programs(x) if learnt else 0, 2), dtype=torch.float64, device=x.device)
    if x.numel():
        x_flat, row = rows(x, strides)
        d_flat, d_row = (None, 0) if d_spikes is None else rows(d_spikes, strides)
        last_flat = None if d_last is None else rows(d_last[None], strides)[0]
        inputs = x_flat, rows(v[None], strides)[0], d_flat, last_flat
        charges = dx
        if dx.dtype != _precision(x):
            charges = torch.empty(dx.shape, dtype=_precision(x), device=x.device)
        sizes = row, d_row, v.numel(), x.shape[0]
        outputs = dx, dv, charges, totals if learnt else None
        _launch(_backward, x, (inputs, outputs), sizes, decay, gain, rule)
    return dx, dv, totals.sum(0)


INTERPRETED = not isinstance(_forward, triton.runtime.JITFunction)  # TRITON_INTERPRET=1, for tests
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_REACH = Reach("triton", "cpu" if INTERPRETED else "cuda", _DTYPES)
refusal, scan = _REACH.refusal, _REACH.scan
