"""`python -m benchmarks`: what it counts is right and what it compares is the same thing. No test
looks at how long anything takes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import benchmarks
from anystep.nn.models import create_model
from anystep.nn.neurons import BACKENDS, LIF, scan
from benchmarks import (
    COLUMNS,
    layer,
    measure,
    memory,
    networks,
    peers,
    run_bench,
    selfcheck,
    tables_of,
)
from benchmarks.__main__ import main
from benchmarks.measure import Contender, Setup

CPU = torch.device("cpu")
ONCE = Setup(CPU, repeats=1, quick=True)
LAYER, LINEAR, FRAMES = (3, 2, 4, 5, 5), (5, 2, 8), (2, 1, 2, 16, 16)


def with_a_peer(monkeypatch):
    """A library whose neuron is ours, and a smaller network to try it on."""
    monkeypatch.setattr(networks, "create_model", partial(create_model, widths=[[8, 8], [16]]))
    monkeypatch.setattr(peers, "PEERS", {"twinlib": lambda device: {"twinlib": like_ours}})


@pytest.fixture
def clock(monkeypatch):
    """Time passes where a test says so: `clock.work(name, *seconds)` in turn, with a diary."""
    now, diary = [0.0], []

    def work(name, *seconds):
        turns = iter(seconds)

        def run():
            diary.append(name)
            now[0] += next(turns)

        return run

    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return SimpleNamespace(work=work, diary=diary)


def like_ours(*, shape=None):
    return peers.PeerNeuron(nn.Identity(), lambda _, x: LIF()(x)[0])


def wrong_kernel(*, spikes=0.0, membrane=0.0, gradient=1.0):
    """The reference with one thing a little wrong."""

    def run(x, v, decay, gain, rule):
        same = x + (gradient - 1) * (x - x.detach())  # in value
        s, last = scan(same, v, decay, gain, rule)
        return s + spikes, last + membrane

    return lambda: run


def test_contenders_take_turns_and_the_warm_up_does_not_count(clock):
    contenders = [
        Contender("a", clock.work("a", 9.0, 1.0, 2.0, 4.0)),
        Contender("b", clock.work("b", 9.0, 2.0, 2.0, 16.0)),
    ]
    a, b = measure.measure(contenders, Setup(CPU, repeats=3, quick=True), against=["a"])
    assert clock.diary == ["a", "b"] * 4
    times = [a[key] for key in ("median_ms", "q1_ms", "q3_ms", "min_ms", "rounds")]
    assert times == [2000, 1500, 3000, 1000, 3]
    assert a["ratio_to"] == {}
    assert b["ratio_to"] == {"a": 2.0}  # the median of 2/1, 2/2 and 16/4, not 2/2


def test_ratios_stay_inside_a_group_and_a_scale_counts(clock):
    one = Contender("base", clock.work("base", 1.0, 1.0), "one", scale=2.5)
    other = Contender("base", clock.work("base", 1.0, 4.0), "two")
    same = Contender("x", clock.work("x", 1.0, 5.0), "one")
    rows = measure.measure([one, same, other], ONCE, against=["base"])
    assert [row["median_ms"] for row in rows] == [2500, 5000, 4000]
    assert [row["ratio_to"] for row in rows] == [{}, {"base": 2.0}, {}]


def test_the_warm_up_ends_when_memory_is_warm(clock, monkeypatch):
    faults = iter(range(0, 10_000_000, 300))  # 300 more every time somebody looks
    monkeypatch.setattr(measure, "page_faults", lambda: (next(faults), 0))
    a, b = (Contender(name, clock.work(name, *[1.0] * 9)) for name in "ab")
    measure.measure([a], Setup(CPU, repeats=1), against=[])
    assert len(clock.diary) == measure.WARM_UP + 1
    monkeypatch.setattr(measure, "page_faults", lambda: (0, 0))
    (row,) = measure.measure([b], Setup(CPU, repeats=1), against=[])
    assert clock.diary.count("b") == 3
    assert row["minor_faults"] == 0


def test_a_spent_budget_ends_the_rounds_and_leaves_out_groups_but_not_the_first(clock, capsys):
    def group(name):
        contender = Contender("a", clock.work(name, *[2.0] * 9), name)
        return lambda: measure.measure([contender], setup, against=[])

    setup = Setup(CPU, repeats=5, quick=True, until=7.0)
    groups = {name: group(name) for name in ("one", "two")}
    rows, left_out = measure.measure_groups(groups, setup)
    assert [(row["group"], row["rounds"]) for row in rows] == [("one", 3)]
    assert left_out == {"two": "the budget was spent"}
    assert capsys.readouterr().err == "one: a: warm up\none: 5 rounds of about 2 s\n"
    rows, left_out = measure.measure_groups({"two": groups["two"]}, setup)
    assert [(row["group"], row["rounds"]) for row in rows] == [("two", 1)]
    assert left_out == {}


def test_as_many_rounds_as_fit_into_a_minute():
    assert [Setup(CPU).rounds(round_s) for round_s in (0.001, 10.0, 1000.0)] == [15, 6, 3]
    assert Setup(CPU, quick=True).rounds(0.001) == 3
    assert Setup(CPU, repeats=7).rounds(1000.0) == 7


def test_saved_bytes_counts_each_storage_once_and_no_weights():
    x, y, weight = (torch.ones(10, requires_grad=True) for _ in range(3))
    assert memory.saved_bytes(lambda: x * y) == 80
    # x, y, their product so far, and the sum
    assert memory.saved_bytes(lambda: x * x[:5].sum() * y) == 40 + 40 + 40 + 4
    assert memory.saved_bytes(lambda: x * weight, without=(weight,)) == 40
    assert memory.saved_bytes(lambda: x + y) == 0


def test_the_peak_is_the_most_memory_in_use_at_once():
    if (peak := memory.peak_bytes(lambda: torch.ones(10_000_000).sum(), CPU)) is None:
        pytest.skip("this system does not tell")
    assert 38e6 < peak < 60e6  # Linux counts pages in batches


def test_a_pinned_allocator_gives_freed_memory_again():
    code = """
