"""The batched camera beside the exact one: `python -m studies.batched_camera CIFAR10`, with the
folder of CIFAR-10.

The first images of CIFAR-10's validation split before the cameras of digits-dvs and of cifar10-sim,
without background events, the light sampled ever more coarsely: how far the counts of ten frames
are from those at 1 ms, and images a second of one thread, best of three. Writes
results/batched_camera.json and the table between the markers in docs/batched-camera.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anystep._files import write_json
from anystep.data.camera.batched import simulate_batch, turned
from anystep.data.camera.cifar10_sim import CAMERA, LUMA, MOTIONS, PIXELS
from anystep.data.camera.simulate import Camera, Trajectory, closed_loop, enlarge, simulate
from anystep.data.frames import Direct, FixedDuration
from anystep.data.images.cifar import cifar10
from studies.study import (
    ROOT,
    Rows,
    check_markers,
    environment,
    folder_given,
    markdown,
    write_table,
)

PAGE = ROOT / "docs" / "batched-camera.md"
SUBSTEPS_US = (1000, 2000, 4000, 5000, 10_000)
BATCH = 16
# A camera, the side of the image, its path.
SETTINGS: tuple[tuple[Camera, int, Trajectory], ...] = (
    (Camera(noise_hz=0.0), 28, closed_loop()),
    (replace(CAMERA, noise_hz=0.0), PIXELS, MOTIONS["closed_loop"]()),
)


def main() -> None:
    root = folder_given()
    check_markers(PAGE, "batched_camera")
    torch.set_num_threads(1)
    pictures = cifar10(binning=Direct(1), root=str(root)).val
    colours = np.stack([pictures.raw(i) for i in range(BATCH)])
    grey = np.tensordot(LUMA, colours.astype(np.float64), axes=(0, 1)) / 255
    rows = [
        row for camera, side, path in SETTINGS for row in rows_of(enlarge(grey, side), camera, path)
    ]
    result = {"environment": environment(), "rows": rows}
    write_json(ROOT / "results" / "batched_camera.json", result)
    write_table(PAGE, "batched_camera", table(rows))


def rows_of(grey: NDArray[np.float64], camera: Camera, path: Trajectory) -> Rows:
    """A row for each substep; grey (N, side, side). The first substep is the reference."""
    binning, rows, reference = FixedDuration(10, path.duration_us // 10), [], None
    images, paths = torch.from_numpy(grey).float(), [turned(path, 10 * n) for n in range(len(grey))]
    for substep_us in SUBSTEPS_US:
        seen = replace(camera, substep_us=substep_us)

        def batched(way: Any, size: int | None = None, seen: Camera = seen) -> NDArray[np.float32]:
            how: dict[str, Any] = {"binning": binning, "generator": torch.Generator()}
            return np.asarray(simulate_batch(images, way, seen, size=size, **how))

        def exact(seen: Camera = seen) -> NDArray[np.float32]:
            frames = [binning(simulate(image, path, seen, seed=0)) for image in grey]
            return np.stack(frames, 1).astype(np.float32)

        events = exact()
        reference = events if reference is None else reference
        row = {
            "sensor": list(camera.sensor),
            "substep_us": substep_us,
            "images": len(grey),
            "events": int(events.sum()),
            "against_1ms": float(events.sum() / reference.sum() - 1),
            "frames_differ": float(np.abs(events - reference).sum() / reference.sum()),
            "float32_differs": float(np.abs(batched(path) - events).sum()),
            "nonzero": float((events > 0).mean()),
            "on_share": float(events[:, :, 1].sum() / events.sum()),
            "exact_per_s": per_second(len(grey), exact),
            "batched_per_s": per_second(len(grey), lambda: batched(paths)),
        }
        if camera.sensor[0] > 48:
            row["batched_48_per_s"] = per_second(len(grey), lambda: batched(paths, 48))
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    return rows


def per_second(images: int, film: Callable[[], object]) -> float:
    """Of the best of three."""
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        film()
        seconds.append(time.perf_counter() - begin)
    return round(images / min(seconds), 1)


def table(rows: Rows) -> str:
    """A line for each substep, against the first."""
    rates = ("exact_per_s", "batched_per_s", "batched_48_per_s")
    lines = []
    for row in rows:
        first = row["substep_us"] == SUBSTEPS_US[0]
        height, width = row["sensor"]
        line = [f"{height} x {width}" if first else "", f"{row['substep_us'] / 1000:g} ms"]
        line += [f"{row['events'] / row['images']:,.0f}"]
        line += ["" if first else f"{row['against_1ms']:+.2%}"]
        line += ["" if first else f"{row['frames_differ']:.2%}", f"{row['nonzero']:.1%}"]
        lines.append([*line, *(f"{row[key]:,.0f}" if key in row else "" for key in rates)])
    head = ["sensor", "substep", "events a recording", "events", "frames", "non-zero counts"]
    return markdown([*head, "exact /s", "batched /s", "at 48 x 48 /s"], lines)


if __name__ == "__main__":
    main()
