"""One exported network for all tests of the wing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trained import ABOUT, make, samples, trained

from anystep.deploy.onnx import Parity, export_step
from anystep.deploy.step import Step
from anystep.nn.models.base import StepModel


@pytest.fixture(scope="session")
def network() -> StepModel:
    torch.manual_seed(0)
    return trained(make("vgg_snn", neuron={"name": "lif", "tau": 2.0}, widths=[[8], [12, 12]]))


@pytest.fixture(scope="session")
def exported(network, tmp_path_factory) -> tuple[Path, Parity]:
    path = tmp_path_factory.mktemp("exported") / "net.onnx"
    return path, export_step(network, path, frames=samples(), about=ABOUT)


@pytest.fixture
def step(exported) -> Step:
    return Step(exported[0])
