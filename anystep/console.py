"""What a person sees while a network trains, on stderr: a bar, and one greppable line an epoch."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column, Table

from anystep._command import say
from anystep._extras import need

SECONDS_BETWEEN_LINES = 5.0
NARROW = 72  # columns of a terminal that has no room for a bar
VALIDATED = {"val_loss": ".4f", "val_acc": ".2f", "val_acc_first": ".2f"}  # and how exactly


def epoch_line(row: dict[str, Any], *, epochs: int | None = None) -> str:
    """One epoch on one line, in the words of the log: `train epoch 3/8 train_loss 0.1234 ...`."""
    parts = " ".join(f"{name} {value:.4f}" for name, value in row["parts"].items())
    words = [
        f"{row['phase']} epoch {row['epoch']}{f'/{epochs}' if epochs else ''}",
        f"train_loss {row['train_loss']:.4f} ({parts}) train_acc {row['train_acc']:.2f}",
        *(f"{name} {row[name]:{form}}" for name, form in VALIDATED.items() if name in row),
        f"lr {row['lr']:.3g}",
        f"samples/s {row['samples_per_s']:.0f} mem {row['mem_mib']:.0f}MiB",
    ]
    return " ".join(words)


def show_epoch(state: Any, row: dict[str, Any]) -> None:
    """For `fit(on_epoch=...)`: says each epoch."""
    say(epoch_line(row))


class EpochLines:
    """Prints each epoch behind the name of its run, and writes it for TensorBoard, if a folder for
    that is given.
    """

    def __init__(self, *, run: str, epochs: int, tensorboard: Path | None, resumed_at: int) -> None:
        self.run, self.epochs = run, epochs
        self.written = resumed_at
        self.writer: Any = None
        if tensorboard is not None:
            purpose = "writing TensorBoard events"
            need("tensorboard", extra="train", purpose=purpose)
            module = need("torch.utils.tensorboard", extra="train", purpose=purpose)
            # A resumed run drops the events of the epochs that it will write again
            self.writer = module.SummaryWriter(str(tensorboard), purge_step=resumed_at)

    def show(self, row: dict[str, Any]) -> None:
        """One epoch, a row of the log."""
        say(f"{self.run}: {epoch_line(row, epochs=self.epochs)}")
        if self.writer is not None:
            scalars = {key: value for key, value in row.items() if isinstance(value, float)}
            scalars |= {f"parts/{name}": value for name, value in row["parts"].items()}
            for key, value in scalars.items():
                self.writer.add_scalar(f"{row['phase']}/{key}", value, self.written)
            self.writer.flush()
        self.written += 1

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def _count() -> MofNCompleteColumn:
    return MofNCompleteColumn(table_column=Column(no_wrap=True))


def _progress(*columns: ProgressColumn) -> Progress:
    """A bar that is drawn on a terminal only, and vanishes at its end."""
    console = Console(stderr=True)
    narrow = console.width < NARROW
    fold = Column(no_wrap=not narrow, overflow="fold")
    about = TextColumn("{task.description}", markup=False, table_column=fold)
    every = (about, *columns) if narrow else (about, BarColumn(), *columns, TimeRemainingColumn())
    return Progress(*every, console=console, transient=True, disable=not sys.stderr.isatty())


class ProgressBar:
    """A Fabric callback: a bar of one epoch's updates where stderr is a terminal, else nothing."""

    def __init__(self, run: str) -> None:
        self.run = run

    def on_epoch_start(self, *, title: str, updates: int) -> None:
        self._bar = _progress(_count())
        self._bar.start()
        self._bar.add_task(f"{self.run}: {title}", total=updates)

    def on_update_end(self) -> None:
        self._bar.advance(self._bar.task_ids[0])

    def on_epoch_end(self) -> None:
        self._bar.stop()


@contextmanager
def progress_bar(title: str, *, unit: str = "") -> Iterator[Callable[[int, int | None], None]]:
    """A bar for `progress(done, total)` on a terminal; elsewhere a line every few seconds."""
    downloads = (DownloadColumn(), TransferSpeedColumn())
    columns = downloads if unit == "bytes" else (_count(),)
    said = time.monotonic()
    with _progress(*columns) as bar:
        task = bar.add_task(title, total=None)

        def progress(done: int, total: int | None) -> None:
            nonlocal said
            bar.update(task, completed=done, total=total)
            if bar.disable and time.monotonic() - said >= SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                say(f"{title}: {done} of {'?' if total is None else total}{unit and ' '}{unit}")

        yield progress


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, narrow: bool = True) -> Table:
    """Numbers stand right and are never folded; text is, and if `narrow` the heads of numbers."""
    table = Table()
    for index, (name, *cells) in enumerate(zip(header, *rows, strict=True)):
        numbers = index > 0 and all(
            not cell or cell[0].isdigit() or cell[0] in "-–." for cell in cells
        )
        width = max(map(len, [*cells, *name.split()]), default=0) if numbers and narrow else None
        side: Literal["left", "right"] = "right" if numbers else "left"
        table.add_column(name, justify=side, width=width, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _list(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A line a cell, behind its column's name."""
    table = Table(Column(overflow="fold"), Column(overflow="fold"), show_header=False)
    for row in rows:
        for name, cell in zip(header, row, strict=True):
            table.add_row(name, cell)
        table.add_section()
    return table


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stderr. Where it is too wide it is folded, or rows and columns are exchanged."""
    seen, drawn = sys.stderr.isatty(), io.StringIO()
    # A folder may be called [/b]
    console = Console(file=drawn, force_terminal=seen or None, markup=False, emoji=False)
    if not seen:
        console.width = 160  # a log file has no width
    endless = console.options.update(width=10_000)
    whole, folded = _table(header, rows, narrow=False), _table(header, rows)
    head, *below = zip(header, *rows, strict=True)
    turned = _table(head, below)
    needed = {
        whole: Measurement.get(console, endless, whole).maximum,
        folded: Measurement.get(console, endless, folded).minimum,
        turned: Measurement.get(console, endless, turned).minimum,
    }
    fitting = [table for table, width in needed.items() if width <= console.width]
    table = fitting[0] if fitting else _list(header, rows)
    table.title, table.title_justify = title, "left"
    console.print(table)
    say(drawn.getvalue().rstrip("\n"))
