"""Neighbors among other sequences alone: tokens of one sequence are alike in any model and say nothing of two."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dissimilarity import JaccardKNN, MutualKNN, compare
from dissimilarity.functional import jaccard_knn, mutual_knn
from tests.helpers import sample_oracles

SEQUENCES, LENGTH = 24, 16
SEQUENCE = torch.arange(SEQUENCES).repeat_interleave(LENGTH)


def tokens(seed: int, width: int = 12) -> Tensor:
    """Draw (sequences, length, width): tokens share most with their sequence, sequences nothing with each other."""
    g = torch.Generator().manual_seed(seed)
    shared, separate = (torch.randn(SEQUENCES, n, width, generator=g, dtype=torch.float64) for n in (1, LENGTH))
    return shared + 0.3 * separate


@pytest.mark.parametrize("k", [5, 10])
def test_values_are_those_of_the_definition(k: int) -> None:
    x = tokens(0).flatten(0, 1)
    y = x @ torch.randn(12, 12, generator=torch.Generator().manual_seed(1)).double()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    sides, sequence = (x[order], y[order]), SEQUENCE[order]
    expected = sample_oracles.mutual_knn(x[order].numpy(), y[order].numpy(), k, sequence.numpy())
    assert mutual_knn(*sides, k, own_sequence=False, units=sequence).item() == pytest.approx(expected, abs=1e-12)
    assert mutual_knn(*sides, k, own_sequence=False) == mutual_knn(*sides, k)
    assert mutual_knn(*sides, k, units=sequence) == mutual_knn(*sides, k)


def test_unrelated_models_score_the_null_which_is_small_across_sequences_alone() -> None:
    """With neighbors of the own sequence both are above a half, 20 times the chance k / (n - 1) of single samples."""
    rows: dict[str, list[dict[str, float]]] = {}
    measures = [kind(own_sequence=own) for kind in (MutualKNN, JaccardKNN) for own in (True, False)]
    for seed in range(8):
        acts = [{"s": tokens(2 * seed + side)} for side in (0, 1)]
        for row in compare(acts[0], acts[1], measures=measures, n_units=6).to_pylist():
            rows.setdefault(row["measure"], []).append(row)
    assert set(rows) == {"mutual_knn", "mutual_knn_across", "jaccard_knn", "jaccard_knn_across"}
    for name in ("mutual_knn", "jaccard_knn"):
        plain, across = (np.array([[row["value"], row["null"]] for row in rows[name + end]]) for end in ("", "_across"))
        assert plain.mean(0).min() > 0.45 and plain.mean(0)[0] == pytest.approx(plain.mean(0)[1], abs=0.02)
        error = across[:, 0].std() / 8**0.5
        assert abs(across[:, 0].mean() - across[:, 1].mean()) < 3 * error + 0.002 and across[:, 0].mean() < 0.06


def test_the_table_is_the_function_with_the_sequences_as_units_and_has_an_error_bar() -> None:
    x = tokens(0)
    y = x + 0.3 * tokens(1)
    (row,) = compare({"s": x}, {"s": y}, measures=[MutualKNN(own_sequence=False)], n_units=6).to_pylist()
    expected = mutual_knn(x.flatten(0, 1), y.flatten(0, 1), own_sequence=False, units=SEQUENCE)
    assert row["value"] == pytest.approx(expected.item(), abs=1e-12) and 0 < row["stderr"] < 0.2
    jaccard = jaccard_knn(x.flatten(0, 1), y.flatten(0, 1), own_sequence=False, units=SEQUENCE)
    assert 0 < jaccard < expected


def test_too_few_other_sequences_are_named() -> None:
    x = tokens(0)[:2].flatten(0, 1)
    with pytest.raises(ValueError, match="other sequences: have 16, 20 nearest neighbors need 21; pass more sequences"):
        mutual_knn(x, x, 20, own_sequence=False, units=SEQUENCE[: len(x)])
