"""The scan of `anystep.nn.neurons`, fused over time and compiled with numba, for the CPU.

For float32 and float64. Forward reads x and writes spikes. Backward reads x and the spikes'
gradient, recomputes the membrane and writes the gradient of x: 20 bytes a float32 element in all;
only x and the first membrane are kept in between. The machine code is cached next to this file, in
the user's cache folder if that is read-only, or in memory.

A tensor `(T, N, ...)` is seen as T rows of M elements. Rows are cut into blocks that stay in cache
over all T steps; the grid of blocks depends on the shape alone, so the number of threads (see
`team`) does not change a bit of the result. A kernel is a C function of one pointer, to its `Task`.

A membrane whose elements are all one memory (strides of 0) is read once. At (10, 16, 64, 48, 48)
fresh memory costs more than the arithmetic: `THP_MEM_ALLOC_ENABLE=1` (torch's huge pages) helps.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from numba import extending, types
from torch import Tensor

from anystep.nn.kernels import Rule, team
from anystep.nn.kernels.fused import SLOPES, Coefficient, Reach
from anystep.nn.kernels.layout import (
    Strides,
    empty_like,
    empty_step,
    in_order,
    is_uniform,
    step_strides,
)

KINDS = ("tent", "box", "bell", "logistic")  # of slopes: see `fused.SLOPES`
TENT, BOX, BELL, LOGISTIC = range(4)
BLOCK = 2048  # elements of a row in flight: the membrane stays in the first cache
BUFFER = 256 * 1024  # bytes of membranes (T, block) in backward: they stay in the second cache
ALONE = 32 * 1024  # elements below which waking a thread costs more than it saves
SHARES = 4  # a thread, so that one that was held up leaves work to the others

# A task is 64-bit integers:
#   0, 1    the two counters of `_claim`
#   2-7     sizes: see `_sizes`
#   8-11    modes: the slope's code, soft reset, detach_reset, fire_at_threshold
#   12      the address of the constants: decay, gain, threshold, v_reset; the slope's p, q, r
#   13-     addresses of tensors, some with the distance of two rows or whether all elements are one
Task = ctypes.c_int64 * 26
Constants = ctypes.c_double * 7
Settings = tuple["ctypes.Array[ctypes.c_double]", tuple[int, bool, bool, bool]]
Function = Callable[[Any], None]  # of a task, compiled by numba
intrinsic: Any = extending.intrinsic  # what it makes is called without the context


# What runs inside a kernel: functions that numba compiles


@intrinsic
def _claim(context, task, counter):
    """The next number, from 0, of one of the task's counters: no two threads get the same."""

    def build(target, builder, signature, arguments):
        counters = builder.bitcast(arguments[0], target.get_value_type(types.CPointer(types.int64)))
        one = target.get_constant(types.int64, 1)
        return builder.atomic_rmw("add", builder.gep(counters, [arguments[1]]), one, "monotonic")

    return types.int64(task, types.int64), build


@intrinsic
def _words(context, task):
    """The task as a pointer to what it is. Its own type only says the dtype of the tensors."""
    kind = types.CPointer(types.int64)
    return kind(task), lambda target, builder, _, arguments: builder.bitcast(
        arguments[0], target.get_value_type(kind)
    )


@intrinsic
def _pointer(context, task, address):
    """An address as a pointer to elements of the tensors' dtype."""
    return task(task, address), lambda target, builder, _, arguments: builder.inttoptr(
        arguments[1], target.get_value_type(task)
    )


@intrinsic
def _doubles(context, address):
    kind = types.CPointer(types.float64)
    return kind(address), lambda target, builder, _, arguments: builder.inttoptr(
        arguments[0], target.get_value_type(kind)
    )


@numba.njit
def _array(task, address, size):
    return numba.carray(_pointer(task, address), (size,))


@numba.njit
def _constants(address, like):
    """(decay, gain, threshold, v_reset) and (p, q, r) in the dtype of `like`, as torch rounds."""
    c, kind = numba.carray(_doubles(address), (7,)), like.dtype.type
    return (kind(c[0]), kind(c[1]), kind(c[2]), kind(c[3])), (kind(c[4]), kind(c[5]), kind(c[6]))


@numba.njit
def _sizes(words):
    """Shares of the work, blocks in a share, blocks, elements in a block, elements in a row, T."""
    return words[2], words[3], words[4], words[5], words[6], words[7]


@numba.njit
def _modes(words):
    return words[8], words[9] != 0, words[10] != 0, words[11] != 0


@numba.njit
def _inputs(task, words, steps, size):
    """x, and the first membrane: one number if all its elements are the same memory."""
    x = _array(task, words[13], (steps - 1) * words[14] + size)
    return x, _array(task, words[15], 1 if words[16] else size)


@numba.njit
def _copy(source, target):
    for i in range(target.size):
        target[i] = source[i]


