"""`anystep data get`: the release of a data set, fetched or taken from where you put it, checked,
and unpacked.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anystep._errors import UsageError
from anystep._lock import only_one
from anystep._lookup import choose
from anystep.data.fetch.download import Progress, difference, download
from anystep.data.fetch.releases import RELEASES, Archive, Release
from anystep.data.fetch.unpack import is_archive, unfinished, unpack

Say = Callable[[str], None]


def _one(
    file: Archive, folder: Path, release: Release, say: Say, progress: Progress
) -> dict[str, Any] | None:
    """One file of a release in its place, or None if only a person can fetch it."""
    path = folder / file.name
    packed, state = is_archive(file.name), "already there"
    unpacked = all((folder / each).exists() for each in file.holds)
    if packed and unpacked and not unfinished(path, folder):
        say(f"{file.name}: {', '.join(file.holds)} is already there")
        packed = False
    elif path.is_file():
        say(f"{file.name}: comparing its checksum")
        if wrong := difference(path, file.checksum):
            hint = "it is damaged, not whole or another file; delete it and run again"
            raise UsageError(f"{path}: {wrong}: {hint}")
        state = "found"
    elif file.url is None:
        return None
    else:
        say(f"{file.name}: fetching {file.url}")
        try:
            download(file.url, path, checksum=file.checksum, size=file.size, progress=progress)
        except ConnectionError as error:
            by_hand = f"Or fetch {file.name} from {release.page} yourself and put it into {folder}"
            raise ConnectionError(f"{error}. {by_hand}") from error
        state = "fetched"
    if packed:
        say(f"{file.name}: unpacking")
        unpack(path, folder, holds=file.holds)
    size = path.stat().st_size if path.is_file() else file.size
    return {"name": file.name, "bytes": size, "checksum": file.checksum, "state": state}


def get_dataset(
    name: str,
    folder: str | os.PathLike[str],
    *,
    say: Say = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Put the release of data set `name` into `folder`, ready to be read; run it again to go on.

    An archive that already lies in `folder` is checked and unpacked instead of fetched; what is
    unpacked already is left alone. `say` hears a line a step, `progress(bytes, total or None)` the
    bytes of the file that is coming.

    Returns {"dataset", "folder", "files": [{"name", "bytes", "checksum", "state"}], "options",
    "next"}. A state is "fetched", "found" (it lay there and its checksum is right) or "already
    there" (unpacked before this call; nothing is compared again). `options` are those of the row;
    None if there is nothing to fetch. `next` is a sentence.

    Errors: UsageError for an unknown name, for a wrong checksum, and for what must be done by hand,
    with how; ConnectionError and OSError as `download` and `unpack` raise them.
    """
    release = choose(RELEASES, name, "dataset to get")
    folder = Path(folder)
    done: dict[str, Any] = {"dataset": name, "folder": str(folder), "files": [], "options": None}
    if release.nothing:
        return {**done, "next": f"{release.nothing}: nothing to fetch"}
    if not release.files:
        raise UsageError(f"{name} must be fetched by hand from {release.page}: {release.by_hand}")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"get {name}: {str(folder)!r} is a file, it must be a folder")
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder):
        rows = [_one(file, folder, release, say, progress) for file in release.files]
    missing = [file.name for file, row in zip(release.files, rows, strict=True) if row is None]
    if missing:
        put = f"Put {', '.join(missing)} into {folder} as it is, then run anystep data get {name}"
        by_hand = f"{release.by_hand}. Page: {release.page}"
        raise UsageError(f"{name}: {by_hand}. {put} {folder}: it is checked and unpacked")
    after = f"train with --data.options.root {folder}, or look with anystep data check {name}"
    options = {"root": str(folder)}
    return {**done, "files": rows, "options": options, "next": f"{after} {folder}"}
