"""How a probe set is cut: jackknife groups of whole sequences, and forward passes of a few groups at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from dissimilarity.capture.hooks import capture
from dissimilarity.probe.alignment import Reading

Slice = tuple[int, int, int]
Inputs = Tensor | Reading
"""What a model is given: (sequences, ...), or a text in tokens of its own with the units by which it is compared."""

TOKENS_AT_ONCE = 4096


def plan(sequences: int, groups: int, at_most: int) -> list[Slice]:
    """Cuts sequences into groups of nearly equal size, and large groups into chunks.

    Each chunk has at least two sequences, for the null shifts them against each other; fewer groups are made where
    there are not sequences enough.

    Args:
        sequences: how many there are, at least 2.
        groups: groups wanted.
        at_most: most sequences in a chunk where the group allows it.

    Returns:
        (start, stop, group) of each chunk, in order.
    """
    if sequences < 2:
        raise ValueError(f"expected at least 2 sequences to compare models on, found {sequences}; pass more")
    if groups < 1:
        raise ValueError(f"expected at least 1 jackknife group, found {groups}; 16 is usual")
    slices = []
    groups = min(groups, sequences // 2)
    for group in range(groups):
        start, stop = sequences * group // groups, sequences * (group + 1) // groups
        chunks = max(1, min((stop - start) // 2, -(-(stop - start) // max(at_most, 2))))
        for chunk in range(chunks):
            first = start + (stop - start) * chunk // chunks
            slices.append((first, start + (stop - start) * (chunk + 1) // chunks, group))
    return slices


def extent(inputs: Inputs) -> tuple[int, int]:
    """How many sequences a probe set has, and of how many tokens each; 1 where it does not hold tokens."""
    if isinstance(inputs, Reading):
        return len(inputs), inputs.length
    return len(inputs), inputs[0].numel() if len(inputs) and not inputs.is_floating_point() else 1


def at_once(length: int) -> int:
    """Sequences of so many tokens that are read or run together."""
    return max(1, TOKENS_AT_ONCE // max(1, length))


def activations(
    model: nn.Module,
    inputs: Inputs,
    sites: Sequence[str],
    slices: Sequence[Slice],
    read: Callable[[str, Tensor, slice], Tensor] = lambda site, activation, of: activation,
    apart: bool = False,
) -> Iterator[tuple[dict[str, Tensor], range]]:
    """Activations of the chunks, several to one forward pass.

    Args:
        model: called as ``model(inputs)``.
        inputs: (sequences, ...), tokens or whatever the model takes; or a reading, whose units are then the positions.
        sites: names of sites.
        slices: consecutive chunks from ``plan``.
        read: what to keep of the activations (sequences, ...) of a site, of the sequences that are said.
        apart: whether groups come one at a time even where they have equally many sequences.

    Yields:
        site -> what was kept, (sequences, ..., d), and the groups that these sequences make up, in equal parts.
    """
    given = inputs if isinstance(inputs, Tensor) else inputs.tokens
    device = next((tensor.device for tensor in model.parameters()), given.device)
    for batch in batches(slices, at_once(extent(inputs)[1])):
        first, last = batch[0][0], batch[-1][1]
        of = slice(first, last)
        with capture(model, sites) as acts:
            if isinstance(inputs, Reading):
                inputs.run(model, of, device)
            else:
                model(inputs[of].to(device))
        if isinstance(inputs, Reading):
            acts = {site: inputs.units(acts[site], of) for site in sites}
        yield from runs(acts, batch, sites, read, apart)


def runs(
    acts: Mapping[str, Tensor],
    batch: Sequence[Slice],
    sites: Sequence[str],
    read: Callable[[str, Tensor, slice], Tensor],
    apart: bool,
) -> Iterator[tuple[dict[str, Tensor], range]]:
    """The chunks of a batch, from its activations; the arguments and what comes are those of ``activations``."""
    first = batch[0][0]
    for start, stop, groups in equal_runs(batch, apart):
        here, of = slice(start - first, stop - first), slice(start, stop)
        yield {site: read(site, acts[site][here], of) for site in sites}, groups


def equal_runs(batch: Sequence[Slice], apart: bool) -> list[tuple[int, int, range]]:
    """Consecutive groups of equal size put together: one product for all is faster than one for each."""
    runs: list[tuple[int, int, range]] = []
    for start, stop, group in batch:
        begin, end, groups = runs[-1] if runs else (0, 0, range(0))
        if not apart and group == groups.stop and (stop - start) * len(groups) == end - begin > 0:
            runs[-1] = (begin, stop, range(groups.start, group + 1))
        else:
            runs.append((start, stop, range(group, group + 1)))
    return runs


def batches(slices: Sequence[Slice], at_most: int) -> Iterator[list[Slice]]:
    """Runs of consecutive chunks of at most so many sequences, or of one chunk."""
    batch: list[Slice] = []
    for piece in slices:
        if batch and piece[1] - batch[0][0] > at_most:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def own_slices(slices: Sequence[Slice], rank: int, world: int) -> list[Slice]:
    """The chunks of one process out of several: consecutive whole groups."""
    groups = 1 + max(group for _, _, group in slices)
    return [piece for piece in slices if piece[2] * world // groups == rank]


def kept_slices(slices: Sequence[Slice], kept: Int[Tensor, " kept"]) -> list[Slice]:
    """The chunks by the places of their sequences among those that are kept: each sequence stays in its group."""
    stops = torch.searchsorted(kept, torch.tensor([stop for _, stop, _ in slices])).tolist()
    starts, groups = [0, *stops[:-1]], [group for _, _, group in slices]
    return [piece for piece in zip(starts, stops, groups, strict=True) if piece[0] < piece[1]]


def as_inputs(probe: Tensor | Sequence[Tensor] | torch.utils.data.DataLoader) -> Tensor:
    """One tensor of inputs from a tensor, or from batches whose first element (or ``input_ids``) holds the inputs."""
    if isinstance(probe, Tensor):
        return probe
    parts = []
    for batch in probe:
        if isinstance(batch, dict):
            batch = batch["input_ids"]
        parts.append(batch[0] if isinstance(batch, (list, tuple)) else batch)
    return torch.cat(parts)
