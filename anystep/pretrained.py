"""Trained networks that leave their run folder, and those that come with anystep.

A folder of a pretrained network holds no more than another person needs to use it:

    model.safetensors   the weights, with what built the network
    config.yaml         the record of its training
    about.json          what an exported model says of itself: frames, classes, accuracy at every T
    samples.npz         a few validation samples, on which an export is compared
    README.md           all this for people, with the measured table

Nothing in it is code. Where a command takes a run folder to deploy, it takes such a folder as well,
or the name of one that comes with anystep.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anystep._errors import UsageError
from anystep._files import Json, atomic_path, content_hash, regular, write_json, write_text
from anystep._lookup import unknown
from anystep.config import to_yaml
from anystep.data.events.catalogue import EVENT_SETS
from anystep.deploy.describe import check_about, describe
from anystep.folder import RunFolder, load_model, weights_file
from anystep.run import load_splits, seen_frames

if TYPE_CHECKING:
    from torch import Tensor

    from anystep.data.sets import DataSet
    from anystep.nn.models.base import StepModel

SHIPPED = Path(__file__).parent / "deploy" / "networks"
SAMPLES = 16
WEIGHTS, RECORD, ABOUT, CARD = "model.safetensors", "config.yaml", "about.json", "README.md"
EXAMPLES = "samples.npz"
LARGEST_SAMPLES = 1 << 28  # bytes unpacked


@dataclass(frozen=True)
class Trained:
    """A network ready to be deployed: in eval mode, with what it says of itself (see `describe`)
    and samples to compare an export on, frames (T, N, P, H, W).
    """

    model: StepModel
    about: Json
    samples: Tensor


def shipped() -> list[str]:
    """The networks that come with anystep, by name."""
    return sorted(each.parent.name for each in SHIPPED.glob(f"*/{ABOUT}"))


def _folder_of(place: str | Path) -> Path:
    """The folder that a path or a name means. Error: neither."""
    if Path(place).is_dir():
        return Path(place)
    if str(place) in shipped():
        return SHIPPED / str(place)
    raise unknown(str(place), shipped(), "folder or network")


def stacked(dataset: DataSet, count: int, frames: slice) -> Tensor:
    """The first `count` samples as one batch (T, N, P, H, W); one of them where lengths differ."""
    import torch

    samples = [np.asarray(dataset[index][0])[frames] for index in range(min(count, len(dataset)))]
    if len({len(sample) for sample in samples}) > 1:
        samples = samples[:1]
    return torch.from_numpy(np.stack(samples, axis=1).astype(np.float32))


def _of_run(folder: Path) -> Trained:
    if (folder / ABOUT).exists():
        raise UsageError(f"{folder} is a pretrained network already, not a run")
    place = RunFolder(folder)
    record, asked = place.read(), place.read_record()  # it knows the modules that a network needs
    row = EVENT_SETS.get(record.config["data"]["name"])
    splits = load_splits(asked)
    about = describe(
        scores=record.scores,
        environment=record.env,
        config=record.config,
        weights=content_hash(weights_file(folder).read_bytes()),
        from_first=row is not None and row.from_first,
        formats=row.formats if row else {},
        scale={"mean": splits.train.mean, "std": splits.train.std},
        exit_rule=place.read_exit(),
    )
    samples = stacked(splits.val, SAMPLES, seen_frames(asked))
    return Trained(load_model(folder), about, samples)


def _read_about(folder: Path) -> Json:
    """What a pretrained folder says of its network. Error: a damaged file, other weights."""
    file, weights = folder / ABOUT, folder / WEIGHTS
    try:
        about = json.loads(regular(file).read_text("utf-8"))
    except (ValueError, RecursionError):
        about = None
    about = check_about(about, file)
    if not weights.exists():
        raise UsageError(f"{weights} is missing: the folder is not whole")
    if content_hash(regular(weights).read_bytes()) != about.get("weights"):
        raise UsageError(f"{weights} is not the file that {file} speaks of: it is damaged")
    return about


def _read_samples(file: Path) -> Tensor:
    """The frames (T, N, P, H, W) of a pretrained folder. Error: a damaged or oversized file."""
    import torch

    try:
        with zipfile.ZipFile(regular(file)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > LARGEST_SAMPLES:
            raise OSError(f"it unpacks to more than {LARGEST_SAMPLES >> 20} MiB")
        with np.load(file, allow_pickle=False) as arrays:
            frames = arrays["frames"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{file} is missing, truncated or no samples: {error}") from error
    return torch.from_numpy(frames.astype(np.float32))


def trained(place: str | Path) -> Trained:
    """The network of a finished run, of a pretrained folder, or of a name in `shipped()`."""
    folder = _folder_of(place)
    if not (folder / ABOUT).is_file():
        return _of_run(folder)
    about = _read_about(folder)
    return Trained(load_model(folder), about, _read_samples(folder / EXAMPLES))


def from_pretrained(place: str | Path) -> StepModel:
    """A trained network in eval mode on the CPU: of a name in `shipped()`, a pretrained folder or a
    finished run. No code is run.

    Errors: an unknown name; a damaged file, by its path.

    >>> model = from_pretrained("digits_tks")
    >>> model.frame_shape
    (2, 34, 34)
    """
    folder = _folder_of(place)
    if (folder / ABOUT).is_file():
        _read_about(folder)
    return load_model(folder)


def _public(run: Path) -> str:
    """The record as YAML, without the folder of whoever trained."""
    record = RunFolder(run).read_record()
    options = {key: value for key, value in record.data.options.items() if key != "root"}
    return to_yaml(replace(record, data=replace(record.data, options=options)))


def _card(name: str, about: Json, note: str) -> str:
    accuracy = about["accuracy"]
    top1 = accuracy["prefix_top1"]
    head = " | ".join(f"t = {t}" for t in range(1, len(top1) + 1))
    cells = " | ".join(f"{value:.1f}" for value in top1)
    rule = "|".join([" --- "] * len(top1))
    commit = (
        f"{about['commit'] or 'unknown'}{', with uncommitted changes' if about['dirty'] else ''}"
    )
    binning = dict(about.get("binning") or {"name": "still images"})
    frames = binning.pop("name") + "".join(f", {key} {value}" for key, value in binning.items())
    return f"""# {name}

