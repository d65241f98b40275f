"""Batches, time first, in an order that depends on the seed and the epoch and on nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from anystep._errors import UsageError
from anystep._files import content_hash
from anystep.data.images.shards import Blocks


def derive_seed(seed: int, *what: Any) -> int:
    """A 63-bit seed for one purpose, so that no two purposes share a stream and none needs its
    state saved.

    >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 1) != derive_seed(0, "order", 2)
    True
    """
    return int(content_hash(seed, *what), 16) >> 1


def time_first(items: Sequence[tuple[Any, int]]) -> tuple[Tensor, ...]:
    """Collate items `((T, P, H, W), label)` into `x (T, N, P, H, W) float32` and `y (N,) int64`.

    Where items differ in T, shorter ones get frames of zeros at their end and a third tensor comes
    along, `mask (T, N) bool`: True where a frame is real. What a network says of the real frames is
    what it says of the recording alone, since no module looks ahead in time. Their order stays as
    it is.

    If every item is static, one frame shown T times without a copy (`frame.expand(T, ...)` of
    torch, `np.broadcast_to` of
    numpy: a stride of 0 in time), so is `x`: a network then runs its first convolution once a
    batch.

    Errors: items of different shapes, or that are not four-dimensional; a label that is no whole
    number.
    """
    shapes = {tuple(frames.shape) for frames, _ in items}
    if len({shape[1:] for shape in shapes}) != 1 or not all(
        len(shape) == 4 and shape[0] >= 1 for shape in shapes
    ):
        wanted = "frames (T, P, H, W), all alike in a batch but for T"
        raise UsageError(f"a sample must be {wanted}, got {sorted(shapes)}")
    labels = torch.tensor([_whole(label) for _, label in items], dtype=torch.int64)
    if len(shapes) > 1:
        x, mask = _padded([frames for frames, _ in items])
        return x, labels, mask
    static = all(_is_static(frames) for frames, _ in items)
    frames = [torch.as_tensor(_readable(frames[:1] if static else frames)) for frames, _ in items]
    x = torch.stack(frames, dim=1).float()
    return x.expand(shapes.pop()[0], *x.shape[1:]) if static else x, labels


def _padded(recordings: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Frames of different length as one batch, zeros at the end of the shorter ones, and which
    frames are real.
    """
    lengths = torch.tensor([len(frames) for frames in recordings])
    x = torch.zeros(int(lengths.max()), len(recordings), *recordings[0].shape[1:])
    for n, frames in enumerate(recordings):
        x[: len(frames), n] = torch.as_tensor(_readable(frames))
    return x, torch.arange(len(x))[:, None] < lengths


def unpack(batch: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
    """`(x, y, mask)` of a batch of `load_batches`; the mask of recordings of one length is None."""
    x, labels, *masks = batch
    return x, labels, masks[0] if masks else None


def to_device(x: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """`x (T, ...)` on `device`, as `dtype` if given; what is static stays so, and one step of it is
    moved, not T copies.
    """
    if not _is_static(x):
        return x.to(device, dtype)
    return x[:1].to(device, dtype).expand(x.shape)


def _is_static(frames: Any) -> bool:
    """Whether all steps of a tensor or array `(T, ...)` are one and the same memory."""
    time = (
        frames.stride(0)
        if isinstance(frames, Tensor)
        else frames.strides[0]
        if isinstance(frames, np.ndarray)
        else None
    )
    return time == 0 and frames.shape[0] > 1


def _whole(label: Any) -> int:
    if int(label) != label:
        raise UsageError(f"a label must be a whole number, got {label}")
    return int(label)


def _readable(frames: Any) -> Any:
    """torch has no arithmetic for numpy's uint16 and warns about read-only memory; a copy of one
    sample is cheap.
    """
    if isinstance(frames, np.ndarray):
        return frames.astype(np.int32) if frames.dtype == np.uint16 else np.array(frames)
    return frames


def epoch_order(
    n: int,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    balance: Sequence[int] | None = None,
    blocks: Blocks | None = None,
) -> list[list[int]]:
    """The global batches of one epoch: a permutation of n cut into full batches (the rest sits this
    epoch out).

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
        drawn = torch.multinomial(
            1 / torch.bincount(labels)[labels].double(), n, True, generator=generator
        )
    if blocks is not None:
        of = torch.as_tensor(np.unique(blocks.of, return_inverse=True)[1])
        turns = torch.randperm(int(of.max()) + 1, generator=generator)
        drawn = drawn[
            torch.argsort(turns[of[drawn]] // blocks.window, stable=True)
        ]  # what was drawn is in random order
    order = drawn.tolist()
    return [order[i : i + batch_size] for i in range(0, n - batch_size + 1, batch_size)]


def load_batches(dataset: Any, batches: Sequence[list[int]], *, workers: int = 0) -> DataLoader:
    """A loader of the given index batches, `(x (T, N, P, H, W), y (N,))` each, with a mask where
    lengths differ (`unpack`). Draws nothing from the global generators.
    """
    chance = torch.Generator().manual_seed(torch.initial_seed())  # seeds the worker processes
    return DataLoader(
        dataset, batch_sampler=batches, collate_fn=time_first, num_workers=workers, generator=chance
    )


def in_order(n: int, *, batch_size: int) -> list[list[int]]:
    """All of n in order, the last batch as short as it comes: for evaluation."""
    return [list(range(i, min(i + batch_size, n))) for i in range(0, n, batch_size)]
