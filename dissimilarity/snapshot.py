"""The activations of one model on the probe set, kept for comparison with others, in memory or on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dissimilarity.chunks import Slice, activations
from dissimilarity.journal import replacing
from dissimilarity.pairs import Cross, Pair, Side

Acts = Mapping[str, Tensor]

IN_MEMORY = 2**28
"""Bytes of activations of one model that are kept in memory; more go to a file that is mapped back."""


@dataclass(frozen=True)
class Snapshot:
    """Activations of each chunk with its jackknife group, and the side that was accumulated from them."""

    chunks: list[tuple[Acts, int]]
    side: Side

    @property
    def sites(self) -> list[str]:
        """The sites, in depth order."""
        return list(self.chunks[0][0]) if self.chunks else []

    def nbytes(self) -> int:
        """Size of the activations."""
        return sum(tensor.nbytes for acts, _ in self.chunks for tensor in acts.values())


def take(model: nn.Module, inputs: Tensor, sites: Sequence[str], slices: Sequence[Slice], side: Side) -> Snapshot:
    """Runs a model on this process's chunks of the probe set and accumulates its (empty) side."""
    return accumulate(list(activations(model, inputs, sites, slices)), side)


def accumulate(chunks: list[tuple[Acts, int]], side: Side) -> Snapshot:
    """The snapshot of activations that were captured before."""
    for acts, group in chunks:
        side.add(acts, group)
    return Snapshot(chunks, side.close())


def cross(x: Snapshot, y: Snapshot, pairs: Sequence[Pair], groups: int, with_null: bool) -> tuple[Cross, Cross | None]:
    """The sums over pairs of sites of two snapshots, and those of their null if wanted."""
    together = Cross(pairs, groups, x.side.sync)
    null = Cross(pairs, sync=x.side.sync) if with_null else None
    for (acts_x, group), (acts_y, _) in zip(x.chunks, y.chunks, strict=True):
        chunk_x, chunk_y = x.side.chunk(acts_x, group), y.side.chunk(acts_y, group)
        together.add(chunk_x, chunk_y)
        if null is not None:
            null.add(chunk_x, chunk_y.deranged())
    return together.close(), null.close() if null is not None else None


def save(snapshot: Snapshot, path: Path) -> None:
    """Writes the activations to a safetensors file, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{number:06d}:{group}:{site}": tensor.contiguous()
        for number, (acts, group) in enumerate(snapshot.chunks)
        for site, tensor in acts.items()
    }
    with replacing(path) as part:
        save_file(tensors, part)


def load(paths: Sequence[Path], device: torch.device, groups: set[int]) -> list[tuple[Acts, int]]:
    """The chunks of some groups from the files that one or more processes saved, mapped rather than read.

    Args:
        paths: files of ``save``, in the order of the processes.
        device: where the activations go.
        groups: jackknife groups to keep.
    """
    chunks = []
    for path in paths:
        by_number: dict[tuple[int, int], dict[str, Tensor]] = {}
        for key, tensor in load_file(path, device=str(device)).items():
            number, group, site = key.split(":", 2)
            by_number.setdefault((int(number), int(group)), {})[site] = tensor
        chunks += [(acts, group) for (_, group), acts in sorted(by_number.items(), key=lambda item: item[0])]
    return [(acts, group) for acts, group in chunks if group in groups]
