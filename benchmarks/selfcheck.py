"""Before any time is taken: does every backend compute what the reference computes?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from anystep._command import say
from anystep.nn.kernels import Rule
from anystep.nn.neurons import BACKENDS, LIF, Scan, scan
from anystep.nn.surrogate import surrogate_of

RULES = (
    Rule(surrogate_of("quadratic_gate"), 0.5, 0.0, True, False),
    Rule(surrogate_of("arctan"), 0.5, 0.0, True, False),
    Rule(surrogate_of("triangle"), 0.45, None, False, True),
)
SMALL, LARGE = (3, 3, 5, 7, 3), (3, 5, 13, 37, 41)  # odd; the large one for several threads


def backends_here(device: torch.device) -> tuple[list[str], dict[str, str]]:
    """(backends that run on `device`, what the others say). A backend is left out only where it
    refuses; any other error is raised.
    """
    here, refused = [], {}
    for name in BACKENDS:
        try:
            LIF(backend=name)(torch.zeros(1, 1, 1, device=device))
        except (ValueError, ImportError) as error:
            refused[f"anystep {name}"] = str(error)
        else:
            here.append(name)
    return here, refused


def _refuse(name: str, what: str, shape: tuple[int, ...], rule: Rule, difference: Tensor) -> None:
    how = f"differ by {float(difference):.3g} in the {what} at {shape} under {rule}"
    raise RuntimeError(f"no time is taken: backend {name!r} and the reference {how}")


def _everything(
    run: Scan, shape: tuple[int, ...], rule: Rule, learnt: bool, device: torch.device
) -> list[Tensor]:
    """Spikes, last membrane, and the gradients of x, v (and of decay and gain), channels_last."""
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return (torch.randn(size, generator=generator) * 0.8 + 0.4).to(device)

    folded = draw(shape[0] * shape[1], *shape[2:]).to(memory_format=torch.channels_last)
    x, v = folded.unflatten(0, shape[:2]).requires_grad_(), draw(*shape[1:]).requires_grad_()
    learned = [torch.tensor(0.5, device=device, requires_grad=True) for _ in range(2 * learnt)]
    decay, gain = learned or (0.5, 0.5)
    outputs = run(x, v, decay, gain, rule)
    weights = [draw(*shape), draw(*shape[1:])]
    gradients = torch.autograd.grad(outputs, [x, v, *learned], weights)
    return [*(output.detach() for output in outputs), *gradients]


def _check_one(
    name: str, run: Scan, shape: tuple[int, ...], rule: Rule, learnt: bool, device: torch.device
) -> None:
    ours, theirs = (_everything(each, shape, rule, learnt, device) for each in (run, scan))
    for what, got, expected in zip(("spikes", "membrane"), ours[:2], theirs[:2], strict=True):
        if not torch.equal(got, expected):
            _refuse(name, what, shape, rule, (got - expected).abs().max())
    for what, got, expected in zip(("x", "v", "decay", "gain"), ours[2:], theirs[2:], strict=False):
        difference = (got - expected).abs().max()
        if not difference <= 1e-5 * max(expected.abs().max().item(), 1):
            _refuse(name, f"gradient of {what}", shape, rule, difference)


def check_backends(names: Sequence[str], device: torch.device) -> list[str]:
    """Compare spikes, membrane and every gradient with the reference's; return the names checked.

    RuntimeError: they differ.
    """
    checked = [name for name in names if BACKENDS[name]() is not scan]
    say(f"compare with the reference: {', '.join(checked)}")
    # Learnt coefficients are checked on the small shape alone: a long sum has its own rounding.
    cases = ((SMALL, False), (SMALL, True), (LARGE, False))
    for name, (shape, learnt), rule in itertools.product(checked, cases, RULES):
        _check_one(name, BACKENDS[name](), shape, rule, learnt, device)
    return checked
