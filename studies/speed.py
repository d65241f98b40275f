"""The speed records in docs/log.md: `python -m studies.speed`. It measures nothing; for that see
benchmarks/README.md.
"""

from __future__ import annotations

import json
from typing import Any

from studies.study import ROOT, markdown, write_table

LOG = ROOT / "docs" / "log.md"
CONTENDERS = {
    "anystep numba": "anystep (numba)",
    "spikingjelly": "SpikingJelly",
    "snntorch": "snnTorch",
    "norse": "Norse",
}


def row(record: str, name: str, group: str = "") -> dict[str, Any]:
    """A contender in `results/bench_RECORD.json`, in the group that begins with `group`."""
    path = ROOT / "results" / f"bench_{record}.json"
    for found in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        if found["name"] == name and found["group"].startswith(group):
            return dict(found)
    raise LookupError(f"{path.name} has no {name!r} in a group {group!r}")


def networks() -> str:
    """Time by that of the ReLU twin: inference at each T, and a training step."""
    columns = [("infer", f"T={t}") for t in (1, 2, 4, 10)] + [("train", "")]
    columns += [("infer_resnet19", f"T={t}") for t in (1, 2, 4)] + [("train_resnet19", "")]
    head = ["time / ReLU twin", "VGG-SNN T = 1", "T = 2", "T = 4", "T = 10", "training step"]
    head += ["ResNet-19 T = 1", "T = 2", "T = 4", "training step"]
    lines = []
    for name, label in CONTENDERS.items():
        ratios = [row(record, name, group)["ratio_to"]["relu twin"] for record, group in columns]
        lines.append([label, *(f"{ratio:.2f}" for ratio in ratios)])
    return markdown(head, lines)


def layers() -> str:
    """One layer, forward and backward, by the bandwidth floor and by Linear alone, and what it
    saves for backward.
    """
    head = ["forward and backward", "(10, 16, 64, 48, 48) / floor", "(4, 32, 128, 32, 32) / floor"]
    head += ["bytes saved an element", "Linear + LIF 512 / Linear", "Linear + LIF 1024 / Linear"]
    lines = []
    for name, label in {"anystep reference": "anystep (reference)", **CONTENDERS}.items():
        floors = [row(f"neurons_{side}", name)["ratio_to"]["floor"] for side in (48, 32)]
        linear = [row(f"linear_{width}", name)["ratio_to"]["linear alone"] for width in (512, 1024)]
        saved = row("neurons_48", name)["saved_bytes"]
        cells = [*(f"{x:.2f}" for x in floors), f"{saved:.3g}", *(f"{x:.2f}" for x in linear)]
        lines.append([label, *cells])
    return markdown(head, lines)


def _beside(what: str, group: str, other: str, unit: float, own: str = "anystep") -> list[str]:
    """A line: what is measured, how much of it in a second, and how much by the other."""
    cells = []
    for name in (own, other):
        found = row("data", name, group)
        kinds = ("events_per_s", "files_per_s", "recordings_per_s")
        rate = next(found[key] for key in kinds if key in found) / unit
        cells.append(f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}")
    return [what, cells[0], f"{cells[1]} ({other})"]


def data() -> str:
    """Reading and binning on one thread, beside plain numpy or faery; images before the camera,
    exact and batched.
    """
    million, fixed, add_at = 1e6, "anystep fixed_duration", "np.add.at"
    readers = {
        ".bin": "plain numpy",
        "AEDAT 2.0": "plain numpy",
        ".aedat4": "faery",
        ".csv": "faery",
    }
    lines = []
    for name, other in readers.items():
        format = f"`{name}`" if name.startswith(".") else name
        what = f"{format}, million events a second"
        lines.append(_beside(what, f"reading {name}", other, million))
    what = "files of 4,000 events, read and binned, a second"
    lines.append(_beside(what, "200 files", "plain numpy, np.add.at", 1))
    for count, group in (("4 million", "4000000 events"), ("4,000", "4000 events")):
        what = f"{count} events into frames, million a second"
        lines.append(_beside(what, group, add_at, million, fixed))
    for side, images in ((34, 32), (128, 16)):
        what = f"{side} x {side} every 5 ms into frames, batched beside exact, images a second"
        group = f"{images} images to frames, {side} x {side}, 5000 us"
        lines.append(_beside(what, group, "simulator, fixed_duration", 1, "batched camera"))
    return markdown(["one thread", "anystep", "beside it"], lines)


TABLES = {"bench_networks": networks, "bench_layers": layers, "bench_data": data}


def main() -> None:
    for name, make in TABLES.items():
        write_table(LOG, name, make())


if __name__ == "__main__":
    main()
