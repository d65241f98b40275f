"""The table of data sets, and the one function that loads from it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

from anystep._lookup import check_keys, choose
from anystep.data.digits import digits, digits_dvs
from anystep.data.events.catalogue import EVENT_SETS
from anystep.data.events.rows import event_set
from anystep.data.frames import Encoding
from anystep.data.images.cifar import cifar10, cifar100
from anystep.data.images.layouts import LAYOUTS
from anystep.data.images.rows import image_set
from anystep.data.sets import Splits

DATASETS: dict[str, Callable[..., Splits]] = {
    "digits-dvs": digits_dvs,
    "digits": digits,
    **{name: event_set(name) for name in EVENT_SETS},
    "cifar10": cifar10,
    "cifar100": cifar100,
    **{name: image_set(name) for name in LAYOUTS},
}


def about(name: str) -> str:
    """What a row is, in a line.

    >>> about("digits-dvs").startswith("The 1,797 handwritten digits")
    True
    """
    described = choose(DATASETS, name, "dataset")
    return (described.__doc__ or "").strip().partition("\n")[0]


def options_of(name: str) -> list[str] | None:
    """The options that row `name` takes; None: any, and it judges them itself.

    >>> options_of("events-folder")
    ['root', 'sensor', 'protocol', 'size', 'interpolation', 'skip_bad']
    """
    parameters = inspect.signature(choose(DATASETS, name, "dataset")).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return None
    return [key for key in parameters if key not in ("binning", "cache", "workers")]


def load_dataset(
    name: str,
    *,
    binning: Encoding,
    cache: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    **options: Any,
) -> Splits:
    """Row `name` of DATASETS in frames of `binning`.

    cache     where built frames are kept; None: `default_cache()`
    workers   threads or processes that build them; None: one a processor
    options   the row's own, see `options_of`
    """
    load = choose(DATASETS, name, "dataset")
    known = options_of(name)
    if known is not None:
        check_keys(options, known, "option", f"dataset {name}")
    takes = inspect.signature(load).parameters
    building = {"cache": cache, "workers": workers}  # for rows that build something
    own = {key: value for key, value in building.items() if known is None or key in takes}
    return load(binning=binning, **own, **options)
