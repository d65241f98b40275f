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


@pytest.mark.parametrize("name", TABLE)
def test_a_known_name_gives_its_row(name):
    assert choose(TABLE, name, "neuron") == TABLE[name]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("lfi", " Did you mean 'lif'?"),
        ("VGG_SNN", " Did you mean 'vgg_snn'?"),
        ("transformer", ""),
        ("", ""),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one_and_all_of_them(name, hint):
    with pytest.raises(ValueError, match="unknown neuron") as caught:
        choose(TABLE, name, "neuron")
    assert str(caught.value) == f"unknown neuron {name!r}.{hint} Known: lif, plif, vgg_snn"


@pytest.mark.parametrize("name", [None, 3, ["lif"], {"name": "lif"}])
def test_a_name_that_is_no_string_is_refused_and_does_not_crash(name):
    with pytest.raises(ValueError, match=r"unknown neuron .*Known: lif, plif, vgg_snn"):
        choose(TABLE, name, "neuron")


def test_the_place_is_named_and_an_empty_table_says_so():
    assert str(unknown("a", [], "key", "train")) == "unknown key 'a' in train. Known: none"


def test_the_first_unknown_key_is_refused():
    check_keys(["lif", "plif"], TABLE, "key", "train")
    check_keys([], TABLE, "key", "train")
    with pytest.raises(
        ValueError, match=r"unknown key 'epoch' in train. Did you mean 'epochs'\? Known: epochs, lr"
    ):
        check_keys(["lr", "epoch", "zzz"], ["epochs", "lr"], "key", "train")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"rate": 0.5},
        {"rate": 1},  # a whole number is a float
        {"steps": 3, "name": None, "on": True},
        {"name": "x"},
        {"kind": 17},  # a richer annotation is the function's own affair
    ],
)
def test_good_arguments_pass(given):
    check_arguments(example, given, "example")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"rat": 0.5},
            r"unknown argument 'rat' in example. Did you mean 'rate'\? Known: rate, steps, name",
        ),
        ({"rate": "0.5"}, "example: rate must be float, got '0.5'"),
        ({"rate": True}, "example: rate must be float, got True"),
        ({"rate": None}, "example: rate must be float, got None"),
        ({"steps": 1.0}, "example: steps must be int, got 1.0"),
        ({"steps": True}, "example: steps must be int, got True"),
        ({"name": 3}, "example: name must be str or None, got 3"),
        ({"on": 1}, "example: on must be bool, got 1"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(given, message):
    with pytest.raises(ValueError, match=message):
        check_arguments(example, given, "example")


def test_annotations_that_are_objects_are_judged_like_those_that_are_text():
    def function(rate: float, flag: bool = False): ...

    function.__annotations__ = {"rate": float, "flag": bool}
    with pytest.raises(ValueError, match="f: rate must be float, got 'a'"):
        check_arguments(function, {"rate": "a"}, "f")


def test_an_argument_that_is_filled_already_is_not_known_any_more():
    with pytest.raises(ValueError, match="unknown argument 'rate'"):
        check_arguments(partial(example, 0.5), {"rate": 0.1}, "example")
