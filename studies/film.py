"""What recordings of cifar10-sim are like: `python -m studies.film CIFAR10`, with the folder of
CIFAR-10.

The first ten images of every class are filmed as `anystep data simulate` does, and again with lower
thresholds; and with the light sampled every 0.5 ms, to see what sampling it every 4 ms misses.
Writes results/film.json and the table between the markers in docs/simulated-camera.md.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anystep._files import write_json
from anystep.data.camera.cifar10_sim import CAMERA, IMAGE_SETS, MOTIONS, Choice
from anystep.data.camera.film import Setting, film_images, read_setting
from anystep.data.frames import FixedDuration, resize
from anystep.data.readers import read_events
from anystep.data.rules import natural
from studies.study import ROOT, check_markers, environment, folder_given, markdown, write_table

PAGE = ROOT / "docs" / "simulated-camera.md"
PER_CLASS, THRESHOLDS, FINE_US = 10, (0.2, 0.15, 0.12, 0.1), 500


def statistics_of(folder: Path, *, steps: int = 10) -> dict[str, Any]:
    """What the recordings of a film are like, from the first PER_CLASS of every class.

    - `events`: mean, sd, least and most events of a recording
    - `per_second`: mean events a second of the film's duration
    - `on`: share of on events, of all recordings together
    - `filled`: size -> share of the entries of the frames (steps, 2, size, size) that are not 0
    """
    setting: dict[str, Any] = read_setting(folder) or {}
    files = [
        path
        for group in sorted({path.parent for path in folder.glob("*/*.bin")})
        for path in sorted(group.glob("*.bin"), key=lambda path: natural(path.stem))[:PER_CLASS]
    ]
    duration, sensor = setting["path"]["duration_us"], tuple(setting["camera"]["sensor"])
    binning = FixedDuration(steps, -(-duration // steps))
    counts, ups, filled = [], 0, dict[int, list[float]]({128: [], 48: []})
    for path in files:
        events = read_events(path, sensor=sensor)
        counts.append(len(events))
        ups += int(events.p.sum())
        frames = binning(events)
        for size, shares in filled.items():
            shares.append(float((resize(frames, size, "nearest") > 0).mean()))
    spread: dict[str, Any] = {"mean": np.mean(counts), "sd": np.std(counts), "least": min(counts)}
    return {
        "recordings": len(files),
        "events": {key: float(value) for key, value in {**spread, "most": max(counts)}.items()},
        "per_second": sum(counts) / (len(files) * duration * 1e-6),
        "on": ups / sum(counts),
        "filled": {str(size): float(np.mean(shares)) for size, shares in filled.items()},
    }


def statistics(choice: Choice, threshold: float) -> dict[str, Any]:
    """`statistics_of` a film with this threshold."""
    camera = replace(CAMERA, threshold=threshold)
    setting = Setting(MOTIONS["closed_loop"](), camera, 0, choice.source)
    with tempfile.TemporaryDirectory() as folder:
        film_images(choice.light, choice.ids, folder, setting)
        return {"threshold": threshold, **statistics_of(Path(folder))}


def sampling(choice: Choice) -> dict[str, float]:
    """How many events and how many counts of ten frames change where the light is sampled every
    4 ms and not every FINE_US. Without background events.
    """
    path, binning = MOTIONS["closed_loop"](), FixedDuration(10, 120_000)
    cameras = [replace(CAMERA, noise_hz=0.0, substep_us=us) for us in (CAMERA.substep_us, FINE_US)]
    total = fine = differ = 0
    for i, name in enumerate(choice.ids):
        light = choice.light(i)
        shots = [Setting(path, camera, 0, {}).shoot(light, name) for camera in cameras]
        coarse, exact = (binning(events).astype(np.int64) for events in shots)
        total, fine = total + int(coarse.sum()), fine + int(exact.sum())
        differ += int(np.abs(coarse - exact).sum())
    return {"fine_us": FINE_US, "events": total / fine - 1, "frames": differ / fine}


def table(result: dict[str, Any]) -> str:
    """A column for each threshold, and what sampling costs below."""
    films, lost = result["films"], result["sampling"]
    names = {"mean": "events in a recording, mean", "sd": "sd", "least": "least", "most": "most"}
    lines = [
        [name, *(f"{film['events'][key]:,.0f}" for film in films)] for key, name in names.items()
    ]
    lines.append(["events a second", *(f"{film['per_second']:,.0f}" for film in films)])
    lines.append(["share of on events", *(f"{film['on']:.1%}" for film in films)])
    for size in ("128", "48"):
        filled = (f"{film['filled'][size]:.1%}" for film in films)
        lines.append([f"filled, {size} x {size}", *filled])
    empty = [""] * (len(films) - 1)
    fine = f"against samples every {lost['fine_us'] / 1000:g} ms: events"
    lines.append([fine, f"{lost['events']:+.1%}", *empty])
    differ = "counts in ten frames that differ, by the events"
    lines.append([differ, f"{lost['frames']:.1%}", *empty])
    return markdown(["threshold", *(f"{film['threshold']:g}" for film in films)], lines)


def main() -> None:
    root = folder_given()
    check_markers(PAGE, "film")
    choice = IMAGE_SETS["cifar10"](root, PER_CLASS)
    films = [statistics(choice, threshold) for threshold in THRESHOLDS]
    result = {"environment": environment(), "films": films, "sampling": sampling(choice)}
    write_json(ROOT / "results" / "film.json", result)
    write_table(PAGE, "film", table(result))


if __name__ == "__main__":
    main()
