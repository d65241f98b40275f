"""`anystep data ACTION`: what data sets there are, fetching, checking, showing and filming them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anystep._errors import UsageError

AddFlag = Callable[..., Any]  # argparse's `add_argument`


def _options(pairs: list[str]) -> dict[str, Any]:
    """`["protocol=random-90-10@0"]` as arguments of a data set."""
    from yaml import YAMLError

    from anystep.config import parse_value

    options = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(
                f"--option: expected KEY=VALUE, like protocol=cifar10-dvs/first-100, got {pair!r}"
            )
        try:
            options[key] = parse_value(text)
        except YAMLError:
            raise UsageError(f"--option {key}: the value is no YAML, got {text!r}") from None
    return options


def _pair(text: str) -> tuple[int, int]:
    """`"128,128"` as height and width."""
    try:
        height, width = (int(number) for number in text.split(","))
    except ValueError:
        raise UsageError(
            f"--sensor: height and width with a comma between, like 128,128, got {text!r}"
        ) from None
    return height, width


def list_(arguments: argparse.Namespace) -> dict[str, Any]:
    """What data sets there are."""
    from anystep.console import print_table
    from anystep.data.datasets import DATASETS, about

    print_table("data sets", ["name", "what"], [[name, about(name)] for name in DATASETS])
    return {"datasets": list(DATASETS)}


def get(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fetch a data set's release, check its hash and unpack it; a broken download goes on."""
    from anystep.console import progress_bar, say
    from anystep.data.fetch.get import get_dataset

    with progress_bar(f"getting {arguments.name}", unit="bytes") as progress:
        result = get_dataset(
            arguments.name,
            arguments.dir or Path("data") / arguments.name,
            say=say,
            progress=progress,
        )
    say(result["next"])
    return result


def check(arguments: argparse.Namespace) -> dict[str, Any]:
    """Read every sample where it lies: counts, times, sizes, and the files that cannot be read."""
    from anystep.console import print_table, progress_bar, say
    from anystep.data.check import check_dataset, table_cells
    from anystep.evaluation.figures.contact_sheet import contact_sheet
    from anystep.evaluation.figures.style import check_path

    if arguments.sheet:
        check_path(arguments.sheet)  # before hours of reading, not after
    with progress_bar(f"checking {arguments.name}") as progress:
        found = check_dataset(
            arguments.name,
            arguments.dir,
            options=_options(arguments.option),
            deep=arguments.deep,
            progress=progress,
        )
    print_table(*table_cells(found.summary))
    for each in found.summary["corrupt"]:
        say(f"cannot be read: {each['file']}: {each['reason']}")
    result = {**found.summary, "ok": arguments.skip_bad or not found.summary["corrupt"]}
    if arguments.sheet and found.examples:
        result["sheet"] = str(contact_sheet(Path(arguments.sheet), found.examples))
        say(f"one sample of each class: {arguments.sheet}")
    return result


def show(arguments: argparse.Namespace) -> dict[str, Any]:
    """Animate one recording as a GIF, at its own speed or slower."""
    from anystep.console import say
    from anystep.data.readers import read_events
    from anystep.evaluation.figures.animation import animate

    sensor = None if arguments.sensor is None else _pair(arguments.sensor)
    out = Path(arguments.out or Path(arguments.file).with_suffix(".gif").name)
    if out.suffix.lower() != ".gif" or not out.parent.is_dir():
        raise UsageError(f"--out must end with .gif in a folder that exists, got {str(out)!r}")
    events = read_events(arguments.file, sensor=sensor, sort=True)
    frames = animate(events, out, frame_us=arguments.frame_us, slow=arguments.slow)
    say(f"{frames} pictures: {out}")
    height, width = events.sensor
    return {
        "animation": str(out),
        "pictures": frames,
        "events": len(events),
        "sensor": [height, width],
    }


def simulate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Film a set of images with the simulated event camera; what is there already is kept."""
    from anystep.console import progress_bar, say
    from anystep.data.camera.cifar10_sim import simulate_dataset

    with progress_bar(f"filming {arguments.images}") as progress:
        film = simulate_dataset(
            arguments.images,
            root=arguments.root or Path("data") / arguments.images,
            out=arguments.out,
            path=arguments.path,
            per_class=arguments.per_class,
            workers=arguments.workers,
            seed=arguments.seed,
            progress=progress,
        )
    say(f"{film['recordings']:,} recordings in {film['out']}, {film['made']:,} of them new")
    return film


ACTIONS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "list": list_,
    "get": get,
    "check": check,
    "show": show,
    "simulate": simulate,
}


def _get_flags(flag: AddFlag) -> None:
    flag("name", help="a row of: anystep data list")
    flag("dir", nargs="?", help="where to put it (default: data/NAME)")


def _check_flags(flag: AddFlag) -> None:
    flag("name", help="a row of: anystep data list")
    flag("dir", nargs="?", help="the folder that holds it; none for what is built in")
    flag("--sheet", metavar="FILE.png", help="draw one sample of each class there; .svg as well")
    flag("--deep", action="store_true", help="decode every image, not only the first of a class")
    flag("--skip-bad", action="store_true", help="files that cannot be read are no failure")
    like = "like protocol=random-90-10@0 or, for events-folder, sensor=[128,128]; may be repeated"
    flag("--option", action="append", default=[], metavar="KEY=VALUE", help=like)


def _show_flags(flag: AddFlag) -> None:
    flag("file", help="a recording of any format that is read")
    flag("--out", metavar="FILE.gif", help="the animation (default: the recording's name, here)")
    default = "(default: what a viewer can show)"
    flag("--frame-us", type=int, metavar="N", help=f"microseconds in a picture {default}")
    flag("--slow", type=float, default=1.0, metavar="X", help="times slower than life (default: 1)")
    flag("--sensor", metavar="H,W", help="height and width, where FILE does not say them: 128,128")


def _simulate_flags(flag: AddFlag) -> None:
    flag("--images", default="cifar10", help="the image set: cifar10 (default)")
    flag("--root", metavar="DIR", help="the folder that holds it (default: data/IMAGES)")
    paths = "closed-loop (default) or saccade"
    flag("--path", default="closed-loop", help=f"how the image moves: {paths}")
    flag("--out", required=True, metavar="DIR", help="recordings to write, or to go on with")
    flag("--per-class", type=int, default=1000, metavar="N", help="images (default: 1000)")
    flag("--workers", type=int, metavar="N", help="threads (default: one a processor)")
    flag("--seed", type=int, default=0, metavar="N", help="of the background events (default: 0)")


_FLAGS: dict[str, Callable[[AddFlag], None]] = {
    "get": _get_flags,
    "check": _check_flags,
    "show": _show_flags,
    "simulate": _simulate_flags,
}


def add_actions(parser: argparse.ArgumentParser) -> None:
    """The actions of `anystep data` and their flags."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, action in ACTIONS.items():
        text = (action.__doc__ or "").strip()
        own = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        if name in _FLAGS:
            _FLAGS[name](own.add_argument)
