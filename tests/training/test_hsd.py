"""HSD, KD and QCFS conversion: what each phase learns from, and from a record to its scores."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from moving_light import WIDTHS, equal, moving_light, record_of
from step_logits import random_case
from torch.nn import KLDivLoss
from torch.nn import functional as F

import anystep
from anystep.data.datasets import DATASETS
from anystep.training import phases
from anystep.training.distillation import skd
from anystep.training.methods import create_method
from anystep.training.phases import OTHER_RUN

SAID, LABELS = random_case((5, 6, 4))
TAUGHT, _ = random_case((5, 6, 4), seed=1)


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
    return record_of("skd", options={"teacher": OTHER_RUN}, teacher=str(folder))


def networks_of(folder):
    return torch.load(folder / "checkpoints" / "last.pt")["networks"]


def rows_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# The losses


@pytest.mark.parametrize(("reduction", "factor"), [("mean", 1.0), ("batchmean", 4.0)])
def test_the_soft_part_of_hsd_is_the_kl_of_the_authors_code_at_every_step(reduction, factor):
    said = {"student": SAID, "teacher": TAUGHT}
    parts = create_method("hsd", reduction=reduction).loss(said, LABELS, 0.0)
    assert list(parts) == ["ce", "skd"]
    target = F.softmax(TAUGHT.mean(0) / 10, dim=-1)
    as_published = KLDivLoss()  # its default, 'mean', divides by N and C
    with pytest.warns(UserWarning, match="batchmean"):
        kl = [as_published(F.log_softmax(step / 10, dim=-1), target) for step in SAID]
    torch.testing.assert_close(parts["skd"], factor * 100 * torch.stack(kl).mean())
    torch.testing.assert_close(parts["ce"], F.cross_entropy(SAID.mean(0), LABELS))


def test_without_distillation_there_is_no_teacher_to_run():
    method = create_method("hsd", distill="none")
    assert method.phases()[1].teacher is None
    assert list(method.loss({"student": SAID}, LABELS, 0.0)) == ["ce"]


def test_a_student_that_teaches_itself_gets_its_own_time_mean_as_a_constant():
    student = SAID.clone().requires_grad_(True)
    method = create_method("skd", teacher="self", temperature=2.0)
    part = method.loss({"student": student}, LABELS, 0.0)["skd"]
    expected = skd(student, SAID.mean(0), temperature=2.0, reduction="batchmean")
    torch.testing.assert_close(part, expected)
    slopes = [torch.autograd.grad(each, student)[0] for each in (part, expected)]
    torch.testing.assert_close(*slopes)


# Which frames go where


def test_each_half_goes_where_the_options_say():
    ann, snn = create_method("hsd", ann_frames=[5, None], snn_frames=[0, 3]).phases()
    assert (ann.frames, snn.frames) == (slice(5, None), slice(0, 3))
    assert snn.teacher_frames == ann.frames
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
    ann = record_of("ce", neuron="qcfs", epochs=1, data={"frames": [0, 5]})
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


@pytest.mark.parametrize(
    ("name", "taught"), [("kd", ["ce", "kd"]), ("full_range", ["self", "step_ce", "teacher"])]
)
def test_a_twin_that_learnt_the_labels_teaches_a_network_of_other_weights(name, taught, tmp_path):
    record = record_of(name, options={"teacher": "twin"})
    anystep.run_record(record, tmp_path / "run")
    rows = [(row["phase"], sorted(row["parts"])) for row in rows_of(tmp_path / "run")]
    assert rows == [("twin", ["ce"]), ("snn", taught)]
    saved = networks_of(tmp_path / "run")
    assert not torch.equal(saved["twin"]["classifier.weight"], saved["snn"]["classifier.weight"])


def test_a_finished_run_needs_its_teacher_no_more(teacher, tmp_path):
    copied = shutil.copytree(teacher, tmp_path / "teacher")
    record = student_of(copied)
    scores = anystep.run_record(record, tmp_path / "student")
    assert [sorted(row["parts"]) for row in rows_of(tmp_path / "student")] == [["ce", "skd"]] * 2
    (copied / "model.safetensors").unlink()
    assert anystep.run_record(record, tmp_path / "student", resume=True) == scores
    assert anystep.evaluate_run(tmp_path / "student") == scores


def test_a_whole_network_in_sixteen_bits_learns_from_a_teacher(tmp_path):
    record = record_of("skd", engine={"precision": "bf16-true"})
    with pytest.warns(anystep.AnystepWarning, match="slower"):
        anystep.run_record(record, tmp_path / "run")
    assert len(rows_of(tmp_path / "run")) == 2


# Teachers that are refused


def test_a_network_without_clips_and_an_snn_cannot_become_the_snn(teacher, both, tmp_path):
    for folder, word in (
        (teacher, "has no clips that could become thresholds"),
        (both, r"is an SNN already; the ANN .*ann.safetensors"),
    ):
        record = record_of("hsd", options={"twin": OTHER_RUN}, teacher=str(folder))
        with pytest.raises(ValueError, match=word):
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
    scores = anystep.run_record(record_of("ce", train=train), tmp_path / "run")
    assert set(seen) == {2}
    assert scores["steps"] == 10


def test_only_the_frames_and_the_split_that_the_record_names_are_judged(tmp_path):
    record = record_of("ce", data={"frames": [5, 8]}, judge="val")
    scores = anystep.run_record(record, tmp_path / "run")
    assert scores["frames"] == [5, 6, 7]
    assert scores["prefix"].endswith(", from frame 6")
    assert (scores["split"], scores["samples"]) == ("val", 16)
    assert anystep.evaluate_run(tmp_path / "run") == scores
