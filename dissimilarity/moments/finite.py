"""Values that are not finite."""

import torch
from torch import Tensor


def count_not_finite(rows: Tensor) -> int:
    """Count the values that are NaN or infinite; takes one fast sum where none is."""
    return 0 if bool(torch.isfinite(rows.sum())) else int((~torch.isfinite(rows)).sum())
