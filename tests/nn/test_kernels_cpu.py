"""What only the numba scan has: threads, forks, blocks that fit the cache, machine code on disk."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numba.core.caching
import numpy as np
import pytest
import torch
from contracts.test_kernel_contract import RULES, TKS, assert_same, draw, everything
from numba import types

from anystep.nn.kernels import cpu, team
from anystep.nn.neurons import scan


@pytest.fixture
def many_blocks(monkeypatch):
    """Small tensors are cut and shared as if they were large."""
    monkeypatch.setattr(cpu, "BLOCK", 64)
    monkeypatch.setattr(cpu, "ALONE", 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def bits(result):
    return [tensor.numpy().tobytes() for tensor in (*result[0], *result[1])]


@pytest.fixture(params=["team", "pool"])
def crew(request, many_blocks, monkeypatch):
    """Each of the two that may run a kernel."""
    if request.param == "pool":
        monkeypatch.setattr(team, "team", lambda: None)
    elif team.team() is None:
        pytest.skip("torch's OpenMP cannot be shared here")
    return request.param


def test_neither_the_number_of_threads_nor_who_they_are_changes_a_bit(crew):
    x, v = draw(5, 7, 143), draw(7, 143, seed=1)
    results = []
    for threads in (1, 2, 3, 16):
        torch.set_num_threads(threads)
        results.append(bits(everything(cpu.scan, x, v, rule=RULES[8])))
    assert results[0] == results[1] == results[2] == results[3]
    ours, theirs = (everything(run, x, v, rule=RULES[8]) for run in (cpu.scan, scan))
    assert_same(ours, theirs, rtol=1e-5)


def test_a_long_sequence_is_cut_into_blocks_that_stay_in_cache():
    for steps, itemsize in ((1, 4), (500, 4), (500, 8), (1_000_000, 8)):
        block = cpu._block(steps, itemsize)
        assert block == 16 or (block % 16 == 0 and block * steps * itemsize <= cpu.BUFFER)
    x, v = draw(600, 301), draw(301, seed=1)
    assert_same(everything(cpu.scan, x, v), everything(scan, x, v), rtol=1e-5)


def test_every_thread_asked_for_takes_part_in_the_work(crew):
    """A kernel in Python, that waits until as many threads as were asked for are in it."""
    together, who = threading.Barrier(3, timeout=30), []

    def kernel(address):
        who.append((address, threading.get_ident()))
        together.wait()

    arguments = (ctypes.c_int64 * 1)()
    team.run(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel), arguments, 3)
    assert {address for address, _ in who} == {ctypes.addressof(arguments)}
    assert len({thread for _, thread in who}) == 3


def test_python_threads_may_scan_at_once(crew):
    inputs = [(draw(4, 500 + i, seed=i), draw(500 + i, seed=9)) for i in range(4)]
    expected = [bits(everything(cpu.scan, *pair)) for pair in inputs]
    wrong = []

    def work(i):
        wrong.extend(i for _ in range(15) if bits(everything(cpu.scan, *inputs[i])) != expected[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(sys.platform != "linux", reason="the team is shared on Linux only")
def test_torch_from_a_wheel_shares_its_team():
    assert "ATen parallel backend: OpenMP" in torch.__config__.parallel_info()
    assert team.team() is not None


def ends_well(child):
    """Whether a forked child says 0 within 30 seconds; one that hangs is ended."""
    for _ in range(600):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


@forks
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_scans_after_its_parent_did(crew):
    x, v = draw(4, 500), torch.zeros(500)
    expected = cpu.scan(x, v, 0.6, 0.7, TKS)[0].numpy()
    assert crew == "team" or team._pool is not None
    child = os.fork()
    if child == 0:
        free = team._pool is None and team.team() is None
        said = cpu.scan(x, v, 0.6, 0.7, TKS)[0].numpy()
        os._exit(0 if free and np.array_equal(said, expected) else 1)
    assert ends_well(child)


LATE = """
import os, sys, torch
torch.set_num_threads(3)
torch.ones(1 << 20).exp()  # torch's threads are at work before this package is there
child = os.fork()
if child == 0:
    from anystep.nn.kernels import cpu, team
    from anystep.nn.neurons import LIF
    cpu.ALONE = 0
    os._exit(0 if LIF(backend="numba")(torch.ones(2, 5000))[0].sum() > 0 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@forks
def test_a_child_that_was_forked_before_the_import_scans_as_well():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", LATE], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_where_no_cache_can_be_written_a_kernel_is_compiled_all_the_same(monkeypatch):
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])

    def double(x):
        x[0] = 2 * x[0]

    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(double, cache=True)
    number = ctypes.c_double(21)
    team.kernel_at(cpu._compiled(double, types.float64).address)(ctypes.addressof(number))
    assert number.value == 42
