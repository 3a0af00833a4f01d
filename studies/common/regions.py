"""Blocks of layers that represent alike, found in the heat map of a model with itself."""

from collections.abc import Sequence

import numpy as np

REGIONS = ("first", "middle", "last")


def contiguous_blocks(similarity: np.ndarray, count: int) -> list[range]:
    """Cuts layers into so many runs, each as alike inside as can be.

    The cut is the exact minimum, by dynamic programming, of the scatter about the runs' means in the space of which the
    similarities are the inner products: kernel change-point detection (Harchaoui & Cappe 2007; Arlot et al. 2019).

    Args:
        similarity: symmetric (layers, layers), such as CKA of all layers of one model; finite.
        count: runs wanted, at most as many as there are layers.

    Returns:
        the layers of each run, in order. Of equal cuts that with the shorter first runs.

    Raises:
        ValueError: more runs than layers, or values that are missing.
    """
    layers = len(similarity)
    if not 1 <= count <= layers:
        raise ValueError(f"expected 1 to {layers} blocks of {layers} layers, found {count}")
    if not np.isfinite(similarity).all():
        raise ValueError("expected a similarity of every two layers, found that some are missing")
    scatter = _scatter(similarity)
    best = np.full((count + 1, layers + 1), np.inf)
    cut = np.zeros((count + 1, layers + 1), int)
    best[0, 0] = 0
    for block in range(1, count + 1):
        for stop in range(block, layers + 1):
            of = [best[block - 1, start] + scatter[start, stop] for start in range(block - 1, stop)]
            cut[block, stop] = block - 1 + int(np.argmin(np.round(of, 12)))
            best[block, stop] = of[cut[block, stop] - block + 1]
    ends = [layers]
    for block in range(count, 0, -1):
        ends.append(int(cut[block, ends[-1]]))
    return [range(start, stop) for start, stop in zip(ends[:0:-1], ends[-2::-1], strict=True)]


def explained(similarity: np.ndarray, blocks: Sequence[range]) -> float:
    """The share of the scatter of all layers that a cut takes away: 0 = none, 1 = all layers of a run are the same."""
    scatter = _scatter(similarity)
    whole = scatter[0, len(similarity)]
    inside = sum(scatter[block.start, block.stop] for block in blocks)
    return float(1 - inside / whole) if whole > 0 else 1.0


def regions(similarity: np.ndarray) -> dict[str, range]:
    """First, middle and last block of a model; of two layers no middle, of one layer the last alone.

    Args:
        similarity: of every two layers.
    """
    names = {1: REGIONS[2:], 2: REGIONS[::2]}.get(len(similarity), REGIONS)
    return dict(zip(names, contiguous_blocks(similarity, len(names)), strict=True))


def _scatter(similarity: np.ndarray) -> np.ndarray:
    """Of each run of layers [start, stop): sum of k(i, i) less the mean over the run of the sums of its rows."""
    layers = len(similarity)
    sums = np.zeros((layers + 1, layers + 1))
    sums[1:, 1:] = similarity.cumsum(0).cumsum(1)
    diagonal = np.concatenate([[0], np.diag(similarity).cumsum()])
    found = np.zeros((layers + 1, layers + 1))
    for start in range(layers):
        for stop in range(start + 1, layers + 1):
            inside = sums[stop, stop] - sums[start, stop] - sums[stop, start] + sums[start, start]
            found[start, stop] = diagonal[stop] - diagonal[start] - inside / (stop - start)
    return found