A spiking network of anystep. Trained with {about["method"]} at T = {about["steps"]} by the recipe
`{about["name"]}`; it may be stopped after any step.

Top-1 in percent after t steps, on {accuracy["samples"]} {accuracy["split"]} samples
({accuracy["protocol"]}, {accuracy["protocol_hash"]}; prefix: {accuracy["prefix"]}; one seed):

| {head} |
|{rule}|
| {cells} |

- classes: {", ".join(map(str, about["classes"]))}
- frames: {frames}
- commit: {commit}
- weights: {about["weights"]}
{note}
```python
import anystep

model = anystep.from_pretrained("{name}")  # or the path of this folder
logits = model(frames)  # (T, N, P, H, W) -> (T, N, classes)
said = anystep.prefix_mean(logits).argmax(-1)  # after each step
```

```console
$ anystep export {name} --out {name}.onnx
```
"""


def save_pretrained(run: str | Path, folder: str | Path, *, note: str = "") -> Path:
    """Write a finished run's network to a new folder, for others; the folder.

    note   a paragraph for the card, on licences or limits

    Errors: an unfinished run; a folder that is there and not empty.
    """
    run, folder = Path(run), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty: a pretrained network gets a folder of its own")
    found = _of_run(run)
    folder.mkdir(parents=True, exist_ok=True)
    frames = found.samples.numpy()
    counts = frames.astype(np.uint8)
    with atomic_path(folder / EXAMPLES) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, frames=counts if (counts == frames).all() else frames)
    (folder / WEIGHTS).write_bytes(weights_file(run).read_bytes())
    write_text(folder / RECORD, _public(run))
    write_text(folder / CARD, _card(folder.name, found.about, f"\n{note}\n" if note else ""))
    write_json(folder / ABOUT, found.about)  # last: a folder that has it is whole
    return folder
