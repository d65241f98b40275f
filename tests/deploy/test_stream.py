"""Events cut as they come are the frames of training; a stream decides as offline evaluation does;
what is late, lost or broken is counted.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import event_files
import numpy as np
import pytest
from trained import ABOUT, SIZE, STEPS

import anystep
from anystep._errors import UsageError
from anystep.data.events.catalogue import EVENT_SETS
from anystep.data.events.stack import FrameSpec
from anystep.data.frames import FixedCount, FixedDuration
from anystep.data.recording import Events
from anystep.deploy import windows as module
from anystep.deploy.command import follow as follow_command
from anystep.deploy.command import framer
from anystep.deploy.describe import require_live
from anystep.deploy.sources import (
    RECORD,
    FileSource,
    Losses,
    Packet,
    PipeSource,
    UdpSource,
    decode,
    open_source,
)
from anystep.deploy.stream import Follower
from anystep.deploy.windows import Windows
from anystep.evaluation.exits import ExitRule

SENSOR = (SIZE, SIZE)
DURATION = {"name": "fixed_duration", "steps": STEPS, "duration_us": 1000}
COUNT = {"name": "fixed_count", "steps": STEPS, "count": 150}


def recording(seed: int = 0, *, count: int = 900, last_us: int = 3999) -> Events:
    draw = np.random.default_rng(seed)
    t = np.sort(draw.integers(0, last_us + 1, count))
    x, y, p = (draw.integers(0, high, count) for high in (SIZE, SIZE, 2))
    return Events.from_arrays(t, x, y, p, SENSOR)


def cut(events: Events, binning: dict[str, Any], *, size: int, **options: Any) -> Windows:
    """A cutter, and in `.made` the frames of the events in packets of `size`."""
    cutter = Windows(binning, SENSOR, **options)
    made = []
    for first in range(0, len(events), size):
        part = slice(first, first + size)
        packet = Packet(events.t[part], events.x[part], events.y[part], events.p[part], 0.0)
        made += [window.counts for window in cutter.add(packet)]
    rest = cutter.rest(0.0)
    while len(made) < STEPS:
        made.append(next(rest).counts)
    cutter.made = made  # type: ignore[attr-defined]
    return cutter


@pytest.mark.parametrize(("name", "place"), [("cifar10-dvs", (3, 9)), ("events-folder", (9, 3))])
def test_a_file_is_read_as_those_that_the_network_was_trained_on(name, place, tmp_path):
    path = event_files.put(
        tmp_path, "r.aedat", event_files.cifar10_dvs_bytes([(0, 3, 9, 1), (1, 90, 99, 0)])
    )
    source, sensor = open_source(str(path), formats=EVENT_SETS[name].formats)
    events = next(iter(source))
    assert ((events.x[0], events.y[0]), sensor) == (place, (128, 128))


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("binning", "offline"),
    [(DURATION, FixedDuration(STEPS, 1000)), (COUNT, FixedCount(STEPS, 150))],
    ids=["duration", "count"],
)
@pytest.mark.parametrize("events", [recording(), recording(1, count=80, last_us=1500)])
def test_windows_are_the_frames_of_training(events, binning, offline, size):
    made = cut(events, binning, size=size).made  # type: ignore[attr-defined]
    np.testing.assert_array_equal(np.stack(made[:STEPS]), offline(events))


def test_windows_may_count_from_the_first_event_as_training_did():
    events = recording()
    late = Events(events.t + 7_654_321, events.x, events.y, events.p, SENSOR)
    first = int(late.t[0])
    moved = Events(late.t - first, late.x, late.y, late.p, SENSOR)
    made = cut(late, DURATION, size=50, from_first=True).made  # type: ignore[attr-defined]
    np.testing.assert_array_equal(np.stack(made[:STEPS]), FixedDuration(STEPS, 1000)(moved))


def test_what_was_trained_on_hindsight_a_later_part_or_images_follows_no_stream():
    hindsight = {**ABOUT, "accuracy": {"prefix": "hindsight bins"}}
    images = {key: value for key, value in ABOUT.items() if key != "binning"}
    for about in (hindsight, images, {**ABOUT, "first_frame": 5}):
        with pytest.raises(UsageError, match="trained on"):
            require_live(about)


def test_a_network_that_resizes_asks_for_the_pixels_of_its_source(step):
    about = {**step.about, "resize": {"size": [8, 8], "interpolation": "nearest"}}
    asked = argparse.Namespace(
        source="-", sensor=None, steps=None, max_rate=None, idle_timeout=None
    )
    with pytest.raises(UsageError, match="give the pixels of the source, --sensor H,W"):
        follow_command(types.SimpleNamespace(about=about), asked)


def test_frames_are_resized_as_for_training():
    counts = np.random.default_rng(0).poisson(1, (2, 20, 20)).astype(np.uint16)
    about = {**ABOUT, "frame": [2, 16, 16]}
    for interpolation in ("nearest", "bilinear"):
        how = {"size": 16, "interpolation": interpolation}
        spec = FrameSpec(FixedDuration(STEPS, 1000), 16, interpolation, (20, 20))
        made = framer({**about, "resize": how}, (20, 20))(counts)
        np.testing.assert_array_equal(made, spec.resized(counts[None])[0].astype(np.float32))


def test_events_out_of_order_late_and_off_the_sensor_are_placed_or_counted():
    t = np.array([500, 100, 1200, 1100, 900, 1300, 50])
    x = np.array([1, 2, 3, 4, 5, SIZE, 7])
    cutter = Windows(DURATION, SENSOR)
    made = list(cutter.add(Packet(t[:4], x[:4], x[:4], x[:4] * 0, 0.0)))
    made += list(cutter.add(Packet(t[4:], x[4:], x[4:] % SIZE, x[4:] * 0, 0.0)))
    made.append(next(cutter.rest(0.0)))
    assert [window.events for window in made] == [2, 2]
    assert (cutter.seen.too_late, cutter.seen.out_of_range, cutter.seen.events) == (2, 1, 7)


def test_events_above_the_rate_are_left_out_and_counted():
    cutter = cut(recording(count=4000), DURATION, size=333, max_rate=500_000)
    frames = cutter.made  # type: ignore[attr-defined]
    assert [int(frame.sum()) for frame in frames[:4]] == [500] * 4
    assert cutter.seen.over_rate == 2000


def test_a_long_silence_is_skipped_and_a_short_one_is_empty_windows(monkeypatch):
    monkeypatch.setattr(module, "MOST_EMPTY", 5)
    cutter = Windows(DURATION, SENSOR)
    one = np.array([0])
    for t in (100, 3100, 9_000_000_100):
        made = list(cutter.add(Packet(np.array([t]), one, one, one, 0.0)))
        assert len(made) <= 6
    assert cutter.seen.skipped_windows == 9_000_000 - 4


def part(t):
    """A packet of events in one place."""
    none = np.zeros(len(t), np.int64)
    return Packet(np.asarray(t), none, none, none, 0.0)


def test_on_a_wire_the_first_window_is_that_of_the_first_event():
    cutter = Windows(DURATION, SENSOR, live=True)
    ends = [each.end_us for each in cutter.add(part([40_000_500, 40_000_900, 40_002_100]))]
    assert ends == [40_001_000, 40_002_000]
    assert cutter.seen.skipped_windows == 0


@pytest.mark.parametrize("stray", [0, 10**15], ids=["a camera plugged in again", "a stray time"])
def test_a_clock_that_begins_anew_is_followed(stray):
    cutter = Windows(DURATION, SENSOR, live=True)
    list(cutter.add(part([500_000, 501_500])))
    if stray:
        list(cutter.add(part([stray])))
    made = [list(cutter.add(part([1000 * step + 10]))) for step in range(40)]
    assert cutter.seen.new_clocks == 1
    assert cutter.seen.too_late == module.LATE_PACKETS - 1
    assert [each.end_us for windows in made for each in windows] == [
        1000 * step for step in range(module.LATE_PACKETS, 40)
    ]


def test_after_a_jump_in_time_the_round_begins_at_rest(step, monkeypatch):
    monkeypatch.setattr(module, "MOST_EMPTY", 2)
    events = Events.from_arrays([100, 1100, 90_000, 91_000], [0] * 4, [0] * 4, [0] * 4, SENSOR)
    lines = list(follow(step, FileSource(events)))
    assert [line["step"] for line in lines[:5]] == [1, 2, 1, 2, 3]


def test_bins_that_need_the_end_are_refused():
    with pytest.raises(UsageError, match="needs the end of a recording"):
        Windows({"name": "equal_count", "steps": 4}, SENSOR)
    with pytest.raises(UsageError, match="fixed duration"):
        Windows(COUNT, SENSOR, max_rate=5)


def follow(step, source, binning=DURATION, **options: Any) -> Follower:
    options = {"rule": ExitRule(threshold=2.0)} | options
    cutter = Windows(binning, SENSOR)
    return Follower(step, source, cutter, to_frame=lambda c: c.astype(np.float32), **options)


@pytest.mark.parametrize("binning", [DURATION, COUNT], ids=["duration", "count"])
@pytest.mark.parametrize("last_us", [3999, 1500])
def test_a_stream_decides_as_offline_evaluation_does(network, step, binning, last_us):
    import torch

    offline = {"fixed_duration": FixedDuration(STEPS, 1000), "fixed_count": FixedCount(STEPS, 150)}
    for seed in range(5):
        events = recording(seed, last_us=last_us, count=600)
        lines = list(follow(step, FileSource(events), binning))[:STEPS]
        frames = torch.from_numpy(offline[binning["name"]](events).astype(np.float32))
        with torch.inference_mode():
            wanted = network(frames[:, None])[:, 0].cumsum(0).argmax(-1).tolist()
        assert [line["label"] for line in lines] == wanted
        assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
        assert [line["final"] for line in lines] == [False] * (STEPS - 1) + [True]


def test_a_round_ends_with_its_decision_and_the_next_begins_at_rest(step):
    events = recording(last_us=11_999, count=3000)
    follower = follow(step, FileSource(events))
    lines = list(follower)
    assert [line["step"] for line in lines][:9] == [1, 2, 3, 4, 1, 2, 3, 4, 1]
    late = Events.from_arrays(
        *(np.asarray(c)[events.t >= 4000] for c in (events.t, events.x, events.y, events.p)), SENSOR
    )
    moved = Events(late.t - 4000, late.x, late.y, late.p, SENSOR)
    again = list(follow(step, FileSource(moved)))
    assert [line["label"] for line in lines[4:8]] == [line["label"] for line in again[:4]]
    summary = follower.summary()
    assert summary["decisions"] == 2
    assert summary["events"] == 3000
    assert summary["step_ms"]["p50"] > 0


def wire(events: Events) -> bytes:
    records = np.zeros(len(events), RECORD)
    records["t"], records["x"], records["y"], records["on"] = events.t, events.x, events.y, events.p
    return records.tobytes()


def test_malformed_packets_and_events_are_counted():
    losses = Losses()
    assert decode(b"", losses) is None
    assert decode(b"x" * 14, losses) is None
    bad = np.zeros(3, RECORD)
    bad["t"][1], bad["on"][2] = 1 << 60, 7
    packet = decode(bad.tobytes(), losses)
    assert packet is not None
    assert len(packet.t) == 1
    assert (losses.malformed_packets, losses.malformed_events) == (2, 2)


def test_a_pipe_may_break_records_anywhere(step):
    content = wire(recording())

    class Dribble(io.RawIOBase):
        def __init__(self) -> None:
            self.rest = content + b"cut"

        def read1(self, _: int) -> bytes:
            piece, self.rest = self.rest[:101], self.rest[101:]
            return piece

    source = PipeSource(Dribble())  # type: ignore[arg-type]
    packets = list(source)
    assert sum(len(packet.t) for packet in packets) == 900
    assert source.losses.malformed_packets == 1


def test_udp_gives_what_the_file_gives_and_ends_when_nobody_sends(step):
    events = recording()
    source = UdpSource("127.0.0.1", 0, idle_timeout=1.0)

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(("127.0.0.1", source.port))
            sender.send(b"no records!")
            content = wire(events)
            for first in range(0, len(content), 50 * RECORD.itemsize):
                sender.send(content[first : first + 50 * RECORD.itemsize])
                time.sleep(0.002)

    thread = threading.Thread(target=send)
    thread.start()
    follower = follow(step, source)
    live = list(follower)
    thread.join()
    filed = list(follow(step, FileSource(events)))
    assert [line["label"] for line in live] == [line["label"] for line in filed]
    assert all(line["late_ms"] >= 0 for line in live)
    assert follower.summary()["malformed_packets"] == 1


def test_a_port_that_is_taken_is_a_usage_error():
    first = UdpSource("127.0.0.1", 0)
    with pytest.raises(UsageError, match="cannot listen"):
        UdpSource("127.0.0.1", first.port)
    first.close()


@pytest.fixture
def command(exported) -> Any:
    root = str(Path(anystep.__file__).parents[1])

    def make(*words: str) -> list[str]:
        return [sys.executable, "-m", "anystep.deploy.runtime", str(exported[0]), *words]

    make.root = root  # type: ignore[attr-defined]
    return make


def test_the_command_prints_a_line_a_window_and_a_summary(command, tmp_path):
    events = recording()
    path = tmp_path / "recording.npz"
    np.savez(path, t=events.t, x=events.x, y=events.y, p=events.p)
    words = command("--source", str(path), "--sensor", "16,16", "--threshold", "2")
    done = subprocess.run(words, capture_output=True, text=True, cwd=command.root)
    assert done.returncode == 0, done.stderr
    *lines, last = map(json.loads, done.stdout.splitlines())
    assert len(lines) == STEPS
    assert last["summary"]["decisions"] == 1


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["--source", "none.bin"], "none.bin"),
        (["--source", "udp://127.0.0.1"], "expected udp://HOST:PORT"),
        (["--source", "-", "--sensor", "16"], "--sensor: height and width"),
        (["--source", "-", "--sensor", "8,8"], "trained on 16 x 16 pixels, the source has 8 x 8"),
        (["--source", "-", "--score", "margin"], "need a --threshold"),
        (["--source", "camera"], "no camera"),
    ],
)
def test_a_wrong_word_is_one_line_and_exit_2(command, words, word):
    done = subprocess.run(
        command(*words), capture_output=True, text=True, cwd=command.root, input=""
    )
    assert done.returncode == 2
    assert word in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_interrupted_command_says_how_it_went(command):
    words = command("--source", "udp://127.0.0.1:0")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=command.root) as process:
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert json.loads(out.splitlines()[-1])["summary"]["windows"] == 0


def test_a_reader_that_goes_away_is_no_error(command, tmp_path):
    content = wire(recording(last_us=399_999, count=20_000))
    words = " ".join(command("--source", "-", "--sensor", "16,16")) + " | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", words],
        input=content,
        capture_output=True,
        cwd=command.root,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert done.stderr == b""


def resident(process: subprocess.Popen[str]) -> int:
    """Bytes of memory that a process has now."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_ten_minutes_of_udp_take_no_more_memory_than_one(command, tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = command("--source", f"udp://127.0.0.1:{port}", "--sensor", "16,16", "--idle-timeout=5")
    out = tmp_path / "lines"
    began, sent, packets, memory = time.monotonic(), 0, 0, []
    with out.open("w") as file, subprocess.Popen(words, stdout=file, cwd=command.root) as process:
        time.sleep(3)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while (now := time.monotonic() - began) < 600:
                events = recording(packets, count=100, last_us=999)
                content = np.frombuffer(wire(events), RECORD).copy()
                content["t"] += np.uint64(1000 * packets)
                sender.sendto(content.tobytes() + b"!" * (packets % 50 == 0), ("127.0.0.1", port))
                packets, sent = packets + 1, sent + 100 * (packets % 50 != 0)
                if now > 60 * (len(memory) + 1):
                    memory.append(resident(process))
                time.sleep(max(0.0, packets / 1000 - (time.monotonic() - began - 3)))
        process.wait(timeout=60)
    summary = json.loads(out.read_text().splitlines()[-1])["summary"]
    assert process.returncode == 0
    assert max(memory[1:]) <= memory[0] + (8 << 20)
    assert summary["malformed_packets"] == -(-packets // 50)
    assert summary["events"] + 100 * summary["dropped_packets"] >= 0.99 * sent
    assert summary["windows"] > 100_000
