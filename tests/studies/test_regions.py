"""Blocks of layers: planted ones are found, and the cut is the best of all."""

from itertools import combinations

import numpy as np
import pytest

from studies.common.regions import contiguous_blocks, explained, regions, walk_shares


def planted(cuts: list[int], layers: int = 12, noise: float = 0.05, seed: int = 0) -> np.ndarray:
    block = np.searchsorted(cuts, np.arange(layers), side="right")
    similarity = np.where(block[:, None] == block[None], 0.9, 0.2)
    similarity = similarity + np.random.default_rng(seed).normal(0, noise, similarity.shape)
    similarity = (similarity + similarity.T) / 2
    np.fill_diagonal(similarity, 1)
    return similarity


@pytest.mark.parametrize("cuts", [[3, 9], [1, 2], [4, 11], [2, 10]])
def test_planted_blocks_are_found(cuts: list[int]) -> None:
    similarity = planted(cuts)
    blocks = contiguous_blocks(similarity, 3)
    assert blocks == [range(0, cuts[0]), range(cuts[0], cuts[1]), range(cuts[1], 12)]
    assert explained(similarity, blocks) > 0.7 > explained(
        similarity, [range(0, 4), range(4, 8), range(8, 12)]
    ) or cuts == [4, 8]
    assert regions(similarity) == dict(zip(("first", "middle", "last"), blocks, strict=True))


def test_the_cut_is_the_best_of_all() -> None:
    points = np.random.default_rng(0).normal(size=(7, 3))
    similarity = points @ points.T

    def scatter(layers: range) -> float:
        inside = points[layers.start : layers.stop]
        return float(((inside - inside.mean(0)) ** 2).sum())

    every = [(range(0, a), range(a, b), range(b, 7)) for a, b in combinations(range(1, 7), 2)]
    best = min(every, key=lambda blocks: sum(map(scatter, blocks)))
    assert tuple(contiguous_blocks(similarity, 3)) == best
    whole = scatter(range(0, 7))
    assert explained(similarity, best) == pytest.approx(1 - sum(map(scatter, best)) / whole)


def test_a_cut_explains_most_of_a_random_walk_which_has_no_blocks() -> None:
    shares = walk_shares(12)
    assert 0.6 < np.median(shares) < 0.7
    assert explained(planted([3, 9]), contiguous_blocks(planted([3, 9]), 3)) > np.percentile(shares, 95)
    assert walk_shares(3, walks=9) == pytest.approx(1) and walk_shares(1, walks=9) == pytest.approx(1)


def test_few_layers_have_fewer_regions() -> None:
    assert regions(np.eye(2)) == {"first": range(0, 1), "last": range(1, 2)}
    assert regions(np.eye(1)) == {"last": range(0, 1)}
    assert explained(np.ones((4, 4)), contiguous_blocks(np.ones((4, 4)), 2)) == 1


def test_a_similarity_without_blocks() -> None:
    with pytest.raises(ValueError, match="expected 1 to 2 blocks of 2 layers, found 3"):
        contiguous_blocks(np.eye(2), 3)
    with pytest.raises(ValueError, match="found missing values"):
        contiguous_blocks(np.full((3, 3), np.nan), 2)
