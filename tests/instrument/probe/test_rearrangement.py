"""Whole sequences of equal length are rearranged as a shift of them, with the same order as in the general case."""

import pytest
import torch

from dissimilarity.probe import rearrangement


@pytest.mark.parametrize(("sequences", "length"), [(2, 3), (5, 1), (7, 4), (16, 8)])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_the_order_is_that_of_the_general_case(
    sequences: int, length: int, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = torch.Generator().manual_seed(seed or 0)
    rows = torch.arange(sequences) if seed is None else torch.randperm(sequences, generator=g)
    place = None if seed is None else torch.randperm(sequences, generator=g)
    samples = rows.repeat_interleave(length), torch.arange(length).repeat(sequences), place
    assert rearrangement._shifted(*samples[:2], torch.arange(sequences)) is not None
    order = rearrangement.rearranged(*samples)
    monkeypatch.setattr(rearrangement, "_shifted", lambda *args: None)
    expected = rearrangement.rearranged(*samples)
    assert order is not None and expected is not None and torch.equal(order, expected)
