"""HSD, KD and QCFS conversion as methods: what each phase learns from, by hand, and from a recipe
to its scores.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from moving_light import WIDTHS, moving_light
from torch.nn import KLDivLoss
from torch.nn import functional as F

import anystep
from anystep.data.datasets import DATASETS
from anystep.training import phases
from anystep.training.methods import create_method
from anystep.training.phases import OTHER_RUN

CLASSES = 4


def outputs(*, steps=5, samples=6, teacher_steps=5):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(steps, samples, CLASSES, generator=generator, dtype=torch.float64)
    taught = 2 * torch.randn(
        teacher_steps, samples, CLASSES, generator=generator, dtype=torch.float64
    )
    return {"student": logits, "teacher": taught}, torch.randint(
        CLASSES, (samples,), generator=generator
    )


def record_of(method, *, neuron="qcfs_if", epochs=2, **more):
    options = more.pop("options", {})
    tree = {
        "data": {"name": "moving-light"},
        "model": {"neuron": neuron, "options": {"widths": WIDTHS}},
        "method": {"name": method, "options": options},
        "train": {"epochs": epochs, "batch_size": 16, "lr": 5e-3},
        "tensorboard": False,
        **more,
    }
    return anystep.record_from(tree)


@pytest.fixture(scope="module", autouse=True)
def light():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "moving-light", moving_light)
        yield


@pytest.fixture(scope="module")
def teacher(light, tmp_path_factory):
    """The run of an ANN."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    anystep.run_record(record_of("ce", neuron="relu"), folder)
    return folder


@pytest.fixture(scope="module")
def both(light, tmp_path_factory):
    """A run of HSD's two phases."""
    folder = tmp_path_factory.mktemp("both") / "run"
    anystep.run_record(record_of("hsd", epochs=4), folder)
    return folder


def student_of(folder):
    options = {"teacher": OTHER_RUN}
    return record_of("skd", neuron="lif", options=options, teacher=str(folder))


def networks_of(folder):
    return torch.load(folder / "checkpoints" / "last.pt")["networks"]


def equal(first, second):
    return all(torch.equal(first[key], second[key]) for key in first)


def rows_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# The losses


@pytest.mark.parametrize(("reduction", "factor"), [("mean", 1.0), ("batchmean", float(CLASSES))])
def test_the_soft_part_of_hsd_is_the_kl_of_the_authors_code_at_every_step(reduction, factor):
    said, labels = outputs()
    parts = create_method("hsd", reduction=reduction).loss(said, labels, 0.0)
    assert list(parts) == ["ce", "skd"]
    target = F.softmax(said["teacher"].mean(0) / 10, dim=-1)
    as_published = KLDivLoss()  # its default, 'mean', divides by N and C
    with pytest.warns(UserWarning, match="batchmean"):
        kl = torch.stack(
            [as_published(F.log_softmax(step / 10, dim=-1), target) for step in said["student"]]
        ).mean()
    torch.testing.assert_close(parts["skd"], factor * 100 * kl)
    torch.testing.assert_close(parts["ce"], F.cross_entropy(said["student"].mean(0), labels))


def test_without_distillation_there_is_no_teacher_to_run():
    _, snn = create_method("hsd", distill="none").phases()
    assert snn.teacher is None
    said, labels = outputs()
    assert list(
        create_method("hsd", distill="none").loss({"student": said["student"]}, labels, 0.0)
    ) == ["ce"]


def test_a_student_that_teaches_itself_gets_its_own_time_mean_as_a_constant():
    said, labels = outputs()
    student = said["student"].requires_grad_(True)
    part = create_method("skd", teacher="self", temperature=2.0).loss(
        {"student": student}, labels, 0.0
    )["skd"]
    teacher = F.softmax(student.detach().mean(0) / 2, dim=-1)
    expected = (
        4
        * F.kl_div(F.log_softmax(student / 2, dim=-1), teacher.expand_as(student), reduction="sum")
        / 30
    )
    torch.testing.assert_close(part, expected)
    (mine,), (slow,) = (
        torch.autograd.grad(each, student, retain_graph=True) for each in (part, expected)
    )
    torch.testing.assert_close(mine, slow)


# Which frames go where


def test_each_half_goes_where_the_options_say():
    ann, snn = create_method("hsd", ann_frames=[5, None], snn_frames=[0, 3]).phases()
    assert (ann.frames, snn.frames, snn.teacher_frames) == (
        slice(5, None),
        slice(0, 3),
        slice(5, None),
    )
    method = create_method("hsd", teacher_frames=[5, 8])
    views = method.views(torch.arange(10), method.phases()[1], torch.Generator())
    assert views["student"].tolist() == [5, 6, 7, 8, 9]
    assert views["teacher"].tolist() == [5, 6, 7]


