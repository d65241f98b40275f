"""What every row of METHODS promises, in every phase it has."""

from __future__ import annotations

import inspect

import pytest
import torch

from anystep.training.losses import LOSSES
from anystep.training.methods import METHODS, LossMethod, create_method
from anystep.training.phases import OTHER_RUN, Phase

T, N, C = 10, 6, 4
every_row = pytest.mark.parametrize("name", sorted(METHODS))


def method_of(name):
    """A method with 0.5 for each argument that has no default."""
    kind = METHODS.get(name, LOSSES.get(name))
    if getattr(kind, "func", None) is LossMethod:
        kind = LOSSES[name]
    free = list(inspect.signature(kind).parameters.values())
    required = [each.name for each in free if each.default is each.empty]
    return create_method(name, **dict.fromkeys(set(required) - {"logits", "labels"}, 0.5))


def batch():
    """x (T, N, P, H, W) whose values name their step."""
    return torch.arange(T).float().reshape(T, 1, 1, 1, 1).expand(T, N, 2, 3, 3)


def outputs_of(phase, *, steps, dtype=torch.float64):
    """What the networks of a phase say: a teacher only where there is one, without a gradient."""
    generator = torch.Generator().manual_seed(0)
    roles = ["student"] if phase.teacher is None else ["student", "teacher"]
    said = {role: torch.randn(steps[role], N, C, generator=generator).to(dtype) for role in roles}
    said["student"].requires_grad_(True)
    return said


def labels():
    return torch.randint(C, (N,), generator=torch.Generator().manual_seed(1))


def views_of(method, phase, *, seed=0):
    return method.views(batch(), phase, torch.Generator().manual_seed(seed))


def losses_of(name, *, progress=0.5, dtype=torch.float64):
    """(phase, outputs, parts) of each phase."""
    method = method_of(name)
    for phase in method.phases():
        steps = {role: len(view) for role, view in views_of(method, phase).items()}
        outputs = outputs_of(phase, steps=steps, dtype=dtype)
        yield phase, outputs, method.loss(outputs, labels(), progress)


@every_row
def test_phases_are_named_once_point_back_and_share_the_whole_budget(name):
    phases = method_of(name).phases()
    seen = [""]
    for phase in phases:
        assert isinstance(phase, Phase)
        assert phase.name not in seen
        assert phase.start_from in {None, OTHER_RUN, *seen}
        assert phase.teacher in {None, OTHER_RUN, *seen}
        # what is not trained must come from somewhere
        assert phase.share > 0 or phase.start_from is not None
        seen.append(phase.name)
    assert sum(phase.share for phase in phases) == pytest.approx(1.0)


@every_row
def test_views_are_whole_frames_for_the_student_and_a_teacher_where_there_is_one(name):
    method = method_of(name)
    for phase in method.phases():
        views = views_of(method, phase)
        assert set(views) == ({"student"} if phase.teacher is None else {"student", "teacher"})
        for view in views.values():
            assert view.shape[1:] == (N, 2, 3, 3)
            assert 1 <= len(view) <= T


@every_row
def test_views_depend_on_the_given_generator_alone(name):
    method = method_of(name)
    before = torch.get_rng_state()
    for phase in method.phases():
        for seed in range(3):
            first, second = views_of(method, phase, seed=seed), views_of(method, phase, seed=seed)
            assert all(torch.equal(first[role], second[role]) for role in first)
    assert torch.equal(torch.get_rng_state(), before)


@every_row
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_parts_are_named_scalars_whose_sum_has_a_finite_gradient(name, dtype):
    for _, outputs, parts in losses_of(name, dtype=dtype):
        assert parts
        assert all(isinstance(part, str) and part for part in parts)
        assert all(value.shape == () and value.dtype == dtype for value in parts.values())
        (slope,) = torch.autograd.grad(sum(parts.values()), [outputs["student"]])
        assert slope.isfinite().all()
        assert (slope.abs().amax(dim=(0, 2)) > 0).all()


@every_row
def test_the_names_of_the_parts_do_not_change_during_a_phase_and_leave_those_of_the_log_alone(name):
    named = [
        [list(parts) for _, _, parts in losses_of(name, progress=progress)]
        for progress in (0.0, 0.5, 0.9)
    ]
    assert named[0] == named[1] == named[2]
    assert all("correct" not in parts for parts in named[0])


@every_row
def test_a_loss_asked_twice_says_the_same(name):
    for (_, _, first), (_, _, again) in zip(losses_of(name), losses_of(name), strict=True):
        assert all(torch.equal(first[part], again[part]) for part in first)


@every_row
def test_an_unknown_argument_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"unknown argument 'no_such_thing' in method {name}"):
        create_method(name, no_such_thing=1)
