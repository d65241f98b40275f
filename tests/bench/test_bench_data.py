"""`python -m benchmarks data`: files hold what was written, frames agree before they are timed, and
peers may be missing.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from benchmarks import COLUMNS, cameras, event_files, events, run_bench
from benchmarks.measure import Setup

ONE_EVENT = tuple(np.zeros(1, kind) for kind in ("i8", "i2", "i2", "u1"))
ANOTHER = events._recording(10, (4, 4))
ONCE = Setup(torch.device("cpu"), repeats=1, quick=True)


@pytest.fixture
def little_data(monkeypatch):
    """Recordings of 5000 events, light sampled 30 times, nothing that needs faery or tonic."""
    ours = {name: each for name, each in event_files.FORMATS.items() if each.baseline != "faery"}
    monkeypatch.setattr(events, "FORMATS", ours)
    monkeypatch.setattr(events, "LOOK", 5000)
    monkeypatch.setattr(cameras, "SUBSTEPS_US", (10_000,))
    monkeypatch.setitem(sys.modules, "tonic.io", None)


def test_data_counts_events_files_and_recordings_a_second(little_data):
    result = run_bench("data", repeats=1, quick=True, threads=2, pin=False)
    rows = {(row["group"], row["name"]): row for row in result["rows"]}
    for group, name, number, what in (
        ("reading .bin, 5000 events", "anystep", 5000, "events"),
        ("8 files of 4000 events, read and binned", "anystep", 8, "files"),
        ("4000 events", "anystep fixed_duration", 4000, "events"),
        ("2 recordings, 128 x 128", "simulator, 2 threads", 2, "recordings"),
        ("4 images to frames, 34 x 34, 10000 us", "batched camera", 4, "recordings"),
    ):
        row = rows[group, name]
        assert row.keys() >= COLUMNS
        assert row[f"{what}_per_s"] == pytest.approx(number / row["median_ms"] * 1000, rel=0.05)
        assert row["threads"] == (2 if what == "recordings" else 1)
    assert set(rows["4000 events", "anystep fixed_duration"]["ratio_to"]) == {"np.add.at"}
    assert rows["4 recordings, 34 x 34", "simulator, 1 threads"]["threads"] == 1
    assert "cannot be imported" in result["left_out"]["tonic"]
    assert result["environment"]["threads"] == 2
    assert torch.get_num_threads() == 1  # as before
    json.dumps(result)


@pytest.mark.parametrize(
    ("home", "name", "wrong", "message"),
    [
        (events, "_add_at", lambda each: np.zeros((10, 2, *each.sensor)), "small files"),
        (events, "read_events", lambda *_, **__: ANOTHER, r"\.bin is read as something else"),
        (events, "plain_bin", lambda path: ONE_EVENT, "small files"),
        (cameras, "simulate_batch", lambda x, *_, **__: torch.zeros(1), "count differently"),
    ],
)
def test_data_takes_no_time_if_what_is_compared_differs(
    little_data, monkeypatch, home, name, wrong, message
):
    monkeypatch.setattr(home, name, wrong)
    with pytest.raises(RuntimeError, match=message):
        run_bench("data", repeats=1, quick=True, pin=False)


@pytest.mark.parametrize("name", event_files.FORMATS)
def test_a_file_to_be_read_in_the_bench_holds_the_recording_for_its_baseline_too(name, tmp_path):
    kind, recording = event_files.FORMATS[name], events._recording(300, (128, 128))
    if kind.baseline == "faery":
        pytest.importorskip("faery")
    path = tmp_path / f"r{kind.suffix}"
    kind.write(recording, path)
    read = kind.read(path)
    if kind.baseline == "faery":
        read = [read[column] for column in ("t", "x", "y", "on")]
    for column, name in zip(read, "txyp", strict=True):
        assert np.array_equal(column, getattr(recording, name))


def test_without_faery_its_formats_are_left_out_and_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "faery", None)
    monkeypatch.setattr(events, "FORMATS", {".dat": event_files.FORMATS[".dat"]})
    left_out: dict[str, str] = {}
    assert events._reading_rows(".dat", tmp_path, None, left_out, ONCE) == []
    assert "cannot be imported" in left_out["reading .dat"]
