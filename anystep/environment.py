"""Where a number came from: commit, versions, device, command line."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("anystep", "torch", "numpy", "numba", "lightning", "scikit-learn")


def _processor() -> str:
    """The CPU's name as the system tells it."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text("utf-8", "replace").splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git_state() -> dict[str, Any]:
    """The commit of the checkout that this package runs from, and whether it was changed since."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            command = ["git", "-C", str(here), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    tracked = git("ls-files", "--error-unmatch", str(here / "__init__.py"))
    if tracked is None:
        return {"commit": None, "dirty": None}
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes)}


def describe_environment(*, seed: int, device: Any = "cpu") -> dict[str, Any]:
    """What `env.json` holds, for work on the torch `device`; no commit outside a git checkout."""
    import torch

    cuda = torch.device(device).type == "cuda"
    return {
        **_git_state(),
        "versions": {
            "python": platform.python_version(),
            **_versions(),
            "torch": torch.__version__,  # with its build, which an installed package need not say
        },
        "device": torch.cuda.get_device_name(device) if cuda else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }
