"""Arguments that are refused, each by a word of its message."""

from __future__ import annotations

import math
import re

import pytest
import torch
from little import network
from torch import nn

from anystep._errors import UsageError
from anystep.nn.activations import QCFS
from anystep.nn.fuse import fuse_model
from anystep.nn.layers import direct_encoding
from anystep.nn.models import create_model
from anystep.nn.models.base import StepModel
from anystep.nn.neurons import IF, LIF, PLIF, ClippedIF, neuron_factory
from anystep.nn.norms import TDBatchNorm, TEBatchNorm
from anystep.nn.surrogate import Surrogate, surrogate_of


def made(name, **options):
    return create_model(name, **{"num_classes": 3, "input_size": 8, **options})


REFUSED = [
    (lambda: surrogate_of("triangel"), "surrogate 'triangel'. Did you mean 'triangle'?"),
    (lambda: surrogate_of({"name": "triangle", "alpha": 1.0}), "'alpha' in surrogate triangle"),
    (lambda: surrogate_of({"width": 1.0}), "unknown surrogate ''"),
    (lambda: surrogate_of({"name": "triangle", "width": -1.0}), "Triangle: width must be > 0"),
    (lambda: LIF(tau=0.5), "LIF: tau is in time steps and must be >= 1, got 0.5"),
    (lambda: PLIF(tau=1.0), "PLIF: tau is in time steps and must be > 1"),
    (lambda: IF(v_threshold=0.0), "IF: v_threshold must be > 0"),
    (lambda: LIF(v_reset=0.5), "LIF: v_reset must be None or below v_threshold 0.5"),
    (lambda: LIF(backend="cuda"), "unknown backend 'cuda'"),
    (lambda: LIF(surrogate="atan"), "Did you mean 'arctan'?"),
    (lambda: neuron_factory("lfi"), "unknown neuron 'lfi'. Did you mean 'lif'?"),
    (lambda: neuron_factory("lif", tua=3.0), "'tua' in neuron lif. Did you mean 'tau'?"),
    (lambda: neuron_factory("lif", tau="3"), "neuron lif: tau must be float, got '3'"),
    (lambda: QCFS(levels=0), "QCFS: levels must be >= 1"),
    (lambda: QCFS(clip_init=0.0), "QCFS: clip_init must be > 0"),
    (lambda: QCFS(gradient="floor"), "unknown gradient 'floor'"),
    (lambda: ClippedIF(clip_init=-1.0), "ClippedIF: clip_init must be > 0"),
    (lambda: ClippedIF(scale="out"), "unknown scale 'out'. Did you mean 'output'?"),
    (lambda: TDBatchNorm(2, v_threshold=0.0), "TDBatchNorm: v_threshold must be > 0"),
    (lambda: TDBatchNorm(2, alpha=math.inf), "TDBatchNorm: alpha must be > 0 and finite"),
    (lambda: TEBatchNorm(2, steps=0), "TEBatchNorm: steps must be >= 1"),
    (lambda: direct_encoding(torch.rand(1, 1, 2, 2), 0), "steps must be >= 1, got 0"),
    (lambda: made("vggsnn"), "unknown model 'vggsnn'. Did you mean 'vgg_snn'?"),
    (lambda: made("vgg_snn", width=[[4]]), "'width' in model vgg_snn. Did you mean 'widths'"),
    (lambda: made("vgg_snn", conv_bias=1), "model vgg_snn: conv_bias must be bool, got 1"),
    (lambda: made("vgg_snn", norm="bm"), "unknown norm 'bm'. Did you mean 'bn'"),
    (lambda: made("vgg_snn", norm={"name": "bn", "momentun": 0.1}), "'momentun' in norm bn"),
    (lambda: made("vgg_snn", norm="tebn"), "norm tebn: steps is required"),
    (lambda: made("vgg_snn", widths=[[4]], init="kaimin"), "unknown init 'kaimin'"),
    (lambda: made("vgg_snn", num_classes=0), "VGGSNN: num_classes must be >= 1, got 0"),
    *[
        (lambda size=size: made("vgg_snn", input_size=size), f"two of them [H, W], got {size}")
        for size in (0, [8], [8, 0], [8, 8, 8], [8, 4.0])
    ],
    (lambda: made("vgg_snn", neuron=LIF()), "neuron must be a name, or its name and arguments"),
    (lambda: made("vgg_snn", input_size=3, widths=[[4], [6]]), "input_size 3 x 3 is too small"),
    *[
        (lambda widths=widths: made("vgg_snn", widths=widths), "VGGSNN: widths must be")
        for widths in ([4, 6], [], [[4], []], [[4], [0]], [[4], [2.5]])
    ],
    (lambda: made("vgg9", widths=[[4]], pool="mean"), "unknown pool 'mean'"),
    *[
        (lambda stages=stages: made("resnet19", stages=stages), "ResNet19: stages must be")
        for stages in ([4, 6], [], [[4, 0]], [[4, 2.5]], [[4]])
    ],
    (lambda: made("resnet19", stem=0), "ResNet19: stem must be >= 1, got 0"),
    (lambda: fuse_model(network().eval(), tolerance=0.0), "tolerance must be > 0, got 0.0"),
]


@pytest.mark.parametrize(("call", "word"), REFUSED, ids=[word for _, word in REFUSED])
def test_wrong_usage_is_refused_by_name(call, word):
    with pytest.raises(UsageError, match=re.escape(word)):
        call()


def test_what_a_subclass_must_define_is_asked_for_by_name():
    class Nothing(Surrogate):
        pass

    class Empty(StepModel):
        def __init__(self):
            super().__init__(in_planes=1, input_size=2, num_classes=1)
            self.classifier = nn.Linear(4, 1)

    with pytest.raises(TypeError, match=r"Nothing defines no slope"):
        Nothing().slope(torch.zeros(1))
    with pytest.raises(TypeError, match=r"Empty defines no network\(frames, carry\)"):
        Empty()(torch.zeros(1, 1, 1, 2, 2))
