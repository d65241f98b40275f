"""The command line, called in this process."""

from __future__ import annotations

import json

from anystep.cli import main


class Terminal:
    """Calls the command line in this process."""

    def __init__(self, capsys, folder):
        self.capsys, self.folder = capsys, folder

    def __call__(self, *arguments):
        """(exit code, stdout, stderr)."""
        self.capsys.readouterr()
        try:
            code = main([str(each) for each in arguments])
        except SystemExit as stop:  # argparse's way to refuse usage
            code = stop.code
        captured = self.capsys.readouterr()
        return code, captured.out, captured.err

    def refused(self, *arguments):
        """The message of a command that must be refused as bad usage: exit 2, nothing on stdout, no
        traceback.
        """
        code, out, err = self(*arguments)
        assert (code, out) == (2, ""), err
        assert "Traceback" not in err
        (line,) = err.splitlines()
        assert line.startswith(f"anystep {arguments[0]}: ")
        return line

    def done(self, *arguments):
        """The JSON that a command ends with on stdout."""
        code, out, err = self(*arguments)
        assert code == 0, err
        return json.loads(out.splitlines()[-1])
