"""What memory does to a measurement: an allocator that keeps what is freed, page faults, bytes
saved for backward, peaks.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def _glibc() -> Any | None:
    """The C library if it is glibc and its malloc is the one in use, else None."""
    if platform.libc_ver()[0] != "glibc" or "malloc" in os.environ.get("LD_PRELOAD", ""):
        return None
    return ctypes.CDLL(None)


def pin_allocator() -> str:
    """Make freed memory stay with the process, for good, and say how; or say that it could not be
    done.

    By default glibc maps each large tensor afresh, and the kernel then zeroes it page by page: that
    can cost more than the arithmetic, and hits whoever comes first in a round. Without mmap and
    without trimming, memory is reused once it is warm.
    """
    library = _glibc()
    if library is None:
        return "not pinned: no glibc malloc in this process"
    if not (library.mallopt(M_MMAP_MAX, 0) and library.mallopt(M_TRIM_THRESHOLD, -1)):
        return "not pinned: mallopt refused"
    return "pinned by mallopt (M_MMAP_MAX=0, M_TRIM_THRESHOLD=-1)"


def page_faults() -> tuple[int, int]:
    """(minor, major) page faults of this process so far; (0, 0) on a system that does not count
    them (Windows).
    """
    try:
        import resource
    except ImportError:
        return 0, 0
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt, usage.ru_majflt


def saved_bytes(forward: Callable[[], object], *, without: tuple[Tensor, ...] = ()) -> int:
    """Bytes of all storages that `forward` keeps for backward, each counted once; those of
    `without` (weights) are not.
    """
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage  # held, so that its address is not given to another one
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    known = {tensor.untyped_storage().data_ptr() for tensor in without}
    return sum(storage.nbytes() for address, storage in kept.items() if address not in known)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def peak_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """The most memory that `run` has in use on top of what was there before; None where the system
    does not tell.

    On a CPU it is resident memory, so what a kernel allocates by itself counts too: free memory is
    given back first, and Linux's high-water mark is set to what is left.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    library, clear = _glibc(), Path("/proc/self/clear_refs")
    if library is None:
        return None
    run()  # caches and threads are there now
    library.malloc_trim(0)
    try:
        clear.write_text("5")
    except OSError:  # not Linux, or a sandbox
        return None
    before = _resident("VmRSS")
    run()
    return max(_resident("VmHWM") - before, 0)
