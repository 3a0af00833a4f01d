"""The activations of one model on the probe set, kept for comparison with others, in memory or on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dissimilarity.comparison.plan import Layout
from dissimilarity.moments.agreement import together
from dissimilarity.moments.cross import Cross, Pair
from dissimilarity.moments.side import Side
from dissimilarity.probe.batches import Inputs, Slice, activations
from dissimilarity.tables.seal import read_tensors, write_tensors

Acts = Mapping[str, Tensor]

IN_MEMORY = 2**28
"""Bytes of activations of one model that are kept in memory; more go to a file that is mapped back."""


@dataclass(frozen=True)
class Snapshot:
    """Activations of each chunk with its jackknife groups, and the side that was accumulated from them."""

    chunks: list[tuple[Acts, range]]
    side: Side

    @property
    def sites(self) -> list[str]:
        """The sites of representations, in depth order."""
        return [site for site in self.chunks[0][0] if site not in self.side.only_sampled] if self.chunks else []

    def nbytes(self) -> int:
        """Size of the activations."""
        return sum(tensor.nbytes for acts, _ in self.chunks for tensor in acts.values())


def take(
    model: nn.Module,
    inputs: Inputs,
    sites: Sequence[str],
    layout: Layout,
    slices: Sequence[Slice] | None = None,
    sync: bool = False,
) -> Snapshot:
    """Runs a model on the probe set, or on this process's chunks of it, and accumulates its side."""
    captured, reader = layout.captured(sites), layout.reader(sites)
    with together(sync):
        chunks = activations(model, inputs, captured, slices or layout.slices, reader, layout.apart)
        acts: list[tuple[Acts, range]] = list(chunks)
    return accumulate(acts, layout.side(sites, sync))


def accumulate(chunks: list[tuple[Acts, range]], side: Side) -> Snapshot:
    """The snapshot of activations that were captured before."""
    if side.sync:
        side.settle(chunks[0][0])
    with together(side.sync):
        for acts, groups in chunks:
            side.add(acts, groups)
    with together(side.sync):
        return Snapshot(chunks, side.close())


def cross(x: Snapshot, y: Snapshot, pairs: Sequence[Pair], layout: Layout) -> tuple[Cross, Cross]:
    """The sums over pairs of sites of two snapshots, and those of their null."""
    paired = layout.cross(pairs, x.side.sync)
    null = layout.cross(pairs, x.side.sync, errors=False)
    with together(x.side.sync):
        for (acts_x, of), (acts_y, _) in zip(x.chunks, y.chunks, strict=True):
            chunk_x, chunk_y = x.side.chunk(acts_x, of), y.side.chunk(acts_y, of)
            paired.add(chunk_x, chunk_y)
            null.add(chunk_x.deranged(), chunk_y)
    return paired.close(), null.close()


def save(snapshot: Snapshot, path: Path) -> None:
    """Writes the activations to a safetensors file, in one step."""
    save_chunks(snapshot.chunks, path)


def save_chunks(chunks: Sequence[tuple[Acts, range]], path: Path) -> None:
    """Writes some chunks of activations to a safetensors file, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{groups.start:06d}:{len(groups)}:{number}:{site}": tensor.contiguous()
        for number, (acts, groups) in enumerate(chunks)
        for site, tensor in acts.items()
    }
    write_tensors(tensors, path)


def load(paths: Sequence[Path], device: torch.device, wanted: set[int]) -> list[tuple[Acts, range]]:
    """The chunks of some groups from the files that one or more processes saved, mapped rather than read.

    Args:
        paths: files of ``save``.
        device: where the activations go.
        wanted: jackknife groups to keep, which are consecutive.
    """
    found: dict[tuple[int, int, int], dict[str, Tensor]] = {}
    for path in paths:
        for key, tensor in read_tensors(path, str(device)).items():
            start, count, number, site = key.split(":", 3)
            found.setdefault((int(start), int(number), int(count)), {})[site] = tensor
    chunks = []
    for (start, _, count), acts in sorted(found.items(), key=lambda item: item[0]):
        kept = [group for group in range(start, start + count) if group in wanted]
        if kept:
            parts = slice(kept[0] - start, kept[-1] - start + 1)
            cut = {site: tensor.unflatten(0, (count, -1))[parts].flatten(0, 1) for site, tensor in acts.items()}
            chunks.append((cut, range(kept[0], kept[-1] + 1)))
    return chunks
