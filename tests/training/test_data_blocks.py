"""The order of training batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.blocks import blocks_of_step, count_blocks, permute, rank_rows

GOLDEN = [2760, 24045, 16685, 27391, 38465, 42799, 10265, 15763]


@given(size=st.integers(1, 5000), seed=st.integers(-5, 2**70), epoch=st.integers(0, 10**6))
def test_each_epoch_is_a_permutation(size, seed, epoch):
    index = np.arange(size)
    assert sorted(permute(index, size, seed, np.full(size, epoch)).tolist()) == index.tolist()


def test_order_is_a_pure_function_of_seed_and_step():
    order = [blocks_of_step(3, step, 8, 1000).tolist() for step in range(600)]
    assert order == [blocks_of_step(3, step, 8, 1000).tolist() for step in reversed(range(600))][::-1]
    assert order != [blocks_of_step(4, step, 8, 1000).tolist() for step in range(600)]
    flat = np.concatenate(order)
    assert [sorted(flat[epoch * 1000 : epoch * 1000 + 1000].tolist()) for epoch in range(4)] == [list(range(1000))] * 4
    assert flat[:1000].tolist() != flat[1000:2000].tolist()


def test_the_order_never_changes():
    assert blocks_of_step(0, 0, 8, 50_000).tolist() == GOLDEN
    far = blocks_of_step(0, 10**12, 8, 10**9)
    assert far.shape == (8,) and far.min() >= 0 and far.max() < 10**9


def test_order_looks_random():
    n_blocks = 4096
    places = permute(np.arange(n_blocks), n_blocks, 0, np.zeros(n_blocks, dtype=np.int64))
    # Standard deviation of a correlation of n independent pairs: n ** -0.5.
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 4 / 64
    assert abs(np.corrcoef(np.arange(n_blocks), places)[0, 1]) < 4 / 64
    firsts = [
        int(permute(np.zeros(1, dtype=np.int64), 10, seed, np.zeros(1, dtype=np.int64))[0]) for seed in range(2000)
    ]
    counts = np.bincount(firsts, minlength=10)
    # Chi-square with 9 degrees of freedom: 27.9 is passed once in a thousand.
    assert ((counts - 200) ** 2 / 200).sum() < 27.9


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_global_batch(world_size):
    whole = blocks_of_step(0, 5, 8, 1000)
    parts = [whole[rank_rows(8, rank, world_size)] for rank in range(world_size)]
    assert np.concatenate(parts).tolist() == whole.tolist()
    assert {len(part) for part in parts} == {8 // world_size}


def test_a_batch_that_does_not_divide_is_rejected():
    with pytest.raises(ValueError, match="3 processes, found 8: type data.batch_size=9"):
        rank_rows(8, 0, 3)


@pytest.mark.parametrize(("n_tokens", "blocks"), [(0, 0), (1, 0), (128, 0), (129, 1), (256, 1), (257, 2)])
def test_blocks_need_one_token_more_than_their_inputs(n_tokens, blocks):
    assert count_blocks(n_tokens, 128) == blocks
