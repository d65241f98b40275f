"""What all tests share: one thread, the command line, a tiny data set, frames of digits-dvs."""

from __future__ import annotations

import os

# Before torch is imported, for this process and those that it starts
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings
from terminal import Terminal

settings.register_profile("anystep", deadline=None)  # a busy machine is no failure
settings.load_profile("anystep")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits_cache(tmp_path_factory):
    """The cache of digits-dvs frames of all processes of a session; who is first simulates them."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "digits-cache"


@pytest.fixture
def terminal(capsys, tmp_path, monkeypatch):
    """The command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Terminal(capsys)


@pytest.fixture
def tiny_rows(monkeypatch):
    """The data set and the methods of `drivers` in the tables, for the length of a test."""
    import drivers

    from anystep.data.datasets import DATASETS
    from anystep.training.methods import METHODS

    monkeypatch.setitem(DATASETS, "tiny", drivers.tiny)
    for name, row in drivers.ROWS.items():
        monkeypatch.setitem(METHODS, name, row)
