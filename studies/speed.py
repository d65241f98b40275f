"""Put the speed records into docs/log.md: `.venv/bin/python studies/speed.py`. Measures nothing,
see benchmarks/README.md.
"""

from __future__ import annotations

import json
from typing import Any

from measure import ROOT, quote

from anystep._files import write_text

LOG = ROOT / "docs" / "log.md"
CONTENDERS = {
    "anystep numba": "anystep (numba)",
    "spikingjelly": "SpikingJelly",
    "snntorch": "snnTorch",
    "norse": "Norse",
}


def row(record: str, name: str, group: str = "") -> dict[str, Any]:
    """What `results/bench_RECORD.json` has of a contender, in the group that begins with `group`."""
    rows = json.loads((ROOT / "results" / f"bench_{record}.json").read_text(encoding="utf-8"))[
        "rows"
    ]
    return next(each for each in rows if each["name"] == name and each["group"].startswith(group))


def table(head: list[str], lines: list[list[str]]) -> str:
    return (
        "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])
        + "\n"
    )


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
    return table(head, lines)


def layers() -> str:
    """One layer, forward and backward, by the bandwidth floor and by Linear alone, and what it
    saves for backward.
    """
    head = [
        "forward and backward",
        "(10, 16, 64, 48, 48) / floor",
        "(4, 32, 128, 32, 32) / floor",
        "bytes saved an element",
    ]
    head += ["Linear + LIF 512 / Linear", "Linear + LIF 1024 / Linear"]
    lines = []
    for name, label in {"anystep reference": "anystep (reference)", **CONTENDERS}.items():
        floors = [row(f"neurons_{side}", name)["ratio_to"]["floor"] for side in (48, 32)]
        linear = [row(f"linear_{width}", name)["ratio_to"]["linear alone"] for width in (512, 1024)]
        saved = row("neurons_48", name)["saved_bytes"]
        lines.append(
            [label, *(f"{x:.2f}" for x in floors), f"{saved:.3g}", *(f"{x:.2f}" for x in linear)]
        )
    return table(head, lines)


def data() -> str:
    """Reading and binning on one thread, beside plain numpy or faery; images before the camera,
    exact and batched.
    """
    million, plain, fixed = 1e6, "plain numpy", "anystep fixed_duration"
    lines = [
        _beside("`.bin`, million events a second", "reading .bin", plain, million),
        _beside("AEDAT 2.0, million events a second", "reading AEDAT 2.0", plain, million),
        _beside("`.aedat4`, million events a second", "reading .aedat4", "faery", million),
        _beside("`.csv`, million events a second", "reading .csv", "faery", million),
        _beside(
            "files of 4,000 events, read and binned, a second",
            "200 files",
            "plain numpy, np.add.at",
            1,
        ),
        _beside(
            "4 million events into frames, million a second",
            "4000000 events",
            "np.add.at",
            million,
            fixed,
        ),
        _beside(
            "4,000 events into frames, million a second", "4000 events", "np.add.at", million, fixed
        ),
    ]
    for side, substep in ((34, 5000), (128, 5000)):
        what = f"{side} x {side} every {substep // 1000} ms into frames, batched beside exact, images a second"
        group = f"{16 if side > 48 else 32} images to frames, {side} x {side}, {substep} us"
        lines.append(_beside(what, group, "simulator, fixed_duration", 1, "batched camera"))
    return table(["one thread", "anystep", "beside it"], lines)


def _beside(what: str, group: str, other: str, unit: float, own: str = "anystep") -> list[str]:
    """A line: what is measured, how much of it in a second, and how much by the other."""
    cells = []
    for name in (own, other):
        found = row("data", name, group)
        rate = next(
            found[key]
            for key in ("events_per_s", "files_per_s", "recordings_per_s")
            if key in found
        )
        cells.append(f"{rate / unit:,.0f}" if rate / unit >= 10 else f"{rate / unit:.1f}")
    return [what, cells[0], f"{cells[1]} ({other})"]


TABLES = {"bench_networks": networks, "bench_layers": layers, "bench_data": data}


def main() -> None:
    page = LOG.read_text(encoding="utf-8")
    for name, make in TABLES.items():
        page = quote(page, name, make())
    write_text(LOG, page)


if __name__ == "__main__":
    main()