import numpy as np
from benchmarks.memory import page_faults, pin_allocator
print(pin_allocator())
for turn in range(6):
    before = page_faults()[0]
    np.ones(10_000_000)
    print(page_faults()[0] - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    how, *faults = done.stdout.splitlines()
    if how.startswith("not pinned"):
        pytest.skip(how)
    assert int(faults[0]) > 10 > int(faults[-1])  # 80 MB afresh are 20,000 pages, or 40 huge ones


WRONG = {"spikes": ("spikes", 0.001), "membrane": ("membrane", 1e-3)}
WRONG["gradient"] = ("gradient of x", 1.01)


@pytest.mark.parametrize("part", WRONG)
def test_the_self_check_catches_a_wrong_kernel(monkeypatch, part):
    what, error = WRONG[part]
    monkeypatch.setitem(BACKENDS, "numba", wrong_kernel(**{part: error}))
    with pytest.raises(RuntimeError, match=f"no time is taken: .* 'numba' .* in the {what}"):
        selfcheck.check_backends(["reference", "numba"], CPU)


def test_a_backend_that_breaks_is_an_error_and_one_that_refuses_is_left_out(monkeypatch):
    def breaks():
        raise RuntimeError("segfault, nearly")

    def refuses():
        raise ImportError("no such compiler")

    monkeypatch.setitem(BACKENDS, "other", refuses)
    assert selfcheck.backends_here(CPU)[1]["anystep other"] == "no such compiler"
    monkeypatch.setitem(BACKENDS, "other", breaks)
    with pytest.raises(RuntimeError, match="segfault"):
        selfcheck.backends_here(CPU)


@pytest.mark.parametrize("kind", ["neurons", "train", "infer"])
def test_no_time_is_printed_while_a_kernel_is_wrong(monkeypatch, capsys, kind):
    monkeypatch.setattr(peers, "PEERS", {})
    monkeypatch.setattr(benchmarks, "pin_allocator", lambda: "pinned")
    monkeypatch.setitem(BACKENDS, "numba", wrong_kernel(gradient=0.9))
    assert main([kind, "--quick"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"\nbenchmarks {kind}: no time is taken" in err


def test_neurons_has_a_floor_and_every_backend_and_counts_what_is_saved(monkeypatch):
    monkeypatch.setattr(peers, "PEERS", {})
    neurons = run_bench("neurons", shapes=[LAYER, LINEAR], repeats=1, quick=True, pin=False)
    alone = {row["name"]: row for row in neurons["rows"] if row["group"] == str(LAYER)}
    behind = [row["name"] for row in neurons["rows"] if row["group"] == f"Linear + LIF {LINEAR}"]
    backends = [name for name in alone if name != "floor"]
    assert backends[:2] == ["anystep reference", "anystep numba"]
    assert "anystep numba arctan" in backends
    assert behind == ["linear alone", *backends]
    assert all(row.keys() >= COLUMNS for row in neurons["rows"])
    # The input; of a membrane at rest one value stands for all.
    assert 4 <= alone["anystep numba"]["saved_bytes"] < 4.1
    assert alone["anystep reference"]["saved_bytes"] > 7
    assert set(alone["anystep numba"]["ratio_to"]) == {"floor", "anystep reference"}
    assert neurons["checked"] == [name for name in BACKENDS if f"anystep {name} arctan" in backends]

    tables = tables_of(neurons)
    groups = (LAYER, f"Linear + LIF {LINEAR}")
    assert [title for title, _, _ in tables] == [f"bench neurons {group}" for group in groups]
    assert sum(len(rows) for _, _, rows in tables) == len(neurons["rows"])
    for _, header, rows in tables:
        assert {len(row) for row in rows} == {len(header)}
    assert {"/ floor", "/ reference", "/ numba", "saved_bytes"} <= set(tables[0][1])


def test_train_compares_networks_that_differ_in_the_neuron_alone(monkeypatch):
    with_a_peer(monkeypatch)
    found, about = networks._networks(ONCE, torch.Size(FRAMES), training=True)
    assert list(found)[:3] == ["relu twin", "anystep reference", "anystep numba"]
    assert [name for name, model in found.items() if model.recompute] == ["anystep numba recompute"]
    assert list(found)[-2:] == ["twinlib", "twinlib nchw"]
    assert about["frames"] == list(FRAMES)
    twin = found["relu twin"].state_dict()
    for name, model in found.items():
        assert all(torch.equal(twin[key], value) for key, value in model.state_dict().items()), name
        kernels = [weight for weight in model.parameters() if weight.dim() == 4]
        layouts = {kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels}
        assert layouts == {not name.endswith("nchw")}
    x = torch.rand(FRAMES)
    ours = found["anystep reference"](x)
    assert torch.allclose(found["twinlib"](x), ours, atol=1e-5)
    assert not torch.allclose(found["relu twin"](x), ours, atol=1e-5)


@pytest.fixture(scope="module")
def trained():
    with pytest.MonkeyPatch.context() as patch:
        with_a_peer(patch)
        return run_bench("train", shapes=[FRAMES], repeats=1, quick=True, pin=False)


def test_train_tells_the_ratio_to_the_twin_and_the_share_of_a_matrix_product(trained):
    _, twin, *others = trained["rows"]
    assert twin["name"] == "relu twin"
    assert all(row.keys() >= {*COLUMNS, "share_of_matmul"} for row in others)
    assert all("relu twin" in row["ratio_to"] for row in others)
    speed = trained["summary"]["gflop"] / trained["summary"]["matmul_gflops"] * 1000
    assert twin["share_of_matmul"] == pytest.approx(speed / twin["median_ms"], rel=0.01)
    json.dumps(trained)


def test_train_tells_what_recompute_costs_and_saves(trained):
    rows, summary = {row["name"]: row for row in trained["rows"]}, trained["summary"]
    plain, again = rows["anystep numba"], rows["anystep numba recompute"]
    assert summary["recompute_time"] == {"anystep numba": again["ratio_to"]["anystep numba"]}
    for key, column in (("recompute_time", "median_ms"), ("recompute_saved", "saved_mib")):
        price = again[column] / plain[column]
        assert summary[key] == {"anystep numba": pytest.approx(price, rel=1e-3)}
    assert 0 < again["saved_mib"] < 0.8 * plain["saved_mib"]
    printed = dict(tables_of(trained)[-1][2])
    price = summary["recompute_time"]["anystep numba"]
    assert printed["recompute_time: anystep numba"] == f"{price:.4g}"


def test_infer_measures_every_number_of_steps_against_the_twin(monkeypatch):
    with_a_peer(monkeypatch)
    result = run_bench("infer", shapes=[FRAMES], repeats=1, quick=True, pin=False)
    names = ["relu twin", "anystep reference", "anystep numba", "twinlib"]
    rows = {(row["group"], row["name"]): row for row in result["rows"]}
    timed = {(group, name) for group in ("T=1", "T=2") for name in names}
    assert set(rows) == {("", "matmul 1024"), *timed}
    summary = result["summary"]
    once, twice = ({name: rows[t, name]["median_ms"] for name in names} for t in ("T=1", "T=2"))
    shares = {name: once[name] / twice[name] for name in names}
    assert summary["first_over_last"] == pytest.approx(shares, rel=1e-3)
    assert summary["first_over_last_to_twin"]["relu twin"] == 1


def test_operations_are_counted_as_by_hand():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 1, groups=2), nn.Flatten(), nn.Linear(150, 7)
    )
    x = torch.rand(3, 2, 5, 5)
    first, second, last = 2 * 3 * 4 * 25 * 18, 2 * 3 * 6 * 25 * 2, 2 * 3 * 7 * 150
    assert networks._flops(model, lambda: model(x), backward=False) == first + second + last
    there_and_back = 2 * first + 3 * second + 3 * last  # x needs no gradient
    assert networks._flops(model, lambda: model(x), backward=True) == there_and_back


def test_a_peer_takes_part_only_if_it_is_there_runs_and_fires_as_lif_does(monkeypatch):
    def missing(device):
        raise ImportError("No module named 'missing'")

    def breaks(*, shape=None):
        raise TypeError("only on Mars")

    other = peers.PeerNeuron(LIF(tau=4.0), lambda neuron, x: neuron(x)[0])
    here = {"here a": like_ours, "here b": breaks, "here c": lambda: other}
    monkeypatch.setattr(peers, "PEERS", {"missing": missing, "here": lambda device: here})
    found, left_out = peers.find_peers(CPU)
    assert list(found) == ["here a"]
    assert left_out["missing"] == "cannot be imported: No module named 'missing'"
    assert left_out["here b"] == "TypeError: only on Mars"
    assert "another neuron" in left_out["here c"]
    assert peers.peer_versions() == {}


@pytest.mark.parametrize("library", peers.PEERS)
def test_an_installed_peer_is_found(library):
    pytest.importorskip(library)
    found, left_out = peers.find_peers(CPU)
    assert any(name.startswith(library) for name in found), left_out
    assert library in peers.peer_versions()


def test_the_first_round_of_first_calls_may_compile_and_does_not_count(monkeypatch):
    seconds = iter([100.0, 200.0, 1.0, 4.0, 3.0, 6.0])
    monkeypatch.setattr(layer, "_first_call", lambda backend, device: next(seconds))
    assert layer.first_calls(["a", "b"], CPU, rounds=2) == {"a": 2.0, "b": 5.0}


def test_the_first_call_of_a_kernel_is_told_beside_that_of_the_reference():
    seconds = {"reference": 0.5, "numba": 1.25}
    told = layer._first_call_summary(seconds)
    assert told == {"first_call_s": seconds, "first_call_over_reference_s": {"numba": 0.75}}


def test_a_first_call_that_fails_is_an_error(monkeypatch):
    monkeypatch.setattr(layer, "FIRST_CALL", "raise SystemExit('out of luck')")
    with pytest.raises(RuntimeError, match="'numba' in a fresh process failed: out of luck"):
        layer._first_call("numba", "cpu")


def test_the_command_prints_tables_and_saves_what_it_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "PEERS", {})
    monkeypatch.setattr(benchmarks, "pin_allocator", lambda: "pinned for a test")
    path = tmp_path / "bench_neurons.json"
    asked = ["--quick", "--repeats", "2", "--shape", "3,2,4", "--save", str(path)]
    assert main(["neurons", *asked]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out.splitlines()[-1])
    assert json.loads(path.read_text()) == result
    assert result["settings"]["allocator"] == "pinned for a test"
    assert {row["rounds"] for row in result["rows"]} == {2}
    assert "pinned for a test" in err
    assert "linear alone" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("neurons --repeats 0", "bench: repeats must be >= 1, got 0"),
        ("neurons --shape 3,x", "--shape: whole numbers with commas between"),
        ("neurons --shape 3,0,4", "bench: a shape is whole numbers >= 1, got (3, 0, 4)"),
        ("neurons --device tpu", "bench: device must be 'cpu' or 'cuda', got 'tpu'"),
        ("neurons --save no/such/folder/x.json", "--save: no folder 'no/such/folder'"),
        ("data --shape 3,3", "bench: data takes no shape"),
        ("train --shape 3,3", "are (T, N, P, H, W) with H = W, got (3, 3)"),
        ("train --shape 1,1,2,16,16 --shape 2,1,2,16,16", "a network takes one shape, got 2"),
        ("infer --model vgg_sn", "unknown model 'vgg_sn'. Did you mean 'vgg_snn'?"),
    ],
)
def test_a_wrong_request_is_refused_by_name(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(benchmarks, "pin_allocator", lambda: "pinned")
    assert main(arguments.split()) == 2
    assert message in capsys.readouterr().err
