"""What an exported network says of itself: plain values, ready for JSON."""

from __future__ import annotations

from collections.abc import Mapping

from anystep._errors import UsageError
from anystep._files import Json


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
    return about | {"planes": ["off", "on"], **frames, "formats": dict(formats)}


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
