"""Blocks of similar layers, found in the heat map of a model with itself."""

from collections.abc import Sequence

import numpy as np

REGIONS = ("first", "middle", "last")


def contiguous_blocks(similarity: np.ndarray, count: int) -> list[range]:
    """Cut layers into `count` contiguous blocks, each as homogeneous as possible.

    Dynamic programming finds the exact minimum of the scatter about the block means, in the space whose inner products
    are the similarities: kernel change-point detection (Harchaoui & Cappe 2007; Arlot et al. 2019).

    Args:
        similarity: symmetric and finite (layers, layers), such as CKA of every two layers of a model.
        count: number of blocks, at most the number of layers.

    Returns:
        The layers of each block, in order. Among equally good cuts, the one with the shortest first blocks.

    Raises:
        ValueError: More blocks than layers, or a similarity that is not finite.

    Examples:
        >>> contiguous_blocks(np.array([[1, 0.9, 0.1], [0.9, 1, 0.1], [0.1, 0.1, 1]]), 2)
        [range(0, 2), range(2, 3)]
    """
    layers = len(similarity)
    if not 1 <= count <= layers:
        raise ValueError(f"expected 1 to {layers} blocks of {layers} layers, found {count}")
    if not np.isfinite(similarity).all():
        raise ValueError("expected a similarity for every two layers, found missing values")
    scatter = _scatter(similarity)
    best = np.full((count + 1, layers + 1), np.inf)
    cut = np.zeros((count + 1, layers + 1), int)
    best[0, 0] = 0
    for block in range(1, count + 1):
        for stop in range(block, layers + 1):
            costs = [best[block - 1, start] + scatter[start, stop] for start in range(block - 1, stop)]
            cut[block, stop] = block - 1 + int(np.argmin(np.round(costs, 12)))
            best[block, stop] = costs[cut[block, stop] - block + 1]
    ends = [layers]
    for block in range(count, 0, -1):
        ends.append(int(cut[block, ends[-1]]))
    return [range(start, stop) for start, stop in zip(ends[:0:-1], ends[-2::-1], strict=True)]


def explained(similarity: np.ndarray, blocks: Sequence[range]) -> float:
    """Return the share of the layers' scatter that a cut explains: 0 = none, 1 = each block is homogeneous.

    Examples:
        >>> explained(np.eye(2), [range(0, 1), range(1, 2)])
        1.0
    """
    scatter = _scatter(similarity)
    total = scatter[0, len(similarity)]
    within = sum(scatter[block.start, block.stop] for block in blocks)
    return float(1 - within / total) if total > 0 else 1.0


def walk_shares(layers: int, blocks: int = len(REGIONS), walks: int = 999) -> np.ndarray:
    """Return the share of the scatter that the best cut explains in random walks, which have no blocks.

    Each layer of a walk adds something independent of an exponentially distributed size. Two layers are then as similar
    as the shares of the earlier in the later, which is their CKA for Gaussian steps.

    Args:
        layers: number of layers.
        blocks: number of blocks, at most the number of layers.
        walks: number of walks.

    Examples:
        >>> bool(np.median(walk_shares(8)) > 0.6)
        True
    """
    lengths = np.cumsum(np.random.default_rng(0).exponential(size=(walks, layers)), 1)
    shares = []
    for walk in lengths:
        similarity = np.minimum.outer(walk, walk) / np.maximum.outer(walk, walk)
        shares.append(explained(similarity, contiguous_blocks(similarity, min(blocks, layers))))
    return np.array(shares)


def regions(similarity: np.ndarray) -> dict[str, range]:
    """Return the first, middle and last block of a model; no middle for two layers, the last alone for one.

    Examples:
        >>> regions(np.eye(2))
        {'first': range(0, 1), 'last': range(1, 2)}
    """
    names = {1: REGIONS[2:], 2: REGIONS[::2]}.get(len(similarity), REGIONS)
    return dict(zip(names, contiguous_blocks(similarity, len(names)), strict=True))


def _scatter(similarity: np.ndarray) -> np.ndarray:
    """Return the scatter of every block [start, stop): the sum of k(i, i) minus the sum of all k(i, j) / its length."""
    layers = len(similarity)
    sums = np.zeros((layers + 1, layers + 1))
    sums[1:, 1:] = similarity.cumsum(0).cumsum(1)
    diagonal = np.concatenate([[0], np.diag(similarity).cumsum()])
    scatter = np.zeros((layers + 1, layers + 1))
    for start in range(layers):
        for stop in range(start + 1, layers + 1):
            inside = sums[stop, stop] - sums[start, stop] - sums[stop, start] + sums[start, start]
            scatter[start, stop] = diagonal[stop] - diagonal[start] - inside / (stop - start)
    return scatter
