"""Values that are not finite."""

from collections import Counter

import torch
from jaxtyping import Float, Int
from torch import Tensor


def count_not_finite(samples: Tensor) -> int:
    """Count the values that are NaN or infinite; one fast sum where there are none.

    >>> count_not_finite(torch.tensor([1.0, float("nan"), float("inf")]))
    2
    """
    return 0 if bool(torch.isfinite(samples.sum())) else int((~torch.isfinite(samples)).sum())


def not_finite_by(sequence: Int[Tensor, " n"], samples: Float[Tensor, "*parts p"]) -> Counter[int]:
    """Count the values that are NaN or infinite, by sequence.

    Args:
        sequence: the sequence of each sample.
        samples: the samples, n in all.

    >>> not_finite_by(torch.tensor([0, 7, 7]), torch.tensor([[1.0, 2.0], [float("nan"), float("inf")], [3.0, 4.0]]))
    Counter({7: 2})
    """
    counts: Counter[int] = Counter()
    if count_not_finite(samples):
        values = (~samples.isfinite()).sum(-1).flatten().cpu()
        for index in values.nonzero().flatten().tolist():
            counts[int(sequence[index])] += int(values[index])
    return counts
