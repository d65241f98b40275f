"""What recordings of cifar10-sim are like: `.venv/bin/python studies/film.py CIFAR10`, the folder
of CIFAR-10.

The first ten images of every class are filmed as `anystep data simulate` does, and again with lower
thresholds; and with the light sampled every 0.5 ms, to see what sampling it every 4 ms misses.
Writes results/film.json and the table between the markers in docs/simulated-camera.md.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measure import ROOT, quote

from anystep._files import write_json, write_text
from anystep.data.camera.cifar10_sim import CAMERA, IMAGE_SETS, MOTIONS, Choice
from anystep.data.camera.film import Setting, film_images, film_statistics
from anystep.data.frames import FixedDuration
from anystep.environment import describe_environment

PAGE = ROOT / "docs" / "simulated-camera.md"
PER_CLASS, THRESHOLDS, FINE_US = 10, (0.2, 0.15, 0.12, 0.1), 500


def statistics(choice: Choice, threshold: float) -> dict[str, Any]:
    """`film_statistics` of a film with this threshold."""
    setting = Setting(
        MOTIONS["closed_loop"](), replace(CAMERA, threshold=threshold), 0, choice.source
    )
    with tempfile.TemporaryDirectory() as folder:
        film_images(choice.light, choice.ids, folder, setting)
        found = film_statistics(folder, per_class=PER_CLASS)
    events = {key: float(value) for key, value in found["events"].items()}
    filled = {str(size): float(share) for size, share in found["filled"].items()}
    kept = {key: float(found[key]) for key in ("per_second", "on")}
    return {
        "threshold": threshold,
        "recordings": found["recordings"],
        "events": events,
        **kept,
        "filled": filled,
    }


def sampling(choice: Choice) -> dict[str, float]:
    """What 4 ms between two samples change against FINE_US, without background events: all events,
    and counts of ten frames.
    """
    path, binning = MOTIONS["closed_loop"](), FixedDuration(10, 120_000)
    total = fine = differ = 0
    for i, name in enumerate(choice.ids):
        frames = [
            binning(
                Setting(path, replace(CAMERA, noise_hz=0.0, substep_us=us), 0, {}).shoot(
                    choice.light(i), name
                )
            )
            for us in (CAMERA.substep_us, FINE_US)
        ]
        total, fine = total + int(frames[0].sum()), fine + int(frames[1].sum())
        differ += int(np.abs(frames[0].astype(np.int64) - frames[1]).sum())
    return {"fine_us": FINE_US, "events": total / fine - 1, "frames": differ / fine}


def markdown(result: dict[str, Any]) -> str:
    """A column for each threshold, and what sampling costs below."""
    films = result["films"]
    lines = [
        ["threshold", *(f"{film['threshold']:g}" for film in films)],
        ["---"] * (len(films) + 1),
    ]
    lines += [
        ["events in a recording, mean", *(f"{film['events']['mean']:,.0f}" for film in films)],
        ["sd", *(f"{film['events']['sd']:,.0f}" for film in films)],
        ["least", *(f"{film['events']['least']:,.0f}" for film in films)],
        ["most", *(f"{film['events']['most']:,.0f}" for film in films)],
        ["events a second", *(f"{film['per_second']:,.0f}" for film in films)],
        ["share of on events", *(f"{film['on']:.1%}" for film in films)],
        *(
            [f"filled, {size} x {size}", *(f"{film['filled'][size]:.1%}" for film in films)]
            for size in ("128", "48")
        ),
    ]
    lost = result["sampling"]
    lines.append(
        [
            f"against samples every {lost['fine_us'] / 1000:g} ms: events",
            f"{lost['events']:+.1%}",
            "",
            "",
            "",
        ]
    )
    lines.append(
        ["counts in ten frames that differ, by the events", f"{lost['frames']:.1%}", "", "", ""]
    )
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python studies/film.py CIFAR10 (see the first lines of this file)")
    page = quote(PAGE.read_text(encoding="utf-8"), "film", "")
    environment = describe_environment(seed=0)
    environment["command"] = environment["command"][:1]  # without the folder of whoever measured
    choice = IMAGE_SETS["cifar10"](Path(sys.argv[1]), PER_CLASS)
    films = [statistics(choice, threshold) for threshold in THRESHOLDS]
    result = {"environment": environment, "films": films, "sampling": sampling(choice)}
    write_json(ROOT / "results" / "film.json", result)
    write_text(PAGE, quote(page, "film", markdown(result)))


if __name__ == "__main__":
    main()
