"""What a stream can be told on a command line. Standard library only: help answers at once."""

from __future__ import annotations

from typing import Any

# name -> the options of argparse's `add_argument`, for `anystep stream` and for the runtime
STREAM_FLAGS: dict[str, dict[str, Any]] = {
    "model": {"help": "an exported step; for anystep stream also a run or a pretrained network"},
    "--source": {
        "required": True,
        "metavar": "FILE|udp://HOST:PORT|-",
        "help": "of the events; digits-dvs:N is the N-th test recording of the built-in set",
    },
    "--sensor": {"metavar": "H,W", "help": "pixels of a source that does not say them itself"},
    "--steps": {"type": int, "metavar": "T", "help": "decide after T windows at the latest"},
    "--score": {"help": "confidence, entropy or margin (default: as calibrated)"},
    "--reads": {"help": "of the mean (default) or the sum of the logits so far"},
    "--threshold": {"type": float, "help": "leave once the score is at least this"},
    "--max-rate": {"type": float, "metavar": "N", "help": "events a second counted at most"},
    "--idle-timeout": {"type": float, "metavar": "S", "help": "end after S silent seconds"},
    "--threads": {
        "type": int,
        "choices": range(1, 65),
        "default": 1,
        "metavar": "N",
        "help": "of the network, 1 to 64 (default: 1)",
    },
}