def test_changing_the_second_half_of_the_recordings_changes_the_snn_and_not_its_teacher(
    both, monkeypatch, tmp_path
):
    def other_second_half(**options):
        splits = moving_light(**options)
        splits.train._frames[:, 5:] = 3
        return splits

    monkeypatch.setitem(DATASETS, "moving-light", other_second_half)
    anystep.run_record(record_of("hsd", epochs=4), tmp_path / "other")
    one, other = networks_of(both), networks_of(tmp_path / "other")
    assert equal(one["ann"], other["ann"])
    assert not equal(one["snn"], other["snn"])


# From a record to scores


@pytest.mark.parametrize("scale", ["output", "folded"])
def test_hsd_runs_from_its_record_to_its_scores_with_the_learnt_clips(tmp_path, scale):
    record = record_of("hsd", neuron={"name": "qcfs_if", "scale": scale}, epochs=4)
    scores = anystep.run_record(record, tmp_path / "run")
    epochs = [(row["phase"], row["epoch"]) for row in rows_of(tmp_path / "run")]
    assert epochs == [("ann", 1), ("ann", 2), ("snn", 1), ("snn", 2)]
    assert scores["frames"] == [5, 6, 7, 8, 9]
    assert scores["prefix_top1"][-1] > 80
    saved = networks_of(tmp_path / "run")
    clips = [key for key in saved["ann"] if key.endswith("clip")]
    assert len(clips) == len(WIDTHS)
    for key in clips:
        assert saved["ann"][key] != 8.0  # it was learnt
        assert torch.equal(saved["ann"][key], saved["snn"][key])  # and is frozen afterwards


def test_both_places_of_the_scale_start_from_the_same_network(tmp_path):
    """Before the first update of the second phase: here it has a learning rate of nothing."""
    made = {}
    for scale in ("output", "folded"):
        neuron = {"name": "qcfs_if", "scale": scale}
        record = record_of("hsd", neuron=neuron, options={"snn": {"lr": 1e-30}})
        anystep.run_record(record, tmp_path / scale)
        made[scale] = anystep.load_model(tmp_path / scale)
    frames = moving_light(binning=None).test.frames[:8].swapaxes(0, 1)
    x = torch.from_numpy(frames.copy()).float()
    torch.testing.assert_close(made["folded"](x), made["output"](x), rtol=1e-4, atol=1e-4)


def test_conversion_alone_gives_the_weights_of_the_ann_to_an_snn_and_trains_nothing_more(tmp_path):
    scores = anystep.run_record(record_of("qcfs", epochs=3), tmp_path / "run")
    assert [row["phase"] for row in rows_of(tmp_path / "run")] == ["ann"] * 3
    saved = networks_of(tmp_path / "run")
    assert equal(saved["ann"], saved["snn"])
    assert scores["steps"] == 10
    assert scores["prefix_top1"][-1] > 80


def test_the_ann_of_an_earlier_run_becomes_the_snn(tmp_path):
    data = {"name": "moving-light", "frames": [0, 5]}
    ann = record_of("ce", neuron={"name": "qcfs"}, epochs=1, data=data)
    anystep.run_record(ann, tmp_path / "ann")
    snn = record_of("hsd", options={"twin": OTHER_RUN}, epochs=1, teacher=str(tmp_path / "ann"))
    scores = anystep.run_record(snn, tmp_path / "snn")
    assert [row["phase"] for row in rows_of(tmp_path / "snn")] == ["snn"]
    assert scores["frames"] == [5, 6, 7, 8, 9]
    own, before = (anystep.load_model(tmp_path / name).state_dict() for name in ("snn", "ann"))
    clips = {key: value for key, value in before.items() if key.endswith("clip")}
    assert len(clips) == len(WIDTHS)
    assert equal(clips, own)  # what it started from is frozen in it
    assert not torch.equal(own["classifier.weight"], before["classifier.weight"])


def test_the_network_of_each_phase_is_kept_and_can_teach_another_run(both, tmp_path):
    ann = both / "checkpoints" / "ann.safetensors"
    assert {type(module).__name__ for module in anystep.load_model(ann).modules()} >= {"QCFS"}
    again = record_of("hsd", options={"twin": OTHER_RUN}, epochs=2, teacher=str(ann))
    anystep.run_record(again, tmp_path / "again")
    # the same start, order and rate: the same network
    own, first = (anystep.load_model(each).state_dict() for each in (tmp_path / "again", both))
    assert equal(own, first)


def test_a_twin_teaches_a_network_that_does_not_start_from_it(tmp_path):
    anystep.run_record(record_of("kd", neuron="lif"), tmp_path / "run")
    rows = [(row["phase"], sorted(row["parts"])) for row in rows_of(tmp_path / "run")]
    assert rows == [("twin", ["ce"]), ("snn", ["ce", "kd"])]
    saved = networks_of(tmp_path / "run")
    assert not torch.equal(saved["twin"]["classifier.weight"], saved["snn"]["classifier.weight"])


