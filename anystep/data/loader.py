"""Batches, time first, in an order that depends on the seed and the epoch and on nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from anystep._errors import UsageError
from anystep._files import content_hash
from anystep.data.sets import Blocks, MapStyle

Frames = Tensor | NDArray  # of one sample, (T, P, H, W)
_RAISED = f"{UsageError.__module__}.{UsageError.__qualname__}: "


def derive_seed(seed: int, *what: Any) -> int:
    """A 63-bit seed for one purpose: no two share a stream, and none needs its state saved."""
    return int(content_hash(seed, *what), 16) >> 1


def _is_static(frames: Frames) -> bool:
    """Whether all steps of a tensor or array `(T, ...)` are one and the same memory."""
    stride = frames.stride(0) if isinstance(frames, Tensor) else frames.strides[0]
    return stride == 0 and len(frames) > 1


def _whole(label: int) -> int:
    if int(label) != label:
        raise UsageError(f"a label must be a whole number, got {label}")
    return int(label)


def _readable(frames: Frames) -> Frames:
    """A copy: torch has no arithmetic for numpy's uint16 and warns about read-only memory."""
    if isinstance(frames, Tensor):
        return frames
    return frames.astype(np.int32) if frames.dtype == np.uint16 else np.array(frames)


def time_first(items: Sequence[tuple[Frames, int]]) -> tuple[Tensor, Tensor]:
    """Collate items `((T, P, H, W), label)` into `x (T, N, P, H, W) float32` and `y (N,) int64`.

    An item may be static: one frame shown T times without a copy, which has a stride of 0 in time
    (`frame.expand(T, ...)` of torch, `np.broadcast_to` of numpy). If all items are static, so is
    `x`, and a network runs its first convolution once a batch.

    Errors: items of different shapes, or that are not four-dimensional; a label that is no whole
    number.
    """
    shapes = {tuple(frames.shape) for frames, _ in items}
    if len(shapes) != 1 or not all(len(shape) == 4 and shape[0] >= 1 for shape in shapes):
        wanted = "frames (T, P, H, W), all of one shape in a batch"
        raise UsageError(f"a sample must be {wanted}, got {sorted(shapes)}")
    labels = torch.tensor([_whole(label) for _, label in items], dtype=torch.int64)
    static = all(_is_static(frames) for frames, _ in items)
    frames = [torch.as_tensor(_readable(frames[:1] if static else frames)) for frames, _ in items]
    x = torch.stack(frames, dim=1).float()
    return x.expand(shapes.pop()[0], *x.shape[1:]) if static else x, labels


def to_device(x: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """`x (T, ...)` on `device`, as `dtype` if given; of a static `x` one step is moved, not T."""
    if not _is_static(x):
        return x.to(device, dtype)
    return x[:1].to(device, dtype).expand(x.shape)


def epoch_order(
    n: int,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    balance: ArrayLike | None = None,
    blocks: Blocks | None = None,
) -> list[list[int]]:
    """The global batches of one epoch: a permutation of n cut into full ones, the rest left out.

    `balance`, the label of each of the n, draws n with replacement instead, every class with the
    same probability.

    `blocks`, of the n, keeps together what lies together on disk: the blocks are permuted, cut into
    windows of `blocks.window` blocks, and the samples of a window are shuffled. So a batch is drawn
    from one window, or two where they meet.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    if balance is None:
        drawn = torch.randperm(n, generator=generator)
    else:
        labels = torch.as_tensor(np.asarray(balance))
        rarity = 1 / torch.bincount(labels)[labels].double()
        drawn = torch.multinomial(rarity, n, True, generator=generator)
    if blocks is not None:
        of = torch.as_tensor(np.unique(blocks.of, return_inverse=True)[1])
        turns = torch.randperm(int(of.max()) + 1, generator=generator)
        windows = turns[of[drawn]] // blocks.window
        drawn = drawn[torch.argsort(windows, stable=True)]  # what was drawn is in random order
    order = drawn.tolist()
    return [order[i : i + batch_size] for i in range(0, n - batch_size + 1, batch_size)]


def in_order(n: int, *, batch_size: int, lengths: ArrayLike | None = None) -> list[list[int]]:
    """The batches of an evaluation: all of n once, in order, the last batch as short as it comes.

    With the `lengths (n,)` of the recordings, every batch has recordings of one length, short ones
    first.
    """
    lengths = np.zeros(n) if lengths is None else lengths
    groups = [np.flatnonzero(np.equal(lengths, length)) for length in np.unique(lengths)]
    return [
        group[i : i + batch_size].tolist()
        for group in groups
        for i in range(0, len(group), batch_size)
    ]


def _is_finite(frames: Frames) -> bool:
    """Whether no value is NaN or infinite. Whole numbers cannot be: they cost nothing."""
    if isinstance(frames, Tensor):
        return not frames.is_floating_point() or bool(frames.isfinite().all())
    return frames.dtype.kind != "f" or bool(np.isfinite(frames).all())


class _Finite(Dataset[Any]):
    """The items of a data set. A sample that is not finite is refused: one NaN in a batch is one in
    every running statistic, while the loss of a spiking network may stay finite.
    """

    def __init__(self, dataset: MapStyle) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        frames, label = self.dataset[index]
        if not _is_finite(frames[:1] if _is_static(frames) else frames):
            ids = getattr(self.dataset, "ids", None)
            name = f"{index}" if ids is None else f"{index} ({ids[index]})"
            raise UsageError(f"sample {name} has a value that is no finite number (NaN or inf)")
        return frames, label


def load_batches(
    dataset: MapStyle, batches: Sequence[list[int]], *, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """The given batches of indices, each as `(x (T, N, P, H, W), y (N,))`.

    Errors: those of `time_first`; a sample with a NaN or an infinity, by its index and name.
    """
    # seeds the worker processes, and draws nothing from the global generator
    chance = torch.Generator().manual_seed(torch.initial_seed())
    loader = DataLoader(
        _Finite(dataset),
        batch_sampler=batches,
        collate_fn=time_first,
        num_workers=workers,
        generator=chance,
    )
    try:
        yield from loader
    except UsageError as error:  # of a worker: its whole traceback, with what was said last
        raise UsageError(str(error).splitlines()[-1].removeprefix(_RAISED)) from error
