"""`anystep data ACTION`: what data sets there are, fetching, checking, showing and filming them."""

from __future__ import annotations

from argparse import Namespace as Arguments
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from anystep._command import say
from anystep._errors import UsageError

Result = dict[str, Any]  # what a command ends with, as JSON
Flags = dict[str, dict[str, Any]]  # name -> the options of argparse's `add_argument`


def whole_numbers(text: str, flag: str, like: str) -> tuple[int, ...]:
    """`"1,2,4"`, the value of a flag, as numbers."""
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        rule = f"whole numbers with commas between, like {like}"
        raise UsageError(f"{flag}: {rule}, got {text!r}") from None


def options_from(pairs: Sequence[str]) -> Result:
    """`["size=48"]`, the values of --option, as options of a data set."""
    from anystep.config import overrides_from

    options: Result = {}
    for pair in pairs:
        options |= overrides_from([f"--{pair}"])
    return options


def list_(arguments: Arguments) -> Result:
    """What data sets there are."""
    from anystep.console import print_table
    from anystep.data.datasets import DATASETS, about

    print_table("data sets", ["name", "what"], [[name, about(name)] for name in DATASETS])
    return {"datasets": list(DATASETS)}


def get(arguments: Arguments) -> Result:
    """Fetch a data set's release, check its hash and unpack it; a broken download goes on."""
    from anystep.console import progress_bar
    from anystep.data.fetch.get import get_dataset

    folder = arguments.dir or Path("data") / arguments.name
    with progress_bar(f"getting {arguments.name}", unit="bytes") as progress:
        result = get_dataset(arguments.name, folder, say=say, progress=progress)
    say(result["next"])
    return result


def check(arguments: Arguments) -> Result:
    """Read every sample where it lies: counts, times, sizes, and the files that cannot be read."""
    from anystep.console import print_table, progress_bar
    from anystep.data.check import check_dataset, table_cells
    from anystep.evaluation.figures.contact_sheet import contact_sheet
    from anystep.evaluation.figures.style import check_path

    if arguments.sheet:
        check_path(arguments.sheet)  # before hours of reading, not after
    given: Result = {"options": options_from(arguments.option)}
    given |= {"deep": arguments.deep, "skip_bad": arguments.skip_bad}
    with progress_bar(f"checking {arguments.name}") as progress:
        found = check_dataset(arguments.name, arguments.dir, **given, progress=progress)
    print_table(*table_cells(found.summary))
    for each in found.summary["corrupt"]:
        say(f"cannot be read: {each['file']}: {each['reason']}")
    if problem := found.summary["protocol"].get("problem"):
        say(problem)
    result = found.summary
    if arguments.sheet and found.examples:
        result["sheet"] = str(contact_sheet(Path(arguments.sheet), found.examples))
        say(f"one sample of each class: {arguments.sheet}")
    return result


def show(arguments: Arguments) -> Result:
    """Animate one recording as a GIF, at its own speed or slower."""
    from anystep.data.readers import read_events
    from anystep.evaluation.figures.animation import animate

    size: Any = arguments.sensor and whole_numbers(arguments.sensor, "--sensor", "128,128")
    out = Path(arguments.out or Path(arguments.file).with_suffix(".gif").name)
    if out.suffix.lower() != ".gif" or not out.parent.is_dir():
        raise UsageError(f"--out must end with .gif in a folder that exists, got {str(out)!r}")
    events = read_events(arguments.file, format=arguments.format, sensor=size, sort=True)
    frames = animate(events, out, frame_us=arguments.frame_us, slow=arguments.slow)
    say(f"{frames} pictures: {out}")
    sensor = list(events.sensor)
    return {"animation": str(out), "pictures": frames, "events": len(events), "sensor": sensor}