@numba.njit
def _start(source, low, block):
    """Fill a block that begins at element `low` of a row: from the row, or with one number."""
    if source.size == 1:
        block[:] = source[0]
    else:
        _copy(source[low : low + block.size], block)


@numba.njit
def _advance(x, membrane, kept, firing, modes, keep_charge):
    """One step over a block: `membrane` moves on, `kept` gets the spikes, or h if `keep_charge`."""
    # the reset is the reference's (1 - s) h + s v_reset with s put in: infinite h becomes NaN
    _, soft, _, at = modes
    decay, gain, threshold, v_reset = firing
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for i in range(membrane.size):
        h = decay * membrane[i] + gain * x[i]
        u = h - threshold
        fired = (u > zero) | (at & (u == zero))
        if soft:
            membrane[i] = h - threshold if fired else h - zero * threshold
        else:
            membrane[i] = zero * h + v_reset if fired else h + zero * v_reset
        kept[i] = h if keep_charge else (one if fired else zero)


def _forward(task):
    words = numba.carray(_words(task), (26,))
    shares, share, count, block, size, steps = _sizes(words)
    modes, row = _modes(words), words[14]
    x, v = _inputs(task, words, steps, size)
    spikes, last = _array(task, words[17], steps * size), _array(task, words[18], size)
    firing, _ = _constants(words[12], x)
    mine = _claim(task, 1)
    while mine < shares:
        for b in range(mine * share, min(count, (mine + 1) * share)):
            low = b * block
            n = min(block, size - low)
            membrane = last[low : low + n]
            _start(v, low, membrane)
            for t in range(steps):
                current, fired = x[t * row + low :][:n], spikes[t * size + low :][:n]
                _advance(current, membrane, fired, firing, modes, False)
        mine = _claim(task, 1)


@numba.njit(error_model="numpy")
def _slopes(h, slopes, threshold, shape, code):
    p, q, r = shape
    zero, one = h.dtype.type(0), h.dtype.type(1)
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
def _back(h, slopes, d_spikes, dx, dv, firing, modes):
    """One step back over a block: `dv` moves to before the step, `slopes` becomes dh."""
    _, soft, detach, at = modes
    decay, gain, threshold, v_reset = firing
    zero = h.dtype.type(0)
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
    """sums[0] += dh v_before, sums[1] += dh x, in float64: the gradients of decay and gain."""
    for i in range(dh.size):
        sums[0, i] += np.float64(dh[i]) * np.float64(before[i])
        sums[1, i] += np.float64(dh[i]) * np.float64(x[i])


@numba.njit
def _scratch(task, words, block, steps, x):
    """This thread's rows (slopes, h of every step, membranes before it if learnt) and sums."""
    slot, room = _claim(task, 0), 1 + (2 * steps if words[23] else steps)
    rows = _pointer(task, words[25] + slot * room * block * x.itemsize)
    sums = _doubles(words[24] + slot * 16 * block)
    return numba.carray(rows, (room, block)), numba.carray(sums, (2, block))


def _backward(task):
    """The gradients of decay and gain are summed by block: who had which share does not matter."""
    words = numba.carray(_words(task), (26,))
    shares, share, count, block, size, steps = _sizes(words)
    modes, row, d_row, learnt = _modes(words), words[14], words[18], words[23] != 0
    x, v = _inputs(task, words, steps, size)
    d_spikes = _array(task, words[17], (steps - 1) * d_row + size)
    d_last = _array(task, words[19], 1 if words[20] else size)
    dx, dv = _array(task, words[21], steps * size), _array(task, words[22], size)
    totals = numba.carray(_doubles(words[23]), (count, 2))
    firing, shape = _constants(words[12], x)
    scratch, sums = _scratch(task, words, block, steps, x)
    mine = _claim(task, 1)
    while mine < shares:
        for b in range(mine * share, min(count, (mine + 1) * share)):
            low = b * block
            n = min(block, size - low)
            slopes, membrane = scratch[0, :n], dv[low : low + n]
            _start(v, low, membrane)
            for t in range(steps):
                if learnt:
                    _copy(membrane, scratch[1 + steps + t, :n])
                h = scratch[1 + t, :n]
                _advance(x[t * row + low :][:n], membrane, h, firing, modes, True)
            _start(d_last, low, membrane)  # from here on it is the gradient
            if learnt:
                sums[:] = 0
            for t in range(steps - 1, -1, -1):
                h, ds = scratch[1 + t, :n], d_spikes[t * d_row + low :][:n]
                _slopes(h, slopes, firing[2], shape, modes[0])
                _back(h, slopes, ds, dx[t * size + low :][:n], membrane, firing, modes)
                if learnt:
                    _add_products(sums, slopes, scratch[1 + steps + t], x[t * row + low :][:n])
            if learnt:
                totals[b, 0] = totals[b, 1] = 0
                for i in range(n):
                    totals[b, 0] += sums[0, i]
                    totals[b, 1] += sums[1, i]
        mine = _claim(task, 1)


