"""The Triton kernels without a GPU: in Triton's interpreter, and as its compiler makes them.

Neither is a run on a GPU. There, `test_kernel_contract.py` holds them to the reference by itself.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from anystep.nn.kernels import Rule
from anystep.nn.surrogate import SURROGATES

pytest.importorskip("triton")
CONTRACT = Path(__file__).with_name("test_kernel_contract.py")
pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="this session is the interpreter's"
)


def test_the_kernels_keep_the_kernel_contract_in_the_interpreter():
    """A process of its own: Triton decides when it is imported whether to interpret."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore::RuntimeWarning", str(CONTRACT)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-5000:]
    outcome = done.stdout.strip().splitlines()[-1]
    assert re.match(r"\d{2,} passed(, \d+ warnings?)? in", outcome), outcome


class AnH200:
    """What Triton asks a driver before it compiles."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=None):
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """The kernels of all launches, compiled and not launched, by the path that a launch takes."""
    import triton

    from anystep.nn.kernels import cuda

    kernels, run = [], triton.runtime.JITFunction.run

    def compile_only(self, *arguments, grid, warmup, **options):
        kernels.append(run(self, *arguments, grid=grid, warmup=True, **options))

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton.runtime.JITFunction, "run", compile_only)
    for kernel in (cuda._forward, cuda._backward):
        fresh = type(kernel.device_caches)(kernel.create_binder)
        monkeypatch.setattr(kernel, "device_caches", fresh)
    monkeypatch.setattr(triton.runtime.driver, "_active", AnH200())
    return kernels


def both(x, rule, *, learnt, d_spikes=True, d_last=True):
    from anystep.nn.kernels import cuda

    decay, gain = (torch.tensor(0.6), torch.tensor(0.7)) if learnt else (0.6, 0.7)
    cuda.forward(x, x[0], decay, gain, rule)
    gradients = x if d_spikes else None, x[0] if d_last else None
    cuda.backward(x, x[0], *gradients, decay, gain, rule, learnt)


@pytest.mark.parametrize("i", range(len(SURROGATES)), ids=list(SURROGATES))
def test_every_rule_compiles_for_a_gpu(compiled, i):
    rule = Rule(list(SURROGATES.values())[i](), 0.5, None if i % 2 else -0.1, i % 3 == 0, i > 2)
    both(torch.zeros(3, 4, 64), rule, learnt=i in (1, 4), d_last=i > 0, d_spikes=i != 3)
    assert [kernel.name for kernel in compiled] == ["_forward", "_backward"]
    assert all(len(kernel.asm["cubin"]) > 1000 for kernel in compiled)


SIZES = [(shape, torch.float32) for shape in ((1, 1), (5, 1), (16, 3, 5, 7))]
DTYPES = [((3, 4, 64), dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64)]


@pytest.mark.parametrize(("shape", "dtype"), [*SIZES, *DTYPES], ids=str)
def test_every_dtype_and_sizes_that_triton_compiles_in_compile(compiled, shape, dtype):
    rule = Rule(SURROGATES["sigmoid"](), 0.5, 0.0, False, False)
    both(torch.zeros(shape, dtype=dtype), rule, learnt=True)
    assert [len(kernel.asm["cubin"]) > 1000 for kernel in compiled] == [True, True]


def test_a_step_is_read_in_16_bytes_a_thread_and_sums_are_rounded_as_in_the_reference(compiled):
    rule = Rule(SURROGATES["quadratic_gate"](), 0.5, 0.0, False, False)
    both(torch.zeros(3, 16, 64), rule, learnt=False)
    for kernel in compiled:
        code = kernel.asm["ptx"]
        moves = set(re.findall(r"(?:ld|st)\.global\S*", code))
        assert moves == {"ld.global.v4.b32", "st.global.v4.b32"}
        assert not re.search(r"\bfma\.", code)
        assert kernel.metadata.enable_fp_fusion is False
    both(torch.zeros(3, 16, 64, dtype=torch.bfloat16), rule, learnt=False)
    assert all("cvt.rn.bf16x2.f32" in kernel.asm["ptx"] for kernel in compiled[2:])


def test_another_number_of_steps_compiles_nothing_anew(compiled):
    rule = Rule(SURROGATES["arctan"](), 0.5, 0.0, True, False)
    for steps in (5, 10, 50):
        both(torch.zeros(steps, 16, 64), rule, learnt=True)
    assert len({id(kernel) for kernel in compiled}) == 2


def test_without_a_gpu_triton_refuses_by_name_what_it_cannot_run():
    from anystep.nn.neurons import LIF

    with pytest.raises(ValueError, match=r"'triton' runs .* CUDA devices, got torch\.float32"):
        LIF(backend="triton")(torch.zeros(2, 3, 4))