def test_the_twin_of_full_range_learns_the_labels_alone(tmp_path):
    record = record_of("full_range", neuron="lif", options={"teacher": "twin"})
    anystep.run_record(record, tmp_path / "run")
    rows = [(row["phase"], sorted(row["parts"])) for row in rows_of(tmp_path / "run")]
    assert rows == [("twin", ["ce"]), ("snn", ["self", "step_ce", "teacher"])]


def test_a_finished_run_needs_its_teacher_no_more(teacher, tmp_path):
    copied = shutil.copytree(teacher, tmp_path / "teacher")
    record = student_of(copied)
    scores = anystep.run_record(record, tmp_path / "student")
    assert [sorted(row["parts"]) for row in rows_of(tmp_path / "student")] == [["ce", "skd"]] * 2
    (copied / "model.safetensors").unlink()
    assert anystep.run_record(record, tmp_path / "student", resume=True) == scores
    assert anystep.evaluate_run(tmp_path / "student") == scores


def test_a_whole_network_in_sixteen_bits_learns_from_a_teacher(tmp_path):
    record = record_of("skd", neuron="lif", engine={"precision": "bf16-true"})
    with pytest.warns(anystep.AnystepWarning, match="slower"):
        anystep.run_record(record, tmp_path / "run")
    assert len(rows_of(tmp_path / "run")) == 2


# Teachers that are refused


def test_a_network_without_clips_cannot_become_an_snn(teacher, tmp_path):
    record = record_of("hsd", options={"twin": OTHER_RUN}, teacher=str(teacher))
    with pytest.raises(ValueError, match="has no clips that could become thresholds"):
        anystep.run_record(record, tmp_path / "snn")


def test_an_snn_does_not_pass_for_the_ann_that_it_came_from(both, tmp_path):
    record = record_of("hsd", options={"twin": OTHER_RUN}, teacher=str(both))
    with pytest.raises(ValueError, match=r"is an SNN already; the ANN .*ann.safetensors"):
        anystep.run_record(record, tmp_path / "snn")


def test_a_teacher_that_learnt_from_another_split_of_the_same_data_is_refused(
    teacher, tmp_path, monkeypatch
):
    def other_split(**options):
        return replace(moving_light(**options), protocol="moving-light/v2", protocol_hash="1" * 16)

    monkeypatch.setitem(DATASETS, "moving-light", other_split)
    with pytest.raises(ValueError, match=r"learnt from the split moving-light/v1 \(0{16}\), not"):
        anystep.run_record(student_of(teacher), tmp_path / "student")


def test_a_teacher_of_another_shape_is_refused_by_name(teacher, tmp_path, monkeypatch):
    made = anystep.create_model("vgg_snn", num_classes=3, input_size=8, widths=WIDTHS)
    monkeypatch.setattr("anystep.run.load_model", lambda folder: made)
    with pytest.raises(ValueError, match="has num_classes 3, the student 2"):
        anystep.run_record(student_of(teacher), tmp_path / "student")


def test_a_run_does_not_go_on_with_another_teacher(teacher, tmp_path, monkeypatch):
    copied = shutil.copytree(teacher, tmp_path / "teacher")
    plain = anystep.run.fit

    def stopped(state, dataset, **options):
        if len(dataset) > 2:  # not the dry update
            raise KeyboardInterrupt
        return plain(state, dataset, **options)

    with monkeypatch.context() as broken:
        broken.setattr("anystep.run.fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            anystep.run_record(student_of(copied), tmp_path / "student")
    anystep.run_record(record_of("ce", neuron="relu", seed=1), tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(copied / "model.safetensors")
    with pytest.raises(ValueError, match=r"is not the one that .* began with"):
        anystep.run_record(student_of(copied), tmp_path / "student", resume=True)


# The part of a recording that there is, and the part that trains


def test_a_network_trained_on_few_steps_is_judged_on_all(tmp_path, monkeypatch):
    seen = []
    plain = phases.Method.views

    def views(self, x, phase, generator):
        seen.append(len(x))
        return plain(self, x, phase, generator)

    monkeypatch.setattr(phases.Method, "views", views)
    train = {"epochs": 1, "batch_size": 16, "steps": 2}
    scores = anystep.run_record(record_of("ce", neuron="lif", train=train), tmp_path / "run")
    assert set(seen) == {2}
    assert scores["steps"] == 10


def test_a_run_that_is_tuned_is_judged_on_the_validation_split(tmp_path):
    scores = anystep.run_record(record_of("ce", neuron="lif", judge="val"), tmp_path / "run")
    assert (scores["split"], scores["samples"]) == ("val", 16)
    assert anystep.evaluate_run(tmp_path / "run") == scores


def test_only_the_frames_that_the_record_names_are_there(tmp_path):
    data = {"name": "moving-light", "frames": [5, 8]}
    scores = anystep.run_record(record_of("ce", neuron="lif", data=data), tmp_path / "run")
    assert scores["frames"] == [5, 6, 7]
    assert scores["prefix"].endswith(", from frame 6")
