"""One process at a time in a folder, and nothing that a killed one leaves is in anybody's way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from anystep._errors import RunError, UsageError
from anystep._lock import LOCK, only_one


def test_the_second_is_told_who_is_first_and_what_was_made_for_nothing_goes_again(tmp_path):
    folder = tmp_path / "a" / "b"
    with only_one(folder):
        with (
            pytest.raises(RunError, match=rf"b is in use by process {os.getpid()} on .+: wait"),
            only_one(folder),
        ):
            pass
        assert os.listdir(folder) == [LOCK]
    assert not (tmp_path / "a").exists()
    with only_one(folder):
        (folder / "kept").touch()
    assert os.listdir(folder) == ["kept"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked")
def test_a_killed_process_holds_nothing_although_what_it_forked_lives_on(tmp_path):
    code = (
        "import os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from anystep._lock import only_one\n"
        "with only_one(Path(sys.argv[1])):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        time.sleep(60)\n"
        "    print(child, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        process.wait(60)
        try:
            assert os.listdir(tmp_path) == [LOCK]
            with only_one(tmp_path):
                pass
        finally:
            os.kill(child, signal.SIGKILL)
    assert os.listdir(tmp_path) == []


def test_a_link_in_the_place_of_the_lock_is_not_written_through(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(elsewhere)
    with pytest.raises(UsageError, match="cannot write the folder"), only_one(tmp_path / "run"):
        pass
    assert elsewhere.read_text() == "mine"
