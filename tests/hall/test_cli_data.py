"""`anystep data ACTION` from end to end: what it prints, what it leaves, how it refuses."""

from __future__ import annotations

import json

import event_trees
import image_trees
import pytest

from anystep.data.readers import read_events

CHECK = ("data", "check", "nmnist", "NMNIST")


@pytest.fixture
def nmnist(tmp_path):
    event_trees.nmnist(tmp_path / "NMNIST")
    return tmp_path / "NMNIST"


@pytest.fixture
def recording(nmnist):
    return sorted(nmnist.rglob("*.bin"))[0]


def test_a_whole_folder_is_counted_and_drawn(terminal, nmnist):
    found = terminal.done(*CHECK, "--sheet", "sheet.png")
    assert set(found["samples"]) == set(found["events"]) == {"train", "test"}
    assert found["corrupt"] == []
    assert (nmnist.parent / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_a_broken_file_is_a_failure_by_name_and_none_if_that_is_meant(terminal, nmnist, recording):
    recording.write_bytes(recording.read_bytes()[:-2])
    code, out, err = terminal(*CHECK)
    assert code == 1
    (bad,) = json.loads(out.splitlines()[-1])["corrupt"]
    assert bad["file"] == str(recording.relative_to(nmnist))
    assert "truncated" in err
    assert terminal(*CHECK, "--skip-bad")[0] == 0


def test_a_sheet_that_cannot_be_written_is_refused_before_anything_is_read(
    terminal, nmnist, monkeypatch
):
    monkeypatch.setattr("anystep.data.check.check_dataset", None)
    for place in ("nowhere/sheet.png", "sheet.jpg"):
        line = terminal.refused(*CHECK, "--sheet", place)
        assert f"must end with .png or .svg in a folder that exists, got '{place}'" in line


def test_a_folder_with_the_name_of_a_mark_is_printed_as_it_is(terminal, nmnist):
    for name in ("[b]", "[/b]", ":cat:"):  # "[/b]" ends what nobody began
        (nmnist / name).mkdir(parents=True)
    code, _, err = terminal(*CHECK)
    assert code == 0
    assert ":cat:, [/b], [b]" in err


def test_options_of_the_row_reach_the_check(terminal, tmp_path):
    event_trees.folder(tmp_path / "own")
    check = ("data", "check", "events-folder", "own", "--option")
    found = terminal.done(*check, "protocol=random-90-10@3", "--option", "sensor=[34, 34]")
    assert found["protocol"]["name"] == "random-90-10@3"
    assert "--protocol needs a value" in terminal.refused(*check, "protocol")
    assert "'[1' is not a YAML value" in terminal.refused(*check, "sensor=[1")


def test_a_recording_becomes_an_animation(terminal, recording, tmp_path):
    show = ("data", "show", recording)
    shown = terminal.done(*show, "--out", "moving.gif")
    assert (tmp_path / "moving.gif").read_bytes().startswith(b"GIF89a")
    assert shown["events"] == len(read_events(recording))
    assert shown["pictures"] >= 1
    assert "--sensor: whole numbers" in terminal.refused(*show, "--sensor", "34x34")
    assert "is a directory" in terminal.refused("data", "show", recording.parent)
    for place in ("moving.png", "nowhere/moving.gif"):
        refusal = f"--out must end with .gif in a folder that exists, got {place!r}"
        assert refusal in terminal.refused(*show, "--out", place)


def test_show_takes_the_format_and_says_which_flag_gives_the_size(terminal, tmp_path):
    content = b"#!AER-DAT2.0\r\n" + b"\0\0\x40\x02\0\0\0\7" * 9
    (tmp_path / "r.aedat").write_bytes(content)
    shown = terminal.done("data", "show", "r.aedat", "--format", "cifar10-dvs")
    assert shown["sensor"] == [128, 128]
    assert "unknown event format" in terminal.refused("data", "show", "r.aedat", "--format", "x")
    (tmp_path / "r.raw").write_bytes(b"% evt 3.0\n" + bytes.fromhex("0080006000000020"))
    assert "`data show --sensor 180,240`" in terminal.refused("data", "show", "r.raw")
    assert terminal.done("data", "show", "r.raw", "--sensor", "9,9")["events"] == 1


def test_images_are_filmed_and_the_film_is_kept(terminal, tmp_path):
    image_trees.cifar10_binary(tmp_path / "cifar10")
    command = "data simulate --images cifar10 --root cifar10 --path closed-loop --out film"
    wanted = [*command.split(), "--per-class", "1"]
    film, again = terminal.done(*wanted), terminal.done(*wanted)
    assert (film["recordings"], film["made"], again["made"]) == (10, 10, 0)
    found = json.loads(terminal("data", "check", "cifar10-sim", "film")[1])
    assert not found["ok"]  # of the thousand of each class there is one
    assert sum(found["samples"].values()) == 10
    assert sum(found["events"].values()) == film["events"]
    assert "seed" in terminal.refused(*wanted, "--seed", "1")


def test_what_needs_no_fetching_says_so(terminal):
    code, out, err = terminal("data", "get", "digits-dvs")
    assert (code, json.loads(out)["files"]) == (0, [])
    assert "nothing to fetch" in err
