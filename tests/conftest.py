"""What all tests share: one thread, a tiny data set, and one folder of digits-dvs frames."""

from __future__ import annotations

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported, for this process and those that it starts

import pytest
from hypothesis import settings

settings.register_profile("anystep", deadline=None)  # a busy machine is no failure
settings.load_profile("anystep")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits_cache(tmp_path_factory):
    """A cache folder for digits-dvs frames, which whoever needs them first simulates. All
    processes of a session share it.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    return shared / "digits-cache"


@pytest.fixture
def tiny_rows(monkeypatch):
    """The data set and the methods of `drivers` in the tables, for the length of a test."""
    import drivers

    from anystep.data.datasets import DATASETS
    from anystep.training.methods import METHODS

    monkeypatch.setitem(DATASETS, "tiny", drivers.tiny)
    for name, row in drivers.ROWS.items():
        monkeypatch.setitem(METHODS, name, row)
