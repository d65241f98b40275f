"""Put the speed records into docs/log.md: `.venv/bin/python results/speed.py`. Measures nothing, see benchmarks/README.md."""

from __future__ import annotations

import json
from typing import Any

from measure import ROOT, quote

from anystep._files import write_text

LOG = ROOT / "docs" / "log.md"
CONTENDERS = {"anystep numba": "anystep (numba)", "spikingjelly": "SpikingJelly", "snntorch": "snnTorch", "norse": "Norse"}


def row(record: str, name: str, group: str = "") -> dict[str, Any]:
    """What `results/bench_RECORD.json` has of a contender, in the group that begins with `group`."""
    rows = json.loads((ROOT / "results" / f"bench_{record}.json").read_text(encoding="utf-8"))["rows"]
    return next(each for each in rows if each["name"] == name and each["group"].startswith(group))


def table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines]) + "\n"


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
    """One layer, forward and backward, by the bandwidth floor and by Linear alone, and what it saves for backward."""
    head = ["forward and backward", "(10, 16, 64, 48, 48) / floor", "(4, 32, 128, 32, 32) / floor", "bytes saved an element"]
    head += ["Linear + LIF 512 / Linear", "Linear + LIF 1024 / Linear"]
    lines = []
    for name, label in {"anystep reference": "anystep (reference)", **CONTENDERS}.items():
        floors = [row(f"neurons_{side}", name)["ratio_to"]["floor"] for side in (48, 32)]
        linear = [row(f"linear_{width}", name)["ratio_to"]["linear alone"] for width in (512, 1024)]
        saved = row("neurons_48", name)["saved_bytes"]
        lines.append([label, *(f"{x:.2f}" for x in floors), f"{saved:.3g}", *(f"{x:.2f}" for x in linear)])
    return table(head, lines)


TABLES = {"bench_networks": networks, "bench_layers": layers}


def main() -> None:
    page = LOG.read_text(encoding="utf-8")
    for name, make in TABLES.items():
        page = quote(page, name, make())
    write_text(LOG, page)


if __name__ == "__main__":
    main()
