"""Measure what the README quotes: `make results`. Finished runs in runs/results are kept, so it can
be interrupted.

Writes results/NAME.json (record, environment and scores of every run, and the table),
docs/NAME.png, and the table between the markers in README.md. A table in a document comes from a
record, through `quote`, and from nowhere else.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from anystep._files import write_json, write_text
from anystep.compare import compare_methods, markdown_table
from anystep.config import load_recipe, record_from
from anystep.evaluation.report.page import accuracy_png, write_report
from anystep.folder import read_runs

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
MEASURED = {"digits_demo": (["ce", "tks"], range(3))}


def quote(page: str, name: str, table: str) -> str:
    """The page with the table of `name` between its markers. Error: not exactly one pair of
    markers.
    """
    block = f"<!-- results/{name}.json -->\n{table}<!-- end -->"
    changed, count = re.subn(
        rf"<!-- results/{name}\.json -->.*?<!-- end -->", lambda _: block, page, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(
            f"the page must have one block <!-- results/{name}.json --> ... <!-- end -->, found {count}"
        )
    return changed


def main() -> None:
    for name in MEASURED:
        quote(
            README.read_text(encoding="utf-8"), name, ""
        )  # no markers: say so before training, not after
    for name, (methods, seeds) in MEASURED.items():
        record = record_from(load_recipe(ROOT / "recipes" / f"{name}.yaml"))
        folder = ROOT / "runs" / "results" / name
        result = compare_methods(record, methods, list(seeds), folder)
        runs = read_runs([folder / run["run"] for run in result["runs"]])
        write_report(runs, folder / "report.html")
        accuracy_png(runs, ROOT / "docs" / f"{name}.png")
        write_json(ROOT / "results" / f"{name}.json", result)
        write_text(
            README, quote(README.read_text(encoding="utf-8"), name, markdown_table(result["table"]))
        )
        print(f"results/{name}.json, docs/{name}.png, {folder / 'report.html'}", file=sys.stderr)


if __name__ == "__main__":
    main()
