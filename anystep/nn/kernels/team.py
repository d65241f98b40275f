"""Who runs a compiled kernel: this thread alone, torch's own OpenMP threads, or a thread pool.

After a convolution torch's threads spin for some milliseconds, waiting for more work, and a pool
has to fight them for the cores. So:

- torch's threads: on Linux, where torch's OpenMP has GNU's entry point (that of its wheels has);
- the pool: on macOS and Windows, with any other torch, and in a process that was forked, as a data
  loader's workers are. OpenMP's threads do not survive a fork, and libgomp then waits for them for
  ever.

Any number of threads may run a kernel: each claims shares of the work until none is left. Two
Python threads may call at once: libgomp gives each a team.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

Numbers = ctypes.Array[ctypes.c_int64]
Kernel = Callable[[Numbers], None]  # gets the address; ctypes lets go of the GIL around the call

FORKED = 0x40  # Linux: PF_FORKNOEXEC

_pool: ThreadPoolExecutor | None = None
_lock = threading.Lock()


def kernel_at(address: int) -> Kernel:
    """The machine code at `address`, a C function `void f(void *)`, as something to call."""
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


def _is_forked() -> bool:
    """Whether this process was forked and still runs its parent's program."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return bool(int(fields[6]) & FORKED)


@cache
def team() -> Callable[[Kernel, Numbers, int, int], None] | None:
    """`GOMP_parallel` of the OpenMP that torch is linked to; None where the pool is to be used."""
    if sys.platform != "linux" or _is_forked():
        return None
    for name in (None, torch._C.__file__):  # a preloaded OpenMP comes first, for torch as well
        library = ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_NOW)  # never a second copy
        if hasattr(library, "GOMP_parallel"):  # of the library or of those it is linked to
            kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
            parallel = library.GOMP_parallel
            parallel.restype = None
            parallel.argtypes = (kernel, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            return parallel
    return None


def _forget() -> None:
    """A forked child has the objects of its parent but none of its threads."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()
    team.cache_clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forget)


def _helpers() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="anystep")
        return _pool


def run(kernel: Kernel, arguments: Numbers, threads: int) -> None:
    """Run `kernel(arguments)` in 1 or `torch.get_num_threads()` threads, and wait for them."""
    if threads == 1:
        kernel(arguments)
    elif (parallel := team()) is not None:
        parallel(kernel, arguments, threads, 0)
    else:
        waiting = [_helpers().submit(kernel, arguments) for _ in range(threads - 1)]
        kernel(arguments)
        for future in waiting:
            future.result()
