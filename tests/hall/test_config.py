"""Recipes, overrides and the record that they make."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from itertools import pairwise

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from anystep._errors import UsageError
from anystep.config import (
    Record,
    describe_keys,
    load_recipe,
    merge,
    overrides_from,
    parse_value,
    record_from,
    to_yaml,
)
from anystep.training.schedule import Plan


@pytest.fixture
def recipe(tmp_path):
    def write(text, name="recipe.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def refusal(call, *arguments):
    """What a call says that must be refused: one line."""
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    (line,) = str(caught.value).splitlines()
    return line


def test_an_empty_recipe_is_all_defaults_and_frozen():
    assert record_from({}) == Record()
    with pytest.raises(FrozenInstanceError):
        Record().seed = 1


def test_a_recipe_and_its_overrides_make_a_record(recipe):
    path = recipe("name: x\ntrain: {epochs: 7, lr: 2e-3}\nmodel: {neuron: {name: lif, tau: 3.0}}")
    overrides = overrides_from(["--train.epochs", "9", "--method.name=tks"])
    record = record_from(merge(load_recipe(path), overrides))
    assert (record.name, record.train.epochs, record.train.lr) == ("x", 9, 0.002)
    assert record.model.neuron == {"name": "lif", "tau": 3.0}
    assert record.method.name == "tks"
    assert record.train.batch_size == Plan().batch_size


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "+1e-3", ".1e-2"])
def test_a_learning_rate_in_any_spelling_is_a_number(text):
    assert parse_value(text) == pytest.approx(1e-3)
    assert isinstance(parse_value(text), float)


@pytest.mark.parametrize("text", ["e5", "1e", "v1e-3", "12abc"])
def test_a_word_that_only_looks_like_a_number_stays_a_word(text):
    assert parse_value(text) == text


def test_a_recipe_lies_over_its_base(recipe, tmp_path):
    (tmp_path / "deep").mkdir()
    recipe("train: {epochs: 3, lr: 0.1}\nseed: 4", "base.yaml")
    tree = load_recipe(recipe("base: ../base.yaml\ntrain: {lr: 0.2}", "deep/child.yaml"))
    assert tree == {"train": {"epochs": 3, "lr": 0.2}, "seed": 4}


def test_a_section_that_changes_its_name_starts_afresh():
    below = {"method": {"name": "tks", "options": {"alpha": 0.3}}, "train": {"epochs": 3}}
    fresh = merge(below, {"method": {"name": "ce"}})
    assert fresh == {"method": {"name": "ce"}, "train": {"epochs": 3}}
    kept = merge(below, {"method": {"name": "tks", "options": {"temperature": 2}}})
    assert kept["method"]["options"] == {"alpha": 0.3, "temperature": 2}


TREES = st.recursive(
    st.integers(),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
).filter(lambda tree: isinstance(tree, dict))


@given(TREES, TREES)
def test_merging_changes_neither_side_and_with_nothing_or_itself_nothing_at_all(tree, other):
    before = repr((tree, other))
    merge(tree, other)
    assert repr((tree, other)) == before
    assert merge(tree, {}) == merge({}, tree) == merge(tree, tree) == tree


def test_overrides_read_every_kind_of_value():
    arguments = "--train.grad_clip null --train.lr=-1 --model.options.widths [[4],[8]] --name a=b"
    assert overrides_from(arguments.split()) == {
        "train": {"grad_clip": None, "lr": -1},
        "model": {"options": {"widths": [[4], [8]]}},
        "name": "a=b",
    }


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("epochs 3", "expected an override like --train.epochs 3, got 'epochs'"),
        ("--train.epochs", "--train.epochs needs a value"),
        ("--seed 1 --seed.x 2", "--seed.x: 'seed' has been given a value of its own"),
        ("--seed [1", "--seed: '[1' is not a YAML value: line 1: expected ',' or ']'"),
        ("--seed !!python/object:os.system", "line 1: could not determine a constructor"),
        ("--name 2001-13-45", "'2001-13-45' is not a YAML value: a value is not what it looks"),
        ("--seed 0b_", "is not a YAML value: a value is not what it looks like"),
        ("--tensorboard=!!bool x", "is not a YAML value: a value is not what it looks like"),
    ],
)
def test_a_bad_override_is_refused_with_its_flag(arguments, word):
    assert word in refusal(overrides_from, arguments.split())


@pytest.mark.parametrize(
    ("tree", "word"),
    [
        # unknown keys, with the nearest
        ({"trian": {}}, "unknown key 'trian' in the recipe. Did you mean 'train'? Known: name"),
        ({"train": {"epoch": 3}}, "unknown key 'epoch' in train. Did you mean 'epochs'? Known: "),
        ({"epochs": 2}, "unknown key 'epochs' in the recipe. Did you mean train.epochs?"),
        ({"options": {}}, "Did you mean data.options or model.options or method.options?"),
        ({1: 2}, "unknown key 1 in the recipe"),
        # values of a wrong type
        ({"train": 3}, "train must be a mapping, got 3"),
        ({"train": {"epochs": 2.5}}, "train: epochs must be int, got 2.5"),
        ({"train": {"batch_size": None}}, "train: batch_size must be int, got None"),
        ({"train": {"lr": True}}, "train: lr must be float, got True"),
        ({"train": {"grad_clip": "hard"}}, "train: grad_clip must be float or None, got 'hard'"),
        ({"seed": True}, "the recipe: seed must be int, got True"),
        ({"name": 3}, "the recipe: name must be str, got 3"),
        ({"select": "worst"}, "unknown select 'worst'"),
        ({"data": {"binning": "direct"}}, "data: binning must be dict[str, Any], got 'direct'"),
        ({"model": {"neuron": 3}}, "model: neuron must be str or dict[str, Any], got 3"),
        # values that cannot be
        ({"train": {"lr": float("nan")}}, "train: lr must be > 0, got nan"),
        ({"data": {"frames": [1]}}, "data.frames must be [first, stop] with 0 <= first < stop"),
        ({"data": {"frames": []}}, "or null, got []"),
        ({"data": {"frames": [-5, -1]}}, "or null, got [-5, -1]"),
        ({"data": {"options": {"cache": "x"}}}, "data.options: 'cache' is not an option"),
        ({"model": {"options": {"norm": "bn"}}}, "model.options: 'norm' is not an option"),
        ({"engine": {"devices": 0}}, "engine.devices must be >= 1, got 0"),
        ({"engine": {"precision": "16-mixed"}}, "engine.precision 16-mixed has a loss scale"),
    ],
)
def test_a_record_that_cannot_be_is_refused_with_its_key(tree, word):
    assert word in refusal(record_from, tree)


# Nine values, nine times nine, ...: 400 million from 300 letters
NESTED_ALIASES = f"a: &a [{'x, ' * 9}]\n" + "".join(
    f"{name}: &{name} [{f'*{below}, ' * 9}]\n" for below, name in pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("train: {epochs: 3\nseed: 2", "is not a YAML recipe: line 2: expected ',' or '}'"),
        ("- 1\n- 2", "is not a YAML recipe: it must be a mapping, got list"),
        ("seed: !!python/object:os.system x", "line 1: could not determine a constructor"),
        ("seed: 1\ntrain: {lr: 1}\nseed: 2", "is not a YAML recipe: line 3: 'seed' is there twice"),
        ("? [seed]\n: 1", "is not a YAML recipe: line 1: ['seed'] is there twice, or no text"),
        ("base: [a]", "base must be the name of a recipe, got ['a']"),
        ("base: recipe.yaml", "recipe.yaml has a base of its own"),
        ("base: nowhere.yaml", "cannot read the recipe"),
        ("base: .", "Is a directory"),
        ("base: /dev/zero", "cannot read the recipe /dev/zero: it is not a regular file"),
        ('base: "a\\0b"', "is not a YAML recipe: embedded null byte"),
        ("name: " + "x" * 2**18, "recipe.yaml: it has more than 262,144 bytes"),
        ("name: " + "[" * 1000, "is not a YAML recipe: brackets or lines are nested too deeply"),
        ("data: &a {options: *a}", "line 1: more than 10,000 values, with what aliases stand for"),
        (NESTED_ALIASES, "more than 10,000 values, with what aliases stand for"),
        (b"\xff\xfe\x00\x01", "is not a YAML recipe: 'utf-8' codec"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_on_one_line(recipe, text, word):
    assert word in refusal(load_recipe, recipe(text))


def test_anchors_and_merge_keys_of_yaml_work(recipe):
    tree = load_recipe(recipe("train: &plan {epochs: 3, lr: 0.1}\nother: {<<: *plan, lr: 0.2}"))
    assert tree["other"] == {"epochs": 3, "lr": 0.2}


TEXTS = st.text() | st.sampled_from(["1", "1e-3", "null", "True", "[1]", "a: 1"])
VALUES = st.none() | st.booleans() | st.integers() | TEXTS


@settings(max_examples=40)
@given(
    name=st.from_regex(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]*", fullmatch=True),
    seed=st.integers(0, 2**31),
    lr=st.floats(1e-9, 10, allow_nan=False),
    clip=st.none() | st.floats(1e-6, 1e6),
    options=st.dictionaries(st.text(min_size=1), VALUES | st.lists(VALUES), max_size=3),
)
def test_a_record_comes_back_from_its_yaml(tmp_path_factory, name, seed, lr, clip, options):
    record = Record(name=name, seed=seed, train=Plan(lr=lr, grad_clip=clip), select="best")
    record = replace(record, model=replace(record.model, options=options))
    path = tmp_path_factory.mktemp("yaml") / "config.yaml"
    path.write_text(to_yaml(record), encoding="utf-8")
    assert record_from(load_recipe(path)) == record


def test_a_whole_number_may_stand_for_a_float():
    plan = record_from({"train": {"lr": 1, "grad_clip": 2}}).train
    assert (repr(plan.lr), repr(plan.grad_clip)) == ("1.0", "2.0")


def test_every_key_is_described_in_words_of_its_own_and_is_in_the_yaml_of_a_record():
    def leaves(tree, prefix=""):
        for key, value in tree.items():
            inner = isinstance(value, dict) and key not in ("options", "binning")
            yield from leaves(value, f"{prefix}{key}.") if inner else [f"{prefix}{key}"]

    rows = describe_keys()
    assert len({about for *_, about in rows if len(about) > 10}) > 30
    assert ("train.steps", "int or null", "null") in [row[:3] for row in rows]
    assert set(leaves(yaml.safe_load(to_yaml(Record())))) == {name for name, *_ in rows}
