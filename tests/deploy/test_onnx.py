"""An exported step decides as the network does, step after step; what cannot, is refused."""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import pytest
import torch
from trained import ABOUT, make, samples, trained

from anystep._errors import UsageError
from anystep.deploy import onnx as module
from anystep.deploy.onnx import compare, export_step, prepared
from anystep.deploy.step import Step
from anystep.nn.activations import QCFS
from anystep.nn.models import MODELS
from anystep.nn.neurons import Neuron, neuron_factory

NEURONS: dict[str, Any] = {
    "lif": {"name": "lif", "tau": 2.0},
    "lif, soft reset, tau 3": {"name": "lif", "tau": 3.0, "v_reset": None},
    "lif, reset below 0, fires at the threshold": {
        "name": "lif",
        "v_reset": -0.25,
        "fire_at_threshold": True,
        "decay_input": False,
    },
    "plif": {"name": "plif", "tau": 2.5},
    "if": {"name": "if"},
}
EASY = {"name": "lif", "v_threshold": 0.05}  # so that the layers of an untrained network fire
SMALL: dict[str, dict[str, Any]] = {
    "vgg_snn": {"widths": [[8], [12]]},
    "vgg9": {"widths": [[8], [12]], "input_size": [16, 12]},
    "resnet19": {"stages": [[8, 1], [12, 1]], "stem": 8},
    "sew_resnet19": {"stages": [[8, 1], [12, 1]], "stem": 8},
    "sew_resnet18": {"stages": [[8, 1], [8, 1]]},
    "sew_resnet34": {"stages": [[8, 2], [8, 1]]},
    "sew_resnet50": {"stages": [[4, 1], [4, 1]]},
}


def test_a_trained_network_whose_layers_all_fire_is_exported_exactly(exported):
    _, parity = exported
    assert parity.holds
    assert parity.logits <= 1e-5
    assert parity.membranes <= 1e-5
    assert parity.spikes == parity.ties == 0
    assert all(0.02 <= rate <= 0.4 for rate in parity.rates.values()), parity.rates


def test_a_whole_sequence_through_the_file_says_what_the_network_says(network, step):
    frames = samples(5)
    logits, _ = step.advance(frames.numpy(), step.rest(5))
    with torch.inference_mode():
        np.testing.assert_allclose(logits, network(frames), atol=1e-4)


def test_swapped_states_fail_the_comparison(network, exported, monkeypatch):
    fused, step = prepared(network), Step(exported[0])
    assert step.about["states"][1]["shape"] == step.about["states"][2]["shape"]

    class Swapped:
        def __call__(self, frame, state):
            logits, (first, second, third) = step(frame, [state[0], state[2], state[1]])
            return logits, (first, third, second)

    parity = compare(fused, Swapped(), samples())
    assert not parity.holds
    assert parity.spikes > parity.ties


def test_a_file_that_disagrees_is_not_written(network, tmp_path, monkeypatch):
    def wrong(network, states, description):
        other = copy.deepcopy(network)
        other.classifier.bias.data += 2e-5 * torch.arange(3)
        return graph(other, states, description)

    graph = module._graph
    monkeypatch.setattr(module, "_graph", wrong)
    with pytest.raises(RuntimeError, match="disagree"):
        export_step(network, tmp_path / "net.onnx", frames=samples(), about=ABOUT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "neuron", [pytest.param(n, marks=() if n == "plif" else pytest.mark.slow) for n in NEURONS]
)
def test_every_neuron_is_exported(neuron, tmp_path):
    torch.manual_seed(0)
    model = trained(make("vgg_snn", neuron=NEURONS[neuron], widths=[[6], [6]]), epochs=1)
    parity = export_step(model, tmp_path / "net.onnx", frames=samples(), about=ABOUT)
    assert parity.holds
    assert max(parity.rates.values()) > 0.01


@pytest.mark.parametrize("scale", ["output", pytest.param("folded", marks=pytest.mark.slow)])
def test_the_converted_network_is_exported_from_its_rest_at_half_a_threshold(scale, tmp_path):
    torch.manual_seed(0)
    model = make(
        "vgg_snn", neuron={"name": "qcfs_if", "scale": scale, "clip_init": 2.0}, widths=[[6], [6]]
    )
    parity = export_step(
        trained(model, epochs=1), tmp_path / "n.onnx", frames=samples(), about=ABOUT
    )
    assert parity.holds
    assert [state["rest"] for state in Step(tmp_path / "n.onnx").about["states"]] == [0.5, 0.5]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in sorted({*MODELS} - {"sew_resnet19"})]


@pytest.mark.parametrize("name", ["sew_resnet19", *SLOW])
def test_every_model_of_the_table_is_exported(name, tmp_path):
    torch.manual_seed(0)
    model = make(name, neuron=EASY, **SMALL[name])
    frames = samples(16)[..., : model.frame_shape[2]]
    for _ in range(3):  # so that the norms have seen frames
        model.train()(frames)
    parity = export_step(model.eval(), tmp_path / "n.onnx", frames=frames[:, :4], about=ABOUT)
    assert parity.holds
    assert min(parity.rates.values()) > 0


def test_the_fewest_operations_give_the_references_bits():
    torch.manual_seed(0)
    x, v = 3 * torch.randn(5, 4, 7), torch.randn(4, 7)
    for options in NEURONS.values():
        kind = {key: value for key, value in options.items() if key != "name"}
        neuron = cast(Neuron, neuron_factory(options["name"], **kind)())
        for given in (v, None):
            said = []
            for neuron.backend in ("reference", "graph"):
                with torch.no_grad():
                    said.append(neuron(x, given))
            assert all(map(torch.equal, *said))


def test_norms_of_their_own_at_every_step_are_refused_by_name(tmp_path):
    model = make("vgg_snn", norm={"name": "tebn", "steps": 4}, widths=[[4]]).eval()
    with pytest.raises(UsageError, match=r"stages.0.0.norm"):
        export_step(model, tmp_path / "n.onnx", frames=samples(2), about=ABOUT)
    assert not list(tmp_path.iterdir())


def test_an_ann_has_no_state_and_is_exported_as_such(tmp_path):
    model = make("vgg_snn", neuron="qcfs", widths=[[4]]).eval()
    assert any(isinstance(module, QCFS) for module in model.modules())
    assert export_step(model, tmp_path / "n.onnx", frames=samples(2), about=ABOUT).holds
    assert Step(tmp_path / "n.onnx").rest(3) == ()
