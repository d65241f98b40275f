"""Plain training, TET and TKS on real N-MNIST recordings in 5-fold cross-validation.

    ANYSTEP_DATA=FOLDER python -m studies.nmnist_folds

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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anystep._extras import need
from anystep._files import write_json
from anystep.config import DataConfig, MethodConfig, Record
from anystep.environment import describe_environment
from anystep.run import load_splits
from studies.study import (
    ROOT,
    Rows,
    check_markers,
    curves_in_markdown,
    picture,
    public,
    recipe,
    table_of,
    tell,
    train_all,
    write_table,
)

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
    record = recipe("digits_demo")
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


def features(data: Any) -> NDArray[np.float64]:
    """(M, T, 2): log(1 + events) of each polarity in each frame, of all recordings of a set."""
    frames: NDArray[Any] = np.stack([frames for frames, _ in data])
    counts: NDArray[np.float64] = np.log1p(frames.sum((3, 4), dtype=np.float64))
    return counts


def count_baseline(record: Record) -> dict[str, Any]:
    """Logistic regression on event counts, for every t: trained on what a method trains on, and
    judged on its test set.
    """
    linear = need("sklearn.linear_model", extra="report", purpose="the baseline")
    scaling = need("sklearn.preprocessing", extra="report", purpose="the baseline")
    pipeline = need("sklearn.pipeline", extra="report", purpose="the baseline")
    splits = load_splits(record)
    seen, unseen = features(splits.train), features(splits.test)
    scores = []
    for t in range(1, STEPS + 1):
        regression = linear.LogisticRegression(max_iter=2000)
        model = pipeline.make_pipeline(scaling.StandardScaler(), regression)
        model.fit(seen[:, :t].reshape(len(seen), -1), splits.train.labels)
        right = model.score(unseen[:, :t].reshape(len(unseen), -1), splits.test.labels)
        scores.append(100 * float(right))
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


def measure(root: str) -> Rows:
    """A row for every method and fold, the baseline's among them."""
    rows = []
    for fold in range(1, FOLDS + 1):
        rows.append({"method": COUNTS, "fold": fold, **count_baseline(record_of("ce", fold, root))})
    keys = [key for key in wanted() if key[0] != COUNTS]
    jobs = [(record_of(*key, root), FOLDER / f"{key[0]}-fold{key[1]}") for key in keys]
    for (method, fold), scores in zip(keys, train_all(jobs), strict=True):
        rows.append({"method": method, "fold": fold, **scores})
        tell(method, fold, scores=scores)
    return rows


def main() -> None:
    if "ANYSTEP_DATA" not in os.environ:
        raise SystemExit("nmnist_folds: set ANYSTEP_DATA to the folder that holds NMNIST")
    check_markers(PAGE, "nmnist_folds")
    root = str(Path(os.environ["ANYSTEP_DATA"]) / "NMNIST")
    runs = measure(root)
    rows = table_of(runs)
    result = {"record": public(record_of("ce", 1, root)), "runs": runs, "curves": rows}
    write_json(ROOT / "results" / "nmnist_folds.json", result)
    write_table(PAGE, "nmnist_folds", curves_in_markdown(rows, SHOWN))
    title = "1,100 recordings of N-MNIST, 5 folds"
    picture(rows, ROOT / "docs" / "nmnist_folds.png", xlabel="t, frames of 30 ms", title=title)


if __name__ == "__main__":
    main()
