"""`anystep data ACTION` from end to end: what it prints, what it leaves, how it refuses."""

from __future__ import annotations

import json

import event_trees
import image_trees
import pytest
from terminal import Terminal

from anystep.data.readers import read_events


@pytest.fixture
def terminal(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Terminal(capsys, tmp_path)


def test_a_whole_folder_is_counted_and_drawn(terminal, tmp_path):
    event_trees.nmnist(tmp_path / "NMNIST")
    found = terminal.done("data", "check", "nmnist", "NMNIST", "--sheet", "sheet.png")
    assert set(found["samples"]) == set(found["events"]) == {"train", "test"}
    assert found["corrupt"] == []
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_a_broken_file_is_a_failure_by_name_and_none_if_that_is_meant(terminal, tmp_path):
    event_trees.nmnist(tmp_path / "NMNIST")
    broken = sorted((tmp_path / "NMNIST").rglob("*.bin"))[0]
    broken.write_bytes(broken.read_bytes()[:-2])
    code, out, err = terminal("data", "check", "nmnist", "NMNIST")
    assert code == 1
    (bad,) = json.loads(out.splitlines()[-1])["corrupt"]
    assert bad["file"] == str(broken.relative_to(tmp_path / "NMNIST"))
    assert "truncated" in err
    assert terminal("data", "check", "nmnist", "NMNIST", "--skip-bad")[0] == 0


def test_a_sheet_that_cannot_be_written_is_refused_before_anything_is_read(
    terminal, tmp_path, monkeypatch
):
    event_trees.nmnist(tmp_path / "NMNIST")
    monkeypatch.setattr("anystep.data.check.check_dataset", None)
    for place in ("nowhere/sheet.png", "sheet.jpg"):
        line = terminal.refused("data", "check", "nmnist", "NMNIST", "--sheet", place)
        assert f"must end with .png or .svg in a folder that exists, got '{place}'" in line


def test_a_folder_with_the_name_of_a_mark_is_printed_as_it_is(terminal, tmp_path):
    event_trees.nmnist(tmp_path / "NMNIST")
    for name in ("[b]", "[", ":cat:"):
        (tmp_path / "NMNIST" / name).mkdir()
    (tmp_path / "NMNIST" / "[" / "b]").mkdir()  # "[/b]" ends what nobody began
    code, _, err = terminal("data", "check", "nmnist", "NMNIST")
    assert code == 0
    assert ":cat:, [/b], [b]" in err


def test_options_of_the_row_reach_the_check(terminal, tmp_path):
    event_trees.folder(tmp_path / "own")
    options = ["--option", "protocol=random-90-10@3", "--option", "sensor=[34, 34]"]
    found = terminal.done("data", "check", "events-folder", "own", *options)
    assert found["protocol"]["name"] == "random-90-10@3"
    assert "expected KEY=VALUE" in terminal.refused(
        "data", "check", "events-folder", "own", "--option", "protocol"
    )
    refused = terminal.refused("data", "check", "events-folder", "own", "--option", "sensor=[1")
    assert "the value is no YAML, got '[1'" in refused


def test_a_recording_becomes_an_animation(terminal, tmp_path):
    event_trees.nmnist(tmp_path / "NMNIST")
    recording = sorted((tmp_path / "NMNIST").rglob("*.bin"))[0]
    shown = terminal.done("data", "show", recording, "--out", "moving.gif")
    assert (tmp_path / "moving.gif").read_bytes().startswith(b"GIF89a")
    assert shown["events"] == len(read_events(recording))
    assert shown["pictures"] >= 1
    assert "--sensor: height and width" in terminal.refused(
        "data", "show", recording, "--sensor", "34x34"
    )
    assert "is a directory" in terminal.refused("data", "show", recording.parent)
    for place in ("moving.png", "nowhere/moving.gif"):
        assert (
            f"--out must end with .gif in a folder that exists, got {place!r}"
            in terminal.refused("data", "show", recording, "--out", place)
        )


def test_images_are_filmed_and_the_film_is_kept(terminal, tmp_path):
    image_trees.cifar10_binary(tmp_path / "cifar10")
    wanted = [
        "data",
        "simulate",
        "--images",
        "cifar10",
        "--root",
        "cifar10",
        "--path",
        "closed-loop",
        "--per-class",
        "1",
    ]
    film = terminal.done(*wanted, "--out", "film")
    again = terminal.done(*wanted, "--out", "film")
    assert (film["recordings"], film["made"], again["made"]) == (10, 10, 0)
    found = terminal.done("data", "check", "cifar10-sim", "film")
    assert sum(found["samples"].values()) == 10
    assert sum(found["events"].values()) == film["events"]
    assert "seed" in terminal.refused(*wanted, "--out", "film", "--seed", "1")


def test_what_needs_no_fetching_says_so_and_an_unknown_name_is_refused(terminal):
    code, out, err = terminal("data", "get", "digits-dvs")
    assert (code, json.loads(out)["files"]) == (0, [])
    assert "nothing to fetch" in err
    assert "Did you mean 'nmnist'" in terminal.refused("data", "get", "nmnst")


def test_what_wants_a_signature_is_said_step_by_step(terminal, tmp_path):
    line = terminal.refused("data", "get", "imagenet-1k", "imagenet")
    assert "https://image-net.org" in line
    assert "account" in line
