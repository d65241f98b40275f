"""Small finished run folders, made by hand, for the tests of reading and reporting."""

from __future__ import annotations

import json

import numpy as np
import yaml

STEPS = 3
CONFIG = {
    "name": "fake",
    "data": {"name": "digits", "binning": "count"},
    "model": {"name": "vgg", "neuron": {"name": "lif", "tau": 2.0}},
    "train": {"epochs": 3, "lr": 0.1},
}
ENV = {"commit": "0123abc", "dirty": False, "device": "cpu", "command": "anystep train"}
VERSIONS = {"anystep": "0.1.0", "torch": "2.13"}


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def aurc(confidence, right):
    order = np.argsort(-confidence, kind="stable")
    return 1000 * np.mean([np.mean(~right[order[:k]]) for k in range(1, len(right) + 1)])


def percent(right):
    """A class without a sample is a null in scores.json."""
    return 100 * right.mean() if len(right) else None


def scores_of(logits, labels, classes):
    """Scores by slow loops, apart from anystep's own metrics."""
    prefix = [logits[: t + 1].mean(0) for t in range(len(logits))]
    right = [p.argmax(1) == labels for p in prefix]
    top = [softmax(p).max(1) for p in prefix]
    tables = np.zeros((len(logits), len(classes), len(classes)), dtype=int)
    for t, p in enumerate(prefix):
        for truth, guess in zip(labels, p.argmax(1), strict=True):
            tables[t, truth, guess] += 1
    return {
        "prefix_top1": [100 * r.mean() for r in right],
        "prefix_top5": [100.0 for _ in right],
        "step_top1": [100 * (step.argmax(1) == labels).mean() for step in logits],
        "step_top5": [100.0 for _ in right],
        "aurc_softmax": [aurc(c, r) for c, r in zip(top, right, strict=True)],
        "aurc_max_logit": [aurc(p.max(1), r) for p, r in zip(prefix, right, strict=True)],
        "ece": [abs(r.mean() - c.mean()) for c, r in zip(top, right, strict=True)],
        "per_class_top1": [[percent(r[labels == c]) for c in range(len(classes))] for r in right],
        "confusion": {str(t + 1): tables[t].tolist() for t in sorted({0, len(logits) - 1})},
    }


def make_run(
    folder, *, method="ce", seed=0, steps=STEPS, samples=40, names="abcd", skill=1.0, size=8
):
    """A finished run folder with random logits that lean to the truth by `skill`."""
    names = list(names)
    rng = np.random.default_rng([seed, *method.encode()])
    labels = rng.integers(0, len(names), samples)
    pull = skill * np.linspace(1.0, 1.6, steps)[:, None, None] * np.eye(len(names))[labels]
    logits = (rng.normal(size=(steps, samples, len(names))) + pull).astype(np.float32)
    centres = 3 * skill * rng.normal(size=(len(names), 6))
    features = (rng.normal(size=(samples, 6)) + centres[labels]).astype(np.float32)
    own = {"seed": seed, "method": {"name": method, "options": {}}}
    data = {**CONFIG["data"], "steps": steps}
    epochs = [
        {"phase": "train", "epoch": e, "train_loss": 2 / e, "parts": {"ce": 2 / e}}
        | {"val_acc": 20.0 * e, "val_loss": None}
        for e in (1, 2, 3)
    ]
    scores = {
        "protocol": "digits-v1",
        "protocol_hash": "feed0123",
        "samples": samples,
        "classes": names,
        "steps": steps,
        "prefix": "live",
        **scores_of(logits, labels, names),
        "rates": {"conv1": 0.1, "conv2": 0.2},
        "work": {
            "acs": [1e6 * (1 + seed)] * steps,
            "macs": [2e6] * steps,
            "picojoules": [9e6 + 0.9e6 * (1 + seed)] * steps,
        },
    }
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **own, "data": data}))
    (folder / "env.json").write_text(json.dumps({**ENV, "versions": VERSIONS, "seed": seed}))
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in epochs))
    (folder / "scores.json").write_text(json.dumps(scores))
    np.savez(
        folder / "outputs.npz",
        logits=logits,
        labels=labels,
        features=features,
        ids=np.array([f"test/{i}" for i in range(samples)]),
        example_frames=rng.poisson(0.3, size=(steps, 2, size, size)).astype(np.float32),
        example_index=min(5, samples - 1),
    )
    return folder


def edit(folder, **changes):
    """Change the record of a run: `edit(folder, train={"lr": 1})`."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for section, values in changes.items():
        config[section] = config[section] | values if isinstance(values, dict) else values
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def rescore(folder, **changes):
    scores = json.loads((folder / "scores.json").read_text())
    (folder / "scores.json").write_text(json.dumps(scores | changes))
