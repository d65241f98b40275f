"""Plain training, TET and TKS on real N-MNIST recordings in 5-fold cross-validation.

    ANYSTEP_DATA=FOLDER .venv/bin/python studies/nmnist_folds.py

FOLDER holds NMNIST/{Train,Test}/<digit>/*.bin: the first 1,000 and 100 recordings of the release,
1,100 in all. Each tests in one of five folds and a tenth of the rest is set aside. Nothing is tuned
here: network, rate and schedule are those of recipes/digits_demo.yaml, chosen there for plain
training on other data, TKS has the paper's values for events. Epochs are more because there are
fewer recordings.

The baseline "event counts" sees no pixel: of every recording the number of on and off events in
each of the first t frames, 2 t numbers, their logarithms, logistic regression (scikit-learn's, C =
1). What it gets right, a network need not see a digit for.

Writes results/nmnist_folds.json, docs/nmnist_folds.png and the table between the markers in
docs/nmnist.md. Finished runs in runs/nmnist_folds are kept. Commit first: the records say whether
the code was changed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measure import ROOT, quote
from numpy.typing import NDArray
from study import Job, markdown, picture, public, table_of, train_all

from anystep._extras import need
from anystep._files import write_json, write_text
from anystep.config import DataConfig, MethodConfig, Record, load_recipe, record_from
from anystep.environment import describe_environment
from anystep.run import load_splits

EPOCHS, FOLDS, STEPS, SEED = 24, 5, 10, 0
METHODS: dict[str, dict[str, Any]] = {
    "ce": {},
    "tet": {},
    "tks": {"alpha": 0.3, "temperature": 5.0},
}
COUNTS = "event counts"
FOLDER = ROOT / "runs" / "nmnist_folds"
PAGE = ROOT / "docs" / "nmnist.md"
SHOWN = (1, 2, 3, 4, 5, 6, 8, 10)


def record_of(method: str, fold: int, root: str) -> Record:
    """The run of a method whose test set is `fold`, 1 to 5."""
    record = record_from(load_recipe(ROOT / "recipes" / "digits_demo.yaml"))
    binning = {"name": "fixed_duration", "steps": STEPS, "duration_us": 30_000}
    data = DataConfig(
        name="nmnist",
        binning=binning,
        options={"root": root, "protocol": f"fold-{fold}-of-{FOLDS}@0"},
    )
    train = replace(record.train, epochs=EPOCHS)
    own = MethodConfig(name=method, options=METHODS[method])
    return replace(
        record, name="nmnist", seed=SEED, data=data, method=own, train=train, tensorboard=False
    )


def jobs(root: str) -> Iterator[tuple[str, int, Job]]:
    for fold in range(1, FOLDS + 1):
        for method in METHODS:
            yield method, fold, (record_of(method, fold, root), FOLDER / f"{method}-fold{fold}")


def features(data: Any) -> NDArray[np.float64]:
    """(M, T, 2): log(1 + events) of each polarity in each frame, of all recordings of a set."""
    frames: NDArray[Any] = np.stack([frames for frames, _ in data])
    counts: NDArray[np.float64] = np.log1p(frames.sum((3, 4), dtype=np.float64))
    return counts


def count_baseline(record: Record) -> dict[str, Any]:
    """Logistic regression on event counts: trained on what a method trains on, judged on its test
    set, for every t.
    """
    linear = need("sklearn.linear_model", extra="report", purpose="the baseline")
    scaling = need("sklearn.preprocessing", extra="report", purpose="the baseline")
    pipeline = need("sklearn.pipeline", extra="report", purpose="the baseline")
    splits = load_splits(record)
    seen, unseen = features(splits.train), features(splits.test)
    scores = []
    for t in range(1, STEPS + 1):
        model = pipeline.make_pipeline(
            scaling.StandardScaler(), linear.LogisticRegression(max_iter=2000)
        )
        model.fit(seen[:, :t].reshape(len(seen), -1), splits.train.labels)
        scores.append(
            100 * float(model.score(unseen[:, :t].reshape(len(unseen), -1), splits.test.labels))
        )
    return {
        "split": "test",
        "protocol": splits.protocol,
        "protocol_hash": splits.protocol_hash,
        "samples": len(splits.test),
        "prefix": "live",
        "prefix_top1": scores,
        "env": describe_environment(seed=SEED),
    }


def wanted() -> list[tuple[str, int]]:
    """(method, fold) of every run that the result holds."""
    return [(method, fold) for fold in range(1, FOLDS + 1) for method in (COUNTS, *METHODS)]


def measure(root: str) -> list[dict[str, Any]]:
    """A row for every method and fold, the baseline's among them."""
    keys = list(jobs(root))
    rows = []
    for fold in range(1, FOLDS + 1):
        rows.append({"method": COUNTS, "fold": fold, **count_baseline(record_of("ce", fold, root))})
    for (method, fold, _), scores in zip(keys, train_all(job for _, _, job in keys), strict=True):
        rows.append({"method": method, "fold": fold, **scores})
        print(
            method,
            fold,
            [round(value, 1) for value in scores["prefix_top1"]],
            file=sys.stderr,
            flush=True,
        )
    return rows


def write_documents(rows: Sequence[dict[str, Any]]) -> None:
    write_text(PAGE, quote(PAGE.read_text(encoding="utf-8"), "nmnist_folds", markdown(rows, SHOWN)))
    title = "1,100 recordings of N-MNIST, 5 folds"
    picture(rows, ROOT / "docs" / "nmnist_folds.png", xlabel="t, frames of 30 ms", title=title)


def main() -> None:
    if "ANYSTEP_DATA" not in os.environ:
        raise SystemExit("nmnist_folds: set ANYSTEP_DATA to the folder that holds NMNIST")
    quote(
        PAGE.read_text(encoding="utf-8"), "nmnist_folds", ""
    )  # no markers: say so before training, not after
    root = str(Path(os.environ["ANYSTEP_DATA"]) / "NMNIST")
    runs = measure(root)
    rows = table_of(runs)
    result = {"record": public(record_of("ce", 1, root)), "runs": runs, "curves": rows}
    write_json(ROOT / "results" / "nmnist_folds.json", result)
    write_documents(rows)


if __name__ == "__main__":
    main()
