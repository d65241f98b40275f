"""A recipe of the tiny data set, and its record."""

from __future__ import annotations

import drivers
import pytest

from anystep.config import load_recipe, record_from


@pytest.fixture
def recipe(tmp_path, tiny_rows):
    return drivers.write_recipe(tmp_path, train={"epochs": 1, "batch_size": 16, "lr": 0.01})


@pytest.fixture
def record(recipe):
    return record_from(load_recipe(recipe))
