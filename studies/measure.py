"""What the README quotes: `make results`, or `python -m studies.measure`.

Writes results/NAME.json (record, environment and scores of every run, and the table),
docs/NAME.png, and the table between the markers in README.md. Finished runs in runs/results are
kept, so it can be interrupted.
"""

from __future__ import annotations

import sys

from anystep._files import write_json
from anystep.compare import compare_methods, markdown_table
from anystep.evaluation.report.page import accuracy_png, write_report
from anystep.folder import read_runs
from studies.study import ROOT, check_markers, recipe, write_table

README = ROOT / "README.md"
MEASURED = {"digits_demo": (["ce", "tks"], range(3))}


def main() -> None:
    check_markers(README, *MEASURED)
    for name, (methods, seeds) in MEASURED.items():
        folder = ROOT / "runs" / "results" / name
        result = compare_methods(recipe(name), methods, list(seeds), folder)
        runs = read_runs([folder / run["run"] for run in result["runs"]])
        write_report(runs, folder / "report.html")
        accuracy_png(runs, ROOT / "docs" / f"{name}.png")
        write_json(ROOT / "results" / f"{name}.json", result)
        write_table(README, name, markdown_table(result["table"]))
        print(f"results/{name}.json, docs/{name}.png, {folder / 'report.html'}", file=sys.stderr)


if __name__ == "__main__":
    main()
