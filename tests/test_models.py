"""create_model and VGG-SNN: what is built, and what is refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from anystep.models import create_model, name_and_options
from anystep.models.base import StepModel
from anystep.neurons import LIF, PLIF, ReLU
from anystep.norms import BatchNorm


def small(**options):
    return create_model("vgg_snn", **{"num_classes": 3, "input_size": 8, "widths": [[4], [6]], **options})


def test_the_published_network_is_eight_convolutions_four_pools_and_one_linear_layer():
    with torch.device("meta"):
        model = create_model("vgg_snn", num_classes=10, input_size=48)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == [
        (2, 64), (64, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 512), (512, 512),
    ]  # fmt: skip
    assert all((m.kernel_size, m.padding, m.stride, m.bias) == ((3, 3), (1, 1), (1, 1), None) for m in convolutions)
    assert (model.classifier.in_features, model.classifier.out_features) == (512 * 3 * 3, 10)
    sizes = [(m.shape[0], m.shape[1]) for m in model.modules() if isinstance(m, LIF)]
    assert sizes == [(64, 48), (128, 48), (256, 24), (256, 24), (512, 12), (512, 12), (512, 6), (512, 6)]


def test_one_step_of_a_network_by_hand():
    model = small(widths=[[1]], in_planes=1, input_size=2, num_classes=1, norm="bn").eval()
    with torch.no_grad():
        block = model.stages[0][0]
        block.conv.weight.zero_()
        block.conv.weight[0, 0, 1, 1] = 1.0  # the identity
        model.classifier.weight.fill_(3.0)
        model.classifier.bias.fill_(0.5)
    # untrained norm: x / sqrt(1 + 1e-5); tau 2: h = x / 2 fires above 0.5, so 2 and 3 fire and 1 and 0 do not
    frames = torch.tensor([[2.0, 1.0], [3.0, 0.0]]).reshape(1, 1, 1, 2, 2)
    logits, (membrane,) = model.advance(frames, model.rest(1))
    assert logits.item() == pytest.approx(3.0 * (2 / 4) + 0.5)  # the pool averages two spikes of four
    torch.testing.assert_close(membrane[0, 0], torch.tensor([[0.0, 0.5], [0.0, 0.0]]), rtol=1e-4, atol=0)


def test_the_neuron_and_the_norm_get_their_own_arguments():
    model = small(neuron={"name": "plif", "tau": 4.0, "v_threshold": 1.0}, norm={"name": "bn", "momentum": 0.3})
    neurons = [m for m in model.modules() if isinstance(m, PLIF)]
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
    assert [(m.tau, m.v_threshold) for m in neurons] == [(4.0, 1.0)] * 2
    assert [m.momentum for m in norms] == [0.3] * 2
    assert neurons[0].w is not neurons[1].w


def test_an_ann_twin_takes_the_weights_of_its_spiking_network():
    spiking, twin = small(), small(neuron="relu")
    twin.load_state_dict(spiking.state_dict())
    assert sum(isinstance(m, ReLU) for m in twin.modules()) == 2
    assert not any(isinstance(m, LIF) for m in twin.modules())


def test_equal_seeds_give_equal_weights_and_other_seeds_do_not():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in small().parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_a_spec_is_a_name_or_a_mapping_with_one_and_stays_as_it_was():
    spec = {"name": "lif", "tau": 2.0}
    assert name_and_options("lif") == ("lif", {})
    assert name_and_options(spec) == ("lif", {"tau": 2.0})
    assert spec == {"name": "lif", "tau": 2.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": [[4]]}, r"unknown argument 'width' in model vgg_snn. Did you mean 'widths'"),
        ({"conv_bias": 1}, r"model vgg_snn: conv_bias must be bool, got 1"),
        ({"neuron": "lff"}, r"unknown neuron 'lff'. Did you mean 'lif'\? Known: if, lif, plif, relu"),
        ({"neuron": {"name": "lif", "tua": 2.0}}, r"unknown argument 'tua' in neuron lif. Did you mean 'tau'"),
        ({"neuron": {"name": "lif", "tau": 0.5}}, r"LIF: tau is in time steps and must be >= 1, got 0.5"),
        ({"neuron": {"tau": 2.0}}, r"unknown neuron ''"),
        ({"norm": "bm"}, r"unknown norm 'bm'. Did you mean 'bn'"),
        ({"norm": {"name": "bn", "momentun": 0.1}}, r"unknown argument 'momentun' in norm bn. Did you mean 'momentum'"),
        ({"num_classes": 0}, r"VGGSNN: num_classes must be >= 1, got 0"),
        ({"in_planes": 0}, r"VGGSNN: in_planes must be >= 1, got 0"),
        ({"input_size": -3}, r"VGGSNN: input_size must be >= 1, got -3"),
        ({"input_size": 3}, r"VGGSNN: input_size 3 is too small to be halved 2 times"),
        ({"widths": [4, 6]}, r"VGGSNN: widths must be one list of channel counts a stage, .* got \[4, 6\]"),
        ({"widths": []}, r"VGGSNN: widths must be .* got \[\]"),
        ({"widths": [[4], []]}, r"VGGSNN: widths must be .* got \[\[4\], \[\]\]"),
        ({"widths": [[4], [0]]}, r"VGGSNN: widths must be .* got \[\[4\], \[0\]\]"),
        ({"widths": [[4], [2.5]]}, r"VGGSNN: widths must be .* got \[\[4\], \[2.5\]\]"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(options, message):
    if "input_size" in options and options["input_size"] == 3:
        options = {**options, "widths": [[4], [6]]}
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_an_unknown_model_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"unknown model 'vggsnn'. Did you mean 'vgg_snn'\? Known: vgg_snn"):
        create_model("vggsnn", num_classes=2, input_size=8)


def test_a_model_without_a_topology_says_so():
    class Empty(StepModel):
        def __init__(self):
            super().__init__(in_planes=1, input_size=2, num_classes=1)
            self.classifier = nn.Linear(4, 1)

    with pytest.raises(TypeError, match=r"Empty defines no network\(frames, carry\)"):
        Empty()(torch.zeros(1, 1, 1, 2, 2))