# What calls a kernel

_CODE: list[Any] = []  # machine code lives as long as its owner


def _compiled(function: Function, kind: Any) -> Any:
    signature = types.void(types.CPointer(kind))
    try:
        code = numba.cfunc(signature, cache=True, error_model="numpy")(function)
    except RuntimeError:  # no folder for the cache can be written
        code = numba.cfunc(signature, error_model="numpy")(function)
    _CODE.append(code)
    return code


@cache
def _kernel(function: Function, dtype: torch.dtype) -> team.Kernel:
    """A kernel's machine code for tensors of `dtype`: from disk, or compiled now."""
    kind = types.float32 if dtype == torch.float32 else types.float64
    return team.kernel_at(_compiled(function, kind).address)


def _block(steps: int, itemsize: int) -> int:
    """Elements in a block: a multiple of 16 whose membranes of all steps fill at most `BUFFER`."""
    return max(16, min(BLOCK, BUFFER // (steps * itemsize) // 16 * 16))


def _threads(x: Tensor) -> int:
    return torch.get_num_threads() if x.numel() >= ALONE else 1


def _run(
    function: Function, x: Tensor, threads: int, settings: Settings, tensors: tuple[int, ...]
) -> None:
    """A kernel over all blocks of x. `tensors` is the end of its task."""
    constants, modes = settings
    steps, size = x.shape[0], x.numel() // x.shape[0]
    block = _block(steps, x.element_size())
    count = -(-size // block)
    share = -(-count // (SHARES * threads))
    sizes = -(-count // share), share, count, block, size, steps
    task = Task(0, 0, *sizes, *modes, ctypes.addressof(constants), *tensors)
    team.run(_kernel(function, x.dtype), task, threads)


def _number(coefficient: Coefficient) -> float:
    return coefficient.detach().item() if isinstance(coefficient, Tensor) else coefficient


def _settings(decay: Coefficient, gain: Coefficient, rule: Rule) -> Settings:
    """(constants, modes) of a task."""
    kind, *shape = SLOPES[type(rule.surrogate)](rule.surrogate)
    reset = 0.0 if rule.v_reset is None else rule.v_reset
    constants = Constants(_number(decay), _number(gain), rule.v_threshold, reset, *shape)
    code, soft = KINDS.index(kind), rule.v_reset is None
    return constants, (code, soft, rule.detach_reset, rule.fire_at_threshold)


def _state(v: Tensor, strides: Strides) -> tuple[Tensor, bool]:
    """A step as a kernel reads it: in the order of x, or one element for all."""
    return (v, True) if is_uniform(v) else (in_order(v, strides), False)


def forward(
    x: Tensor, v: Tensor, decay: Coefficient, gain: Coefficient, rule: Rule
) -> tuple[Tensor, Tensor]:
    """Spikes and the last membrane, in memory as the steps of x. No gradient: see `fused`."""
    strides = step_strides(x)
    spikes, last = empty_like(x, strides), empty_step(x, strides)
    if x.numel():
        currents, (before, uniform) = in_order(x, strides), _state(v, strides)
        inputs = currents.data_ptr(), currents.stride(0), before.data_ptr(), uniform
        tensors = *inputs, spikes.data_ptr(), last.data_ptr()
        _run(_forward, x, _threads(x), _settings(decay, gain, rule), tensors)
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
    strides, block, threads = step_strides(x), _block(x.shape[0], x.element_size()), _threads(x)
    dx, dv = empty_like(x, strides), empty_step(x, strides)
    totals = torch.zeros((-(-v.numel() // block) if learnt else 0, 2), dtype=torch.float64)
    if x.numel():
        if d_spikes is None:
            d_spikes = torch.zeros_like(dv).expand(x.shape)
        if d_last is None:
            d_last = x.new_zeros(()).expand(v.shape)
        currents, (before, uniform) = in_order(x, strides), _state(v, strides)
        d_spikes, (d_last, d_uniform) = in_order(d_spikes, strides), _state(d_last, strides)
        # the threads' own memory is made here: a kernel could not say that there is none left
        scratch = x.new_empty(threads, 1 + x.shape[0] * (2 if learnt else 1), block)
        sums = totals.new_empty(threads if learnt else 0, 2, block)
        inputs = currents.data_ptr(), currents.stride(0), before.data_ptr(), uniform
        gradients = d_spikes.data_ptr(), d_spikes.stride(0), d_last.data_ptr(), d_uniform
        outputs = [each.data_ptr() for each in (dx, dv, totals, sums, scratch)]
        _run(_backward, x, threads, _settings(decay, gain, rule), (*inputs, *gradients, *outputs))
    return dx, dv, totals.sum(0)


_REACH = Reach("numba", "cpu", (torch.float32, torch.float64))
refusal, scan = _REACH.refusal, _REACH.scan
