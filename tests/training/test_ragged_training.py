"""Training and judging on recordings of different length: what a batch was padded with changes no
number.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from moving_light import WIDTHS, ragged, small_model

import anystep
from anystep.data.datasets import DATASETS
from anystep.data.frames import FixedCount
from anystep.data.loader import time_first, unpack
from anystep.data.recording import Events
from anystep.data.sets import Splits
from anystep.evaluation.evaluate import collect, score
from anystep.evaluation.readout import prefix_mean
from anystep.nn.norms import BatchNorm, real_frames
from anystep.preflight import check
from anystep.sweep import steps_of
from anystep.training import losses
from anystep.training.fit import start
from anystep.training.losses import LOSSES
from anystep.training.methods import METHODS, Method, create_method

LENGTHS = (3, 7, 5, 1)
MASKED = sorted(name for name in LOSSES if "mask" in inspect.signature(LOSSES[name]).parameters)


def mask_of(lengths):
    return torch.arange(max(lengths))[:, None] < torch.tensor(lengths)


def events_of(count):
    zeros = [0] * count
    return Events.from_arrays(range(count), zeros, zeros, zeros, (34, 34))


# Networks


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_a_recording_is_judged_as_it_is_alone_whoever_shares_its_batch(batch_size):
    model, data = small_model(), ragged(13)
    said = collect(model, data, batch_size=batch_size, features=5)
    assert said.lengths.tolist() == data.lengths.tolist()
    assert len(said.logits) == data.lengths.max()
    spikes = elements = 0.0
    for n, (frames, _) in enumerate(data):
        alone = collect(model, [(frames, 0)], features=1)
        np.testing.assert_allclose(
            said.logits[: len(frames), n], alone.logits[:, 0], rtol=0, atol=1e-5
        )
        np.testing.assert_allclose(
            prefix_mean(said.logits)[-1, n], alone.logits.mean(0)[0], rtol=0, atol=1e-5
        )
        if n < 5:
            np.testing.assert_allclose(said.features[n], alone.features[0], rtol=0, atol=1e-5)
        spikes += len(frames) * np.array(list(alone.rates.values()))
        elements += len(frames)
    assert list(said.rates.values()) == pytest.approx(spikes / elements)
    assert score(said)["steps"] == len(said.logits)


def test_chosen_frames_must_leave_every_recording_one():
    data = ragged(8, shortest=4)
    assert len(collect(small_model(), data, frames=slice(0, 3)).logits) == 3
    assert collect(small_model(), data, frames=slice(0, 3)).lengths is None
    assert (
        collect(small_model(), data, frames=slice(2, None)).lengths.tolist()
        == (data.lengths - 2).tolist()
    )
    with pytest.raises(
        ValueError,
        match=rf"frames \[9, None\] leave a recording of {data.lengths.min()} frames without any",
    ):
        collect(small_model(), data, frames=slice(9, None))


def updated(name, data, *, extra=0, norm="bn", monkeypatch=None, recompute=False, **plan):
    """The network after an epoch, its batches padded by `extra` more frames."""

    def padded(items):
        x, y, mask = unpack(time_first(items))
        mask = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        more = x.new_zeros(extra, *x.shape[1:])
        return torch.cat([x, more]), y, torch.cat([mask, mask.new_zeros(extra, len(y))])

    if extra:
        monkeypatch.setattr("anystep.data.loader.time_first", padded)
    torch.manual_seed(0)
    model = anystep.create_model("vgg_snn", num_classes=2, input_size=8, norm=norm, widths=WIDTHS)
    model.recompute = recompute
    method, plan = create_method(name), anystep.Plan(epochs=1, batch_size=8, lr=5e-3, **plan)
    return anystep.fit(start(model, plan), data, method=method, plan=plan)


@pytest.mark.parametrize("norm", ["bn", "tdbn", {"name": "tebn", "steps": 13}], ids=str)
@pytest.mark.parametrize("name", ["ce", "tks"])
def test_training_is_the_same_however_far_a_batch_is_padded(name, norm, monkeypatch):
    data = ragged(24)
    state = updated(name, data, norm=norm)
    further = updated(name, data, norm=norm, extra=3, monkeypatch=monkeypatch)
    for key, value in state.model.state_dict().items():
        torch.testing.assert_close(further.model.state_dict()[key], value, rtol=1e-4, atol=1e-5)
    (row,), (other,) = state.history, further.history
    assert other["train_loss"] == pytest.approx(row["train_loss"], rel=1e-5)
    assert other["train_acc"] == row["train_acc"]


def test_recomputing_padded_recordings_gives_the_same_weights():
    plain, again = (
        updated("ce", ragged(16), recompute=each).model.state_dict() for each in (False, True)
    )
    assert all(torch.equal(plain[key], again[key]) for key in plain)


def test_the_first_steps_of_recordings_that_all_have_them_train_as_if_there_were_no_others():
    data = ragged(24, shortest=4)
    cut = [(frames[:4], label) for frames, label in data]
    state, same = updated("tet", data, steps=4), updated("tet", cut)
    assert all(
        torch.equal(value, same.model.state_dict()[key])
        for key, value in state.model.state_dict().items()
    )


def test_batch_statistics_are_those_of_real_frames_and_what_was_padded_leaves_as_zeros():
    x = torch.randn(7, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask, norm = mask_of(LENGTHS), BatchNorm(3).double()
    x[~mask] = 1e3
    with real_frames(norm, mask):
        y = norm(x)
    real = x[mask]
    mean, variance = real.mean((0, 2, 3)), real.var((0, 2, 3), unbiased=False)
    expected = (real - mean[:, None, None]) / (variance + norm.eps).sqrt()[:, None, None]
    torch.testing.assert_close(y[mask], expected)
    assert not y[~mask].any()
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)
    assert norm.real is None


def test_statistics_for_every_step_are_refused_and_nothing_stays_behind():
    norm = BatchNorm(3, per_step=True)
    with pytest.raises(ValueError, match="a norm with per_step needs recordings of one length"):
        real_frames(norm, mask_of(LENGTHS)).__enter__()
    assert norm.real is None
    with real_frames(norm, None):
        assert norm.real is None


class Noisy:
    """Recordings whose augmentation writes into every frame, or mixes labels."""

    def __init__(self, data, soft):
        self.data, self.soft = data, soft

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]

    def augment(self, x, y, generator):
        return x + 1, torch.eye(2)[y] if self.soft else y


class Watched(Method):
    """Keeps what it was shown."""

    masks = True

    def __init__(self):
        self.seen = []

    def views(self, x, phase, generator):
        self.seen.append(x)
        return super().views(x, phase, generator)

    def loss(self, outputs, labels, progress):
        self.seen.append(outputs["mask"])
        return {"ce": losses.ce(outputs["student"], labels, mask=outputs["mask"])}


def fitted(method, data):
    plan = anystep.Plan(epochs=1, batch_size=8, lr=5e-3)
    return anystep.fit(start(small_model(), plan), data, method=method, plan=plan)


def test_what_was_padded_stays_zero_whatever_an_augmentation_does():
    method = Watched()
    fitted(method, Noisy(ragged(8), soft=False))
    x, mask = method.seen
    assert (x[mask] >= 1).all()
    assert not x[~mask].any()


def test_recordings_of_different_length_are_not_mixed():
    with pytest.raises(
        ValueError, match=r"data\.augment mixes samples, which needs recordings of one length"
    ):
        fitted(create_method("ce"), Noisy(ragged(8), soft=True))


@pytest.mark.parametrize("name", ["full_range", "strong_weak", "kd"])
def test_a_method_that_takes_no_mask_refuses_at_its_first_batch_by_name(name):
    with pytest.raises(ValueError, match=r"needs recordings of one length; give binning\.steps"):
        fitted(create_method(name), ragged(8))


def test_a_teacher_does_not_learn_from_what_was_padded_where_its_student_sees_real_frames_alone():
    method, plan = (
        create_method("hsd", ann_frames=(0, 2), snn_frames=(2, 4), teacher_frames=(0, None)),
        anystep.Plan(epochs=2),
    )
    teacher = small_model()
    ann, snn = (
        start(small_model("if"), replace(plan, batch_size=8), phase=each, teacher=teacher)
        for each in method.phases()
    )
    ann.teacher = None
    fit = partial(
        anystep.fit, dataset=ragged(8, shortest=4), method=method, plan=replace(plan, batch_size=8)
    )
    assert fit(ann).epoch == 1
    with pytest.raises(
        ValueError, match=r"method HSD needs recordings of one length; give binning\.steps"
    ):
        fit(snn)


class Prefix(Watched):
    """Shows its student other steps than the mask speaks of."""

    def views(self, x, phase, generator):
        return {"student": x[:3]}


def test_views_that_do_not_fit_the_mask_are_refused_by_name():
    with pytest.raises(
        ValueError,
        match=r"method Prefix, which shows its student \(3, 8\) of \(9, 8\) steps and samples",
    ):
        fitted(Prefix(), ragged(8))


def test_several_processes_need_recordings_of_one_length_in_the_steps_that_are_trained():
    class Two:
        world_size = 2

        def setup(self, *_):
            raise StopIteration

    data, refused = (
        ragged(8, shortest=4),
        pytest.raises(ValueError, match="training in 2 processes needs recordings of one"),
    )
    for steps, outcome in ((None, refused), (5, refused), (4, pytest.raises(StopIteration))):
        plan = anystep.Plan(epochs=1, batch_size=8, steps=steps)
        with outcome:
            anystep.fit(
                start(small_model(), plan),
                data,
                method=create_method("ce"),
                plan=plan,
                fabric=Two(),
            )


# Records


def record_of(**changes):
    tree = {
        "data": {
            "name": "ragged-light",
            "binning": {"name": "fixed_count", "count": 9, "steps": None},
        },
        "model": {"options": {"widths": WIDTHS}},
        "train": {"epochs": 2, "batch_size": 16, "lr": 5e-3},
        "tensorboard": False,
    }
    for key, value in changes.items():
        tree[key] = {**tree.get(key, {}), **value}
    return anystep.record_from(tree)


def ragged_light(*, binning, cache=None, workers=None):
    """A row of DATASETS."""
    parts = {
        part: ragged(count, seed=seed)
        for seed, (part, count) in enumerate({"train": 64, "val": 16, "test": 30}.items())
    }
    described = binning.describe()
    return Splits(
        **parts,
        classes=("off", "on"),
        protocol="ragged/v1",
        protocol_hash="0" * 16,
        causal=True,
        binning=described,
    )


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"method": {"name": "strong_weak"}}, "method strong_weak"),
        ({"method": {"name": "hsd"}, "model": {"neuron": "qcfs_if"}}, "method hsd"),
        ({"data": {"frames": [0, 2]}}, r"data\.frames"),
        ({"data": {"augment": ["event_mix"]}}, r"data\.augment, which mixes samples,"),
        ({"model": {"norm": {"name": "bn", "per_step": True}}}, "model.norm with per_step"),
        ({"engine": {"devices": 2}}, "engine.devices 2"),
    ],
)
def test_a_record_that_needs_recordings_of_one_length_is_refused_before_any_data_are_read(
    changes, what, monkeypatch
):
    monkeypatch.setitem(DATASETS, "ragged-light", ragged_light)
    with pytest.raises(
        ValueError, match=rf"^{what} needs recordings of one length; give data\.binning\.steps"
    ):
        check(record_of(**changes))


@pytest.mark.parametrize("augment", [[], ["flip"]], ids=str)
def test_a_network_too_short_for_the_longest_recording_is_refused_before_training(
    augment, tmp_path, monkeypatch
):
    monkeypatch.setitem(DATASETS, "ragged-light", ragged_light)
    assert len(ragged(64)[0][0]) == 9 < ragged(64).lengths.max() == 10
    record = record_of(model={"norm": {"name": "tebn", "steps": 9}}, data={"augment": augment})
    with pytest.raises(ValueError, match="TEBatchNorm: made for 9 steps"):
        anystep.run_record(record, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_says_whether_it_takes_masks(name):
    assert create_method(name).masks is (name in MASKED)


def test_a_run_of_recordings_of_different_length_goes_from_its_record_to_its_page(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(DATASETS, "ragged-light", ragged_light)
    scores = anystep.run_record(
        record_of(method={"name": "tks"}, train={"epochs": 6}), tmp_path / "run"
    )
    assert (scores["steps"], len(scores["prefix_top1"]), scores["samples"]) == (10, 10, 30)
    assert scores["prefix_top1"][-1] > 80
    assert scores["binning"]["steps"] is None
    assert anystep.evaluate_run(tmp_path / "run") == json.loads(
        (tmp_path / "run" / "scores.json").read_text()
    )
    with np.load(tmp_path / "run" / "outputs.npz") as outputs:
        assert outputs["lengths"].tolist() == ragged(30, seed=2).lengths.tolist()
        assert len(outputs["example_frames"]) == 10
    assert anystep.write_report([tmp_path / "run"], tmp_path / "report.html").exists()


def test_the_filmed_digits_may_have_a_length_of_their_own(tmp_path, monkeypatch):
    lengths = np.random.default_rng(0).integers(1, 40, 1797)
    filmed = (events_of(length) for length in lengths)
    monkeypatch.setattr(
        "anystep.data.digits.digits_events", lambda **_: ((events, 0) for events in filmed)
    )
    binning = FixedCount(None, 9)
    first, second = (
        anystep.load_dataset("digits-dvs", binning=binning, cache=tmp_path) for _ in range(2)
    )  # built, read back
    for part in ("train", "val", "test"):
        one, other = getattr(first, part), getattr(second, part)
        assert one.lengths.tolist() == [-(-length // 9) for length in lengths[one.ids]]
        assert np.array_equal(one[0][0], other[0][0])


def test_a_sweep_over_lengths_needs_recordings_of_one():
    with pytest.raises(ValueError, match=r"sweep: data\.binning must give steps, got null"):
        steps_of(record_of())
