"""HSD, KD and QCFS conversion as methods: what each phase learns from, by hand, and from a recipe
to its scores.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from moving_light import WIDTHS, moving_light
from torch.nn import KLDivLoss
from torch.nn import functional as F

import anystep
from anystep.data.datasets import DATASETS
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


@pytest.fixture
def light(monkeypatch):
    monkeypatch.setitem(DATASETS, "moving-light", moving_light)


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
    _, snn = create_method("hsd", teacher_frames=[5, 8]).phases()
    assert (snn.frames, snn.teacher_frames) == (slice(5, None), slice(5, 8))


def test_changing_the_second_half_of_the_recordings_changes_the_snn_and_not_its_teacher(
    light, monkeypatch, tmp_path
):
    anystep.run_record(record_of("hsd"), tmp_path / "run")

    def other_second_half(**options):
        splits = moving_light(**options)
        splits.train._frames[:, 5:] = 3
        return splits

    monkeypatch.setitem(DATASETS, "moving-light", other_second_half)
    anystep.run_record(record_of("hsd"), tmp_path / "other")
    saved = [
        torch.load(tmp_path / name / "checkpoints" / "last.pt")["networks"]
        for name in ("run", "other")
    ]
    assert all(torch.equal(saved[0]["ann"][key], saved[1]["ann"][key]) for key in saved[0]["ann"])
    assert not all(
        torch.equal(saved[0]["snn"][key], saved[1]["snn"][key]) for key in saved[0]["snn"]
    )


# From a record to scores


@pytest.mark.parametrize("scale", ["output", "folded"])
def test_hsd_runs_from_its_record_to_its_scores_with_the_learnt_clips(light, tmp_path, scale):
    scores = anystep.run_record(
        record_of("hsd", neuron={"name": "qcfs_if", "scale": scale}, epochs=4), tmp_path / "run"
    )
    epochs = [(row["phase"], row["epoch"]) for row in rows_of(tmp_path / "run")]
    assert epochs == [("ann", 1), ("ann", 2), ("snn", 1), ("snn", 2)]
    assert scores["frames"] == [5, 6, 7, 8, 9]
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.pt")["networks"]
    clips = [key for key in saved["ann"] if key.endswith("clip")]
    assert len(clips) == len(WIDTHS)
    for key in clips:
        assert saved["ann"][key] != 8.0  # it was learnt
        assert torch.equal(saved["ann"][key], saved["snn"][key])  # and is frozen afterwards
    assert scores["prefix_top1"][-1] > 80


def test_both_places_of_the_scale_start_from_the_same_network(light, tmp_path):
    """Before the first update of the second phase: here it has a learning rate of nothing."""
    made = {}
    for scale in ("output", "folded"):
        record = record_of(
            "hsd", neuron={"name": "qcfs_if", "scale": scale}, options={"snn": {"lr": 1e-30}}
        )
        anystep.run_record(record, tmp_path / scale)
        model = anystep.load_model(tmp_path / scale)
        made[scale] = model
    frames = moving_light(binning=None).test.frames[:8].swapaxes(0, 1)
    x = torch.from_numpy(frames.copy()).float()
    torch.testing.assert_close(made["folded"](x), made["output"](x), rtol=1e-4, atol=1e-4)


def test_conversion_alone_gives_the_weights_of_the_ann_to_an_snn_and_trains_nothing_more(
    light, tmp_path
):
    scores = anystep.run_record(record_of("qcfs", epochs=3), tmp_path / "run")
    assert [(row["phase"], row["epoch"]) for row in rows_of(tmp_path / "run")] == [
        ("ann", 1),
        ("ann", 2),
        ("ann", 3),
    ]
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.pt")["networks"]
    assert all(torch.equal(saved["ann"][key], saved["snn"][key]) for key in saved["ann"])
    assert scores["steps"] == 10
    assert scores["prefix_top1"][-1] > 80


def test_the_ann_of_an_earlier_run_becomes_the_snn(light, tmp_path):
    ann = record_of(
        "ce", neuron={"name": "qcfs"}, epochs=1, data={"name": "moving-light", "frames": [0, 5]}
    )
    anystep.run_record(ann, tmp_path / "ann")
    snn = record_of("hsd", options={"twin": OTHER_RUN}, epochs=1, teacher=str(tmp_path / "ann"))
    scores = anystep.run_record(snn, tmp_path / "snn")
    assert [row["phase"] for row in rows_of(tmp_path / "snn")] == ["snn"]
    assert scores["frames"] == [5, 6, 7, 8, 9]
    own, before = (anystep.load_model(tmp_path / name).state_dict() for name in ("snn", "ann"))
    clips = [key for key in before if key.endswith("clip")]
    assert len(clips) == len(WIDTHS)
    assert all(
        torch.equal(own[key], before[key]) for key in clips
    )  # what it started from is frozen in it
    assert not torch.equal(own["classifier.weight"], before["classifier.weight"])


def test_the_network_of_each_phase_is_kept_and_can_teach_another_run(light, tmp_path):
    anystep.run_record(record_of("hsd"), tmp_path / "both")
    ann = tmp_path / "both" / "checkpoints" / "ann.safetensors"
    assert {type(module).__name__ for module in anystep.load_model(ann).modules()} >= {"QCFS"}
    snn_again = record_of("hsd", options={"twin": OTHER_RUN}, epochs=1, teacher=str(ann))
    anystep.run_record(snn_again, tmp_path / "again")
    own, both = (anystep.load_model(tmp_path / name).state_dict() for name in ("again", "both"))
    assert all(
        torch.equal(own[key], both[key]) for key in own
    )  # the same start, order and rate: the same network


def test_a_network_without_clips_cannot_become_an_snn(light, tmp_path):
    anystep.run_record(record_of("ce", neuron="relu"), tmp_path / "relu")
    record = record_of("hsd", options={"twin": OTHER_RUN}, teacher=str(tmp_path / "relu"))
    with pytest.raises(
        ValueError, match="has no clips that could become thresholds: train it with neuron qcfs"
    ):
        anystep.run_record(record, tmp_path / "snn")


def test_a_twin_teaches_a_network_that_does_not_start_from_it(light, tmp_path):
    anystep.run_record(record_of("kd", neuron="lif"), tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    assert [(row["phase"], sorted(row["parts"])) for row in rows] == [
        ("twin", ["ce"]),
        ("snn", ["ce", "kd"]),
    ]
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.pt")["networks"]
    assert not torch.equal(saved["twin"]["classifier.weight"], saved["snn"]["classifier.weight"])


# What is refused, before anything is trained


def test_an_snn_does_not_pass_for_the_ann_that_it_came_from(light, tmp_path):
    anystep.run_record(record_of("hsd"), tmp_path / "both")
    record = record_of("hsd", options={"twin": OTHER_RUN}, teacher=str(tmp_path / "both"))
    with pytest.raises(
        ValueError,
        match=r"is an SNN already; the ANN of an hsd run is its checkpoints/ann.safetensors",
    ):
        anystep.run_record(record, tmp_path / "snn")


def test_a_teacher_that_learnt_from_another_split_of_the_same_data_is_refused(
    light, tmp_path, monkeypatch
):
    anystep.run_record(record_of("ce", neuron="relu"), tmp_path / "teacher")

    def other_split(**options):
        return replace(moving_light(**options), protocol="moving-light/v2", protocol_hash="1" * 16)

    monkeypatch.setitem(DATASETS, "moving-light", other_split)
    record = record_of(
        "skd", neuron="lif", options={"teacher": OTHER_RUN}, teacher=str(tmp_path / "teacher")
    )
    with pytest.raises(
        ValueError, match=r"learnt from the split moving-light/v1 \(0{16}\), not moving-light/v2"
    ):
        anystep.run_record(record, tmp_path / "student")


def test_a_finished_run_needs_its_teacher_no_more(light, tmp_path):
    anystep.run_record(record_of("ce", neuron="relu"), tmp_path / "teacher")
    record = record_of(
        "skd", neuron="lif", options={"teacher": OTHER_RUN}, teacher=str(tmp_path / "teacher")
    )
    scores = anystep.run_record(record, tmp_path / "student")
    (tmp_path / "teacher" / "model.safetensors").unlink()
    assert anystep.run_record(record, tmp_path / "student", resume=True) == scores
    assert anystep.evaluate_run(tmp_path / "student") == scores


def test_the_twin_of_full_range_learns_the_labels_alone(light, tmp_path):
    anystep.run_record(
        record_of("full_range", neuron="lif", options={"teacher": "twin"}), tmp_path / "run"
    )
    rows = rows_of(tmp_path / "run")
    assert [(row["phase"], sorted(row["parts"])) for row in rows] == [
        ("twin", ["ce"]),
        ("snn", ["self", "step_ce", "teacher"]),
    ]


def test_a_whole_network_in_sixteen_bits_learns_from_a_teacher(light, tmp_path):
    with pytest.warns(anystep.AnystepWarning, match="slower"):
        anystep.run_record(
            record_of("skd", neuron="lif", engine={"precision": "bf16-true"}), tmp_path / "run"
        )
    assert len(rows_of(tmp_path / "run")) == 2


def test_a_teacher_of_another_shape_is_refused_by_name(light, tmp_path, monkeypatch):
    anystep.run_record(record_of("ce", neuron="relu"), tmp_path / "teacher")
    made = anystep.create_model("vgg_snn", num_classes=3, input_size=8, widths=WIDTHS)
    monkeypatch.setattr("anystep.run.load_model", lambda folder: made)
    record = record_of(
        "skd", neuron="lif", options={"teacher": "run"}, teacher=str(tmp_path / "teacher")
    )
    with pytest.raises(ValueError, match="has num_classes 3, the student 2"):
        anystep.run_record(record, tmp_path / "student")


def test_a_run_does_not_go_on_with_another_teacher(light, tmp_path, monkeypatch):
    anystep.run_record(record_of("ce", neuron="relu"), tmp_path / "teacher")
    record = record_of(
        "skd", neuron="lif", options={"teacher": "run"}, teacher=str(tmp_path / "teacher")
    )
    with monkeypatch.context() as broken:
        broken.setattr(
            "anystep.run.fit", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            anystep.run_record(record, tmp_path / "student")
    anystep.run_record(record_of("ce", neuron="relu", seed=1), tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "teacher" / "model.safetensors")
    with pytest.raises(ValueError, match=r"is not the one that .* began with"):
        anystep.run_record(record, tmp_path / "student", resume=True)


# The part of a recording that there is, and the part that trains


def test_only_the_frames_that_the_record_names_are_there(light, tmp_path):
    record = record_of("ce", neuron="lif", data={"name": "moving-light", "frames": [5, 8]})
    scores = anystep.run_record(record, tmp_path / "run")
    assert scores["frames"] == [5, 6, 7]
    assert scores["prefix"].endswith(", from frame 6")
    with pytest.raises(ValueError, match=r"within the 10 frames of a recording, got \[5, 11\]"):
        anystep.run_record(
            record_of("ce", neuron="lif", data={"name": "moving-light", "frames": [5, 11]}),
            tmp_path / "no",
        )


def test_a_network_trained_on_few_steps_is_judged_on_all(light, tmp_path, monkeypatch):
    seen = []
    plain = anystep.training.phases.Method.views

    def views(self, x, phase, generator):
        seen.append(len(x))
        return plain(self, x, phase, generator)

    monkeypatch.setattr(anystep.training.phases.Method, "views", views)
    train = {"epochs": 1, "batch_size": 16, "steps": 2}
    scores = anystep.run_record(record_of("ce", neuron="lif", train=train), tmp_path / "run")
    assert set(seen) == {2}
    assert scores["steps"] == 10


def test_a_run_that_is_tuned_is_judged_on_the_validation_split(light, tmp_path):
    scores = anystep.run_record(record_of("ce", neuron="lif", judge="val"), tmp_path / "run")
    assert (scores["split"], scores["samples"]) == ("val", 16)
    assert anystep.evaluate_run(tmp_path / "run") == scores
