"""Values that are not finite."""

import torch
from torch import Tensor


def count_not_finite(samples: Tensor) -> int:
    """Count the values that are NaN or infinite; one fast sum where there are none.

    >>> count_not_finite(torch.tensor([1.0, float("nan"), float("inf")]))
    2
    """
    return 0 if bool(torch.isfinite(samples.sum())) else int((~torch.isfinite(samples)).sum())
