"""What an exported network says of itself: plain values, ready for JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from anystep._errors import UsageError
from anystep._files import Json
from anystep.evaluation.exits import ExitRule

PLANES = ["off", "on"]


def describe(
    *,
    scores: Json,
    environment: Json,
    config: Json,
    weights: str,
    scale: Json,
    from_first: bool,
    formats: Mapping[str, str],
    exit_rule: Json | None,
) -> Json:
    """The `about` of a finished run.

    scores, environment, config   what the run folder holds: how good it is, where it was made, and
                                  its record
    weights     the hash of the weights
    scale       mean and sd of each plane, where images are normalised
    from_first  whether the time of a recording counts from its first event
    formats     by suffix, how files of the data set are read where the suffix does not say it
    exit_rule   from `anystep calibrate`, or None
    """
    binning, options = dict(scores["binning"]), config["data"].get("options") or {}
    about: Json = {
        "name": config["name"],
        "method": config["method"]["name"],
        "classes": list(scores["classes"]),
        "steps": scores["steps"],
        "first_frame": scores["frames"][0],
        "accuracy": {
            key: scores[key]
            for key in ("prefix_top1", "prefix", "split", "samples", "protocol", "protocol_hash")
        },
        "exit": exit_rule,
        "commit": environment.get("commit"),
        "dirty": environment.get("dirty"),
        "weights": weights,
    }
    if binning["name"] == "direct":
        return about | {"planes": "colour", "normalisation": dict(scale)}
    resize = None
    if options.get("size"):
        interpolation = options.get("interpolation", "nearest")
        resize = {"size": options["size"], "interpolation": interpolation}
    frames = {"binning": binning, "from_first": from_first, "resize": resize}
    return about | {"planes": PLANES, **frames, "formats": dict(formats)}


MOST_STEPS = 10_000


def _whole(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _resize_ok(how: Json) -> bool:
    sides = how["size"] if isinstance(how["size"], list) else [how["size"]]
    sound = len(sides) <= 2 and all(_whole(side, 1, 1 << 14) for side in sides)
    return sound and how["interpolation"] in ("nearest", "bilinear")


def _binning_ok(binning: Json) -> bool:
    numbers = {"steps": MOST_STEPS, "duration_us": 10**12, "count": 10**9}
    told = [_whole(binning[key], 1, most) for key, most in numbers.items() if binning.get(key)]
    return isinstance(binning["name"], str) and all(told)


Rules = dict[str, Callable[[Json], bool]]
# What a description must hold, by key: it may come from anywhere. Each is true of a sound one.
_SOUND: Rules = {
    "classes": lambda about: (
        isinstance(about["classes"], list)
        and 2 <= len(about["classes"]) <= 1 << 20
        and all(isinstance(each, str | int) for each in about["classes"])
    ),
    "steps": lambda about: _whole(about["steps"], 1, MOST_STEPS),
    "accuracy": lambda about: (
        "binning" not in about or isinstance(about["accuracy"]["prefix"], str)
    ),
    "first_frame": lambda about: _whole(about.get("first_frame", 0), 0, MOST_STEPS),
    "exit": lambda about: (
        about.get("exit") is None or ExitRule(**about["exit"]).describe() == about["exit"]
    ),
    "from_first": lambda about: isinstance(about.get("from_first", False), bool),
    "binning": lambda about: "binning" not in about or _binning_ok(about["binning"]),
    "planes": lambda about: "binning" not in about or about.get("planes", PLANES) == PLANES,
    "resize": lambda about: about.get("resize") is None or _resize_ok(about["resize"]),
    "formats": lambda about: all(
        isinstance(each, str) for each in dict(about.get("formats") or {}).values()
    ),
}


def check_about(about: object, where: object, more: Rules | None = None) -> Json:
    """The description, read from `where`, if it can be a network's; `more` as in `_SOUND`. Error:
    the key whose value cannot be.
    """
    if not isinstance(about, dict):
        raise UsageError(f"{where} does not describe a network")
    for key, sound in {**_SOUND, **(more or {})}.items():
        try:
            right = sound(about)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            right = False
        if not right:
            raise UsageError(f"{where} describes no network that can be: see its {key!r}")
    return about


def require_live(about: Json) -> None:
    """Refuse what cannot follow a stream: images, bins that need the end, frames from later on."""
    if "binning" not in about:
        raise UsageError("the network was trained on images: it follows no event stream")
    if not about["accuracy"]["prefix"].startswith("live"):
        raise UsageError(
            "the frames that the network was trained on need the end of a recording: to follow a "
            "stream, train with fixed_duration or fixed_count, on the whole sensor"
        )
    if about.get("first_frame"):
        raise UsageError(
            f"the network was trained on frames from {about['first_frame'] + 1} on: "
            "a stream has no such beginning"
        )
