"""One exported network and one finished run for all tests of the wing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from drivers import RECIPE, tiny
from trained import ABOUT, make, samples, trained

from anystep.config import record_from
from anystep.data.datasets import DATASETS
from anystep.deploy.onnx import Parity, export_step
from anystep.deploy.step import Step
from anystep.nn.models.base import StepModel
from anystep.run import run_record


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


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    record = record_from(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "tiny", tiny)
        run_record(
            replace(record, train=replace(record.train, epochs=1)),
            folder := tmp_path_factory.mktemp("finished") / "run",
        )
    return folder


@pytest.fixture
def run(finished, tiny_rows, tmp_path) -> Path:
    """A finished run of one's own."""
    return shutil.copytree(finished, tmp_path / "run")
