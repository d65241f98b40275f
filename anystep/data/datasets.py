"""The table of data sets, and the one function that loads from it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import partial
from typing import Any, get_args, get_type_hints

from anystep._lookup import check_keys, choose
from anystep.data.camera.cifar10_sim import cifar10_sim
from anystep.data.digits import digits, digits_dvs
from anystep.data.events.rows import cifar10_dvs, dvs_gesture, events_folder, ncaltech101, nmnist
from anystep.data.frames import Encoding
from anystep.data.images.cifar import cifar10, cifar100
from anystep.data.images.rows import LAYOUTS, photographs
from anystep.data.sets import Splits

DATASETS: dict[str, Callable[..., Splits]] = {
    "digits-dvs": digits_dvs,
    "digits": digits,
    "nmnist": nmnist,
    "ncaltech101": ncaltech101,
    "cifar10-dvs": cifar10_dvs,
    "cifar10-sim": cifar10_sim,
    "dvs-gesture": dvs_gesture,
    "events-folder": events_folder,
    "cifar10": cifar10,
    "cifar100": cifar100,
    **{name: partial(photographs, name) for name in LAYOUTS},
}


def about(name: str) -> str:
    """What a row is, in a line.

    >>> about("digits-dvs").startswith("The 1,797 handwritten digits")
    True
    """
    described: Any = LAYOUTS.get(name) or choose(DATASETS, name, "dataset")
    return (described.__doc__ or "").strip().partition("\n")[0]


def load_dataset(
    name: str,
    *,
    binning: Encoding,
    cache: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    **options: Any,
) -> Splits:
    """Row `name` of DATASETS in frames of `binning`; `options` are that row's own and unknown ones
    are refused.
    """
    load = choose(DATASETS, name, "dataset")
    known = options_of(name)
    if known is not None:
        check_keys(options, known, "option", f"dataset {name}")
    return load(binning=binning, cache=cache, workers=workers, **options)


def options_of(name: str) -> list[str] | None:
    """The options that row `name` takes; None: any, and it judges them itself.

    >>> options_of("events-folder")
    ['root', 'sensor', 'protocol', 'size', 'interpolation', 'skip_bad']
    """
    load = choose(DATASETS, name, "dataset")
    known: list[str] = []
    for key, parameter in inspect.signature(load).parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD:
            known.append(key)
        elif group := get_args(
            get_type_hints(load).get(key)
        ):  # Unpack[...]: options with a type of their own
            known += get_type_hints(group[0])
        else:
            return None
    return [key for key in known if key not in ("binning", "cache", "workers")]
