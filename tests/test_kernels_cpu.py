"""What only the numba scan has: threads, forks, blocks that fit the cache, machine code on disk."""

from __future__ import annotations

import os
import threading
import time

import numba.core.caching
import numpy as np
import pytest
import torch
from contracts.test_kernel_contract import RULES, TKS, assert_same, draw, everything

from anystep.kernels import cpu
from anystep.neurons import scan


@pytest.fixture
def many_blocks(monkeypatch):
    """Small tensors are cut and shared as if they were large."""
    monkeypatch.setattr(cpu, "BLOCK", 64)
    monkeypatch.setattr(cpu, "ALONE", 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


def bits(result):
    return [tensor.numpy().tobytes() for tensor in (*result[0], *result[1])]


def test_the_thread_count_does_not_change_a_bit(many_blocks):
    x, v = draw(5, 7, 143), draw(7, 143, seed=1)
    results = []
    for threads in (1, 2, 3, 16):
        torch.set_num_threads(threads)
        results.append(bits(everything(cpu.scan, x, v, rule=RULES[8])))
    assert results[0] == results[1] == results[2] == results[3]
    assert_same(everything(cpu.scan, x, v, rule=RULES[8]), everything(scan, x, v, rule=RULES[8]), rtol=1e-5)


def test_a_long_sequence_shrinks_its_blocks_to_stay_in_cache():
    for steps, itemsize in ((1, 4), (500, 4), (500, 8), (1_000_000, 8)):
        block = cpu._block(steps, itemsize)
        assert block >= 16
        assert block % 16 == 0
        assert block == 16 or block * steps * itemsize <= cpu.BUFFER
    x, v = draw(600, 301), draw(301, seed=1)
    assert_same(everything(cpu.scan, x, v), everything(scan, x, v), rtol=1e-5)


def test_threads_may_scan_at_once(many_blocks):
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_scans_after_its_parent_did(many_blocks):
    x, v = draw(4, 500), torch.zeros(500)
    expected = cpu.scan(x, v, 0.6, 0.7, TKS)[0].numpy()
    assert cpu._pool is not None
    child = os.fork()
    if child == 0:
        same = cpu._pool is None and np.array_equal(cpu.scan(x, v, 0.6, 0.7, TKS)[0].numpy(), expected)
        os._exit(0 if same else 1)
    for _ in range(600):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0


def test_where_no_cache_can_be_written_a_kernel_is_compiled_all_the_same(monkeypatch):
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])

    def twice(x):
        return 2 * x

    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(twice, cache=True)
    assert cpu._compiled(twice)(21) == 42
