"""The command line, called in this process."""

from __future__ import annotations

import json

from anystep.cli import main


class Terminal:
    """`terminal("train", recipe)` is `anystep train RECIPE`."""

    def __init__(self, capsys):
        self.capsys = capsys

    def __call__(self, *arguments):
        """(exit code, stdout, stderr)."""
        self.capsys.readouterr()
        try:
            code = main([str(each) for each in arguments])
        except SystemExit as stop:  # argparse's way to refuse usage
            code = stop.code
        return code, *self.capsys.readouterr()

    def refused(self, *arguments):
        """The one line of a command that must be refused as bad usage."""
        code, out, err = self(*arguments)
        assert (code, out) == (2, ""), err
        (line,) = err.splitlines()
        assert line.startswith(f"anystep {arguments[0]}: ")
        return line

    def done(self, *arguments):
        """The JSON that a command ends with on stdout."""
        code, out, err = self(*arguments)
        assert code == 0, err
        return json.loads(out.splitlines()[-1])
