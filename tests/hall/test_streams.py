"""Standard streams that are closed, full or without a reader; tables on a narrow terminal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from anystep.cli import main
from anystep.console import ProgressBar, print_table
from anystep.deploy import runtime
from anystep.folder import RunFolder


def full():
    """A stream that nothing more can be written to."""
    return open("/dev/full", "w")


def unread():
    """A stream whose reader went away."""
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


@pytest.mark.parametrize(("stream", "code"), [(full, 1), (unread, 0)])
def test_a_result_that_nobody_reads_is_no_fault_and_one_that_cannot_be_written_is(
    monkeypatch, capsys, stream, code
):
    monkeypatch.setattr(sys, "stdout", stream())
    assert main(["data", "list"]) == code
    sys.stdout.close()  # writes what is left, as the end of a process does
    why = "anystep data: cannot write to stdout: No space left on device\n"
    assert capsys.readouterr().err.endswith(why) == (code == 1)


@pytest.mark.parametrize("stream", [full, unread])
def test_training_that_nobody_listens_to_comes_to_its_end(
    monkeypatch, capsys, recipe, stream, tmp_path
):
    monkeypatch.setattr(sys, "stderr", stream())
    assert main(["train", str(recipe), "--out", str(tmp_path / "run")]) == 0
    sys.stderr.close()
    assert RunFolder(tmp_path / "run").finished
    assert json.loads(capsys.readouterr().out)["protocol"] == "tiny/made-up"
    monkeypatch.setattr(sys, "stderr", stream())
    assert main(["train", str(recipe), "--nothing", "1"]) == 2


@pytest.mark.parametrize(("stream", "code"), [(full, 1), (unread, 0)])
def test_the_runtime_ends_as_the_command_does(monkeypatch, capsys, stream, code):
    monkeypatch.setattr(runtime, "Step", lambda model, threads: None)
    monkeypatch.setattr(runtime, "follow", lambda step, arguments: {"summary": {}})
    monkeypatch.setattr(sys, "stdout", stream())
    assert runtime.main(["model.onnx", "--source", "-"]) == code
    sys.stdout.close()
    assert ("cannot write to stdout" in capsys.readouterr().err) == (code == 1)


CLOSED = """
import sys
from anystep.cli import main
codes = []
for words in (["data", "list"], ["data", "list", "x"], ["nonsense"]):
    try:
        codes.append(main(words))
    except SystemExit as end:
        codes.append(end.code)
note = open("note.txt", "w")  # gets the lowest number that is free
print(*codes, note.fileno())
"""


def test_with_stderr_closed_no_error_lands_on_stdout_or_in_a_file(tmp_path):
    command = f"exec {sys.executable} -c '{CLOSED}' 2>&-"
    shell = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    result, codes = shell.stdout.splitlines()
    assert "digits-dvs" in json.loads(result)["datasets"]
    assert codes.split()[:3] == ["0", "2", "2"]
    assert int(codes.split()[3]) > 2


HEADER = ["method", *(f"t = {t}" for t in range(1, 11))]
ROWS = [[name, *(f"{90 + t}.25 ± 0.3" for t in range(10))] for name in ("ce", "label_smoothing")]
WORDS = [["digits-dvs", "The handwritten digits, each filmed by a camera"], ["x" * 50, "long"]]


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200])
@pytest.mark.parametrize("table", [(HEADER, ROWS), (["name", "what"], WORDS)])
def test_a_table_hides_nothing_whatever_the_width_of_the_terminal(
    monkeypatch, capsys, width, table
):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    print_table("a title of several words", *table)
    text = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().err)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    letters = "".join(cell for row in table[1] for cell in row).replace(" ", "")
    assert Counter(letters) <= Counter(text)
    if table[0] is HEADER and width >= 40:  # and no number is taken apart
        assert all(text.count(f"{90 + t}.25 ± 0.3") == 2 for t in range(10))


@pytest.mark.parametrize("width", [40, 80])
def test_a_bar_says_of_which_run_it_is(monkeypatch, capsys, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = ProgressBar("label_smoothing-seed0")
    bar.on_epoch_start(title="train epoch 3", updates=36)
    bar.on_epoch_end()
    text = re.sub(r"\x1b\[[\d;?]*\w", "", capsys.readouterr().err)
    assert "…" not in text
    assert "\rlabel_smoothing-seed0: train epoch" in text
    assert " 0/36" in text


def test_json_is_printed_on_a_terminal_only_if_asked(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for flags, lines in ([], 0), (["--json"], 1):
        assert main(["data", "list", *flags]) == 0
        assert len(capsys.readouterr().out.splitlines()) == lines