def slice_(arguments: Arguments) -> Result:
    """Cut long recordings of a folder into windows of one duration, each a file of its own."""
    from anystep.console import progress_bar
    from anystep.data.events.slices import microseconds, slice_recordings

    size: Any = arguments.sensor and whole_numbers(arguments.sensor, "--sensor", "128,128")
    own = {"window_us": microseconds(arguments.window), "sensor": size}
    with progress_bar("slicing") as progress:
        made = slice_recordings(arguments.dir, arguments.out, **own, progress=progress)
    say(f"{made['slices']:,} slices of {made['recordings']:,} recordings in {made['out']}")
    if made["short"]:
        say(f"shorter than a window, left out: {', '.join(made['short'])}")
    return made


def simulate(arguments: Arguments) -> Result:
    """Film a set of images with the simulated event camera; what is there already is kept."""
    from anystep.console import progress_bar
    from anystep.data.filming import simulate_dataset

    given = {
        key: getattr(arguments, key)
        for key in ("root", "out", "path", "per_class", "workers", "seed")
    }
    with progress_bar(f"filming {arguments.images}") as progress:
        film = simulate_dataset(arguments.images, **given, progress=progress)
    say(f"{film['recordings']:,} recordings in {film['out']}, {film['made']:,} of them new")
    return film


ACTIONS: dict[str, Callable[[Arguments], Result]] = {"list": list_}
ACTIONS |= {each.__name__.rstrip("_"): each for each in (get, check, show, slice_, simulate)}
OPTION = {"action": "append", "default": [], "metavar": "KEY=VALUE"}
_NAME = {"help": "a row of: anystep data list"}
ACTION_FLAGS: dict[str, Flags] = {
    "get": {"name": _NAME, "dir": {"nargs": "?", "help": "where to put it (default: data/NAME)"}},
    "check": {
        "name": _NAME,
        "dir": {"nargs": "?", "help": "the folder that holds it; none for what is built in"},
        "--sheet": {"metavar": "FILE.png", "help": "draw one sample of each class; .svg as well"},
        "--deep": {"action": "store_true", "help": "decode every image, not one a class"},
        "--skip-bad": {"action": "store_true", "help": "files that cannot be read are no failure"},
        "--option": {**OPTION, "help": "like protocol=random-90-10@0; may be repeated"},
    },
    "show": {
        "file": {"help": "a recording of any format that is read"},
        "--out": {"metavar": "FILE.gif", "help": "(default: the recording's name, here)"},
        "--frame-us": {"type": int, "metavar": "N", "help": "microseconds in a picture"},
        "--slow": {"type": float, "default": 1.0, "metavar": "X", "help": "times slower than life"},
        "--sensor": {"metavar": "H,W", "help": "height and width, where FILE does not say them"},
        "--format": {"metavar": "NAME", "help": "like cifar10-dvs (default: by the suffix)"},
    },
    "slice": {
        "dir": {"help": "recordings as events-folder has them: CLASS/.../FILE"},
        "--out": {"required": True, "metavar": "DIR", "help": "a new folder for the slices"},
        "--window": {"required": True, "metavar": "TIME", "help": "like 100ms, 0.5s or 800us"},
        "--sensor": {"metavar": "H,W", "help": "height and width, where files do not say them"},
    },
    "simulate": {
        "--images": {
            "default": "cifar10",
            "help": "an image set of: anystep data list (default: cifar10)",
        },
        "--root": {"metavar": "DIR", "help": "the folder that holds it (default: data/IMAGES)"},
        "--path": {"default": "closed-loop", "help": "how the image moves; or saccade"},
        "--out": {"required": True, "metavar": "DIR", "help": "recordings to write or go on with"},
        "--per-class": {
            "type": int,
            "metavar": "N",
            "help": "(default: 1000 of cifar10, else all)",
        },
        "--workers": {"type": int, "metavar": "N", "help": "threads (default: one a processor)"},
        "--seed": {"type": int, "default": 0, "metavar": "N", "help": "of the background events"},
    },
}
