"""All that a machine without torch needs: numpy, onnxruntime and these names.

    python -m anystep.deploy.runtime MODEL.onnx --source FILE

prints what `anystep stream` prints: a JSON line a window, a summary last. Exit codes: 0 the source
ended, 2 it was asked wrongly, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from anystep._errors import UsageError
from anystep.deploy.command import follow
from anystep.deploy.flags import STREAM_FLAGS
from anystep.deploy.step import Decision, Step, Streams

__all__ = ["Decision", "Step", "Streams", "main"]


def main(words: Sequence[str] | None = None) -> int:
    """Follow a stream; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m anystep.deploy.runtime", description=__doc__, allow_abbrev=False
    )
    for flag, options in STREAM_FLAGS.items():
        parser.add_argument(flag, **options)
    arguments = parser.parse_args(words)
    try:
        summary = follow(Step(arguments.model, threads=arguments.threads), arguments)
    except UsageError as error:
        print(f"anystep.deploy.runtime: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
