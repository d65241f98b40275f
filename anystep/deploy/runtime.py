"""All that a machine without torch needs: numpy, onnxruntime and these names.

    python -m anystep.deploy.runtime MODEL.onnx --source FILE

prints what `anystep stream` prints, a JSON line a window, a summary last, with its exit codes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from anystep._command import open_streams, run_command
from anystep.deploy.command import follow
from anystep.deploy.flags import STREAM_FLAGS
from anystep.deploy.step import Decision, Step, Streams

__all__ = ["Decision", "Step", "Streams", "main"]


def main(words: Sequence[str] | None = None) -> int:
    """Follow a stream; the exit code."""
    open_streams()
    parser = argparse.ArgumentParser(
        prog="python -m anystep.deploy.runtime", description=__doc__, allow_abbrev=False
    )
    for flag, options in STREAM_FLAGS.items():
        parser.add_argument(flag, **options)
    arguments = parser.parse_args(words)
    return run_command(
        "anystep.deploy.runtime",
        lambda: follow(Step(arguments.model, threads=arguments.threads), arguments),
    )


if __name__ == "__main__":
    sys.exit(main())
