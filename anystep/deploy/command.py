"""What `anystep stream` and `python -m anystep.deploy.runtime` do with their flags: a JSON line a
window on stdout, and a summary as the last of them.
"""

from __future__ import annotations

import argparse
import re
import signal
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from anystep._command import answer
from anystep._errors import UsageError
from anystep._files import Json
from anystep.deploy.describe import MOST_STEPS, require_live
from anystep.deploy.sources import open_source
from anystep.deploy.step import AnyStep
from anystep.deploy.stream import Follower, Frame
from anystep.deploy.windows import Windows
from anystep.evaluation.exits import ExitRule


def rule_of(arguments: argparse.Namespace, about: Json) -> ExitRule:
    """The exit rule: what the flags say, else the model's own, else none."""
    own = about.get("exit") or {}
    if arguments.threshold is None and (arguments.score or arguments.reads):
        raise UsageError("--score and --reads need a --threshold")
    if arguments.threshold is None:
        return ExitRule(**own) if own else ExitRule(threshold=2.0)
    return ExitRule(
        score=arguments.score or "confidence",
        reads=arguments.reads or "mean",
        threshold=arguments.threshold,
    )


def sensor_of(text: str | None) -> tuple[int, int] | None:
    """`"34,34"` -> (34, 34)."""
    if text is None:
        return None
    sizes = text.split(",")
    if len(sizes) != 2 or not all(re.fullmatch("[1-9][0-9]{0,4}", size) for size in sizes):
        raise UsageError(f"--sensor: height and width, like 34,34; got {text!r}")
    return int(sizes[0]), int(sizes[1])


def framer(about: Json, sensor: tuple[int, int]) -> Callable[[NDArray[np.uint16]], Frame]:
    """Counts of the sensor -> a frame of the network, resized as for training. Error: a sensor that
    the network was not trained on.
    """
    planes, height, width = about["frame"]
    if planes != 2:
        raise UsageError(f"events have two planes, the network was trained on {planes}")
    if about.get("resize"):
        from anystep.data.frames import resize

        how = about["resize"]
        return lambda counts: resize(counts, how["size"], how["interpolation"]).astype(np.float32)
    if (height, width) != sensor:
        raise UsageError(
            f"the network was trained on {height} x {width} pixels, "
            f"the source has {sensor[0]} x {sensor[1]}: give it a source of that size, or train "
            "with the option size, which resizes frames"
        )
    return lambda counts: counts.astype(np.float32)


def _follower(step: AnyStep, arguments: argparse.Namespace) -> Follower:
    require_live(step.about)
    for name, most in (("steps", MOST_STEPS), ("max_rate", 1e12), ("idle_timeout", 1e7)):
        if (value := getattr(arguments, name)) is not None and not 0 < value <= most:
            rule = f"--{name.replace('_', '-')} must be > 0 and at most {most:,.0f}"
            raise UsageError(f"{rule}, got {value}")
    given = sensor_of(arguments.sensor)
    source, sensor = open_source(
        arguments.source,
        sensor=given,
        formats=step.about.get("formats"),
        idle_timeout=arguments.idle_timeout,
    )
    if sensor is None and step.about.get("resize"):
        raise UsageError("the network resizes frames: give the pixels of the source, --sensor H,W")
    sensor = sensor or (step.about["frame"][1], step.about["frame"][2])
    return Follower(
        step,
        source,
        Windows(
            step.about["binning"],
            sensor,
            from_first=step.about["from_first"],
            live=source.live,
            max_rate=arguments.max_rate,
        ),
        to_frame=framer(step.about, sensor),
        rule=rule_of(arguments, step.about),
        steps=arguments.steps,
    )


def follow(step: AnyStep, arguments: argparse.Namespace) -> Json:
    """Print a JSON line a window until the source ends; what the last line shall say.

    A reader that goes away ends it as well. Interrupted, it prints its last line and says so.
    """
    follower = _follower(step, arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's way to say stop
    try:
        for line in follower:
            if not answer(line, flush=follower.source.live):
                break
    except KeyboardInterrupt:
        answer({"summary": follower.summary()})
        raise
    return {"summary": follower.summary()}
