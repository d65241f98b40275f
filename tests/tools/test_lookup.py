"""Names and arguments: what is accepted, and what the errors say."""

from __future__ import annotations

from functools import partial
from typing import Literal

import pytest

from anystep._lookup import check_arguments, check_keys, choose, unknown

TABLE = {"lif": 1, "plif": 2, "vgg_snn": 3}


def example(
    rate: float,
    *,
    steps: int = 1,
    name: str | None = None,
    on: bool = False,
    kind: Literal["a", "b"] = "a",
):
    return rate


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("lfi", " Did you mean 'lif'?"),
        ("VGG_SNN", " Did you mean 'vgg_snn'?"),
        ("transformer", ""),
        ("", ""),
        (None, ""),
        (["lif"], " Did you mean 'lif'?"),
    ],
)
def test_a_known_name_gives_its_row_and_another_is_refused_with_the_nearest_one(name, hint):
    assert choose(TABLE, "plif", "neuron") == 2
    with pytest.raises(ValueError, match="unknown neuron") as caught:
        choose(TABLE, name, "neuron")
    assert str(caught.value) == f"unknown neuron {name!r}.{hint} Known: lif, plif, vgg_snn"


def test_the_first_unknown_key_is_refused_with_its_place():
    check_keys(["lif", "plif"], TABLE, "key", "train")
    message = r"unknown key 'epoch' in train. Did you mean 'epochs'\? Known: epochs, lr"
    with pytest.raises(ValueError, match=message):
        check_keys(["lr", "epoch", "zzz"], ["epochs", "lr"], "key", "train")
    assert str(unknown("a", [], "key", "train")) == "unknown key 'a' in train. Known: none"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rate": 1, "steps": 3, "name": None, "on": True}, None),  # a whole number is a float
        ({"kind": 17}, None),  # a richer annotation is the function's own affair
        ({"rat": 0.5}, r"'rat' in example. Did you mean 'rate'\? Known: rate, steps, name"),
        ({"rate": "0.5"}, "example: rate must be float, got '0.5'"),
        ({"rate": True}, "example: rate must be float, got True"),
        ({"steps": 1.0}, "example: steps must be int, got 1.0"),
        ({"steps": True}, "example: steps must be int, got True"),
        ({"name": 3}, "example: name must be str or None, got 3"),
        ({"on": 1}, "example: on must be bool, got 1"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(given, message):
    if message is None:
        return check_arguments(example, given, "example")
    with pytest.raises(ValueError, match=message):
        check_arguments(example, given, "example")


def test_annotations_that_are_objects_are_judged_and_a_filled_argument_is_not_known():
    def function(rate: float, flag: bool = False): ...

    function.__annotations__ = {"rate": float, "flag": bool}
    with pytest.raises(ValueError, match="f: rate must be float, got 'a'"):
        check_arguments(function, {"rate": "a"}, "f")
    with pytest.raises(ValueError, match="unknown argument 'rate'"):
        check_arguments(partial(example, 0.5), {"rate": 0.1}, "example")
