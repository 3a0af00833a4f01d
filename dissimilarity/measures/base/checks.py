"""What every measure refuses, with what was expected, what was found and what to do."""

from torch import Tensor

from dissimilarity.moments.finite import count_not_finite


def check_rows(x: Tensor, y: Tensor) -> None:
    """Raises ValueError, with expected, found and what to do, unless x (n, p) and y (n, q) hold the same samples."""
    if x.ndim != 2 or y.ndim != 2:
        raise ValueError(
            f"expected x of shape (n, p) and y of shape (n, q), found {tuple(x.shape)} and {tuple(y.shape)}; "
            "flatten (batch, pos, d) to (batch * pos, d)"
        )
    if len(x) != len(y):
        raise ValueError(
            f"expected the same samples in x and y, found {len(x)} and {len(y)} rows; compare both on one probe set"
        )
    for rows, name in ((x, "x"), (y, "y")):
        if not rows.is_floating_point():
            raise ValueError(
                f"{name} must hold floating-point activations, found {rows.dtype}: cast it, for example with .float()"
            )
        bad = count_not_finite(rows)
        if bad:
            raise ValueError(
                f"{bad} of {rows.numel()} values of {name} are NaN or infinite; look for overflow or divergence there"
            )


def check_pair(x: Tensor, y: Tensor, minimum: int) -> None:
    """Raises ValueError unless x (n, p) and y (n, q) can be compared: ``check_rows``, enough of them, not all equal."""
    check_rows(x, y)
    check_count(len(x), minimum)
    for rows, name in ((x, "x"), (y, "y")):
        # Three rows tell nearly always, and spare a comparison of all.
        few = rows[:: max(1, len(rows) // 2)]
        if bool((few == rows[:1]).all()) and bool((rows == rows[:1]).all()):
            raise no_variance(name)


def check_count(have: int, need: int) -> None:
    """Raises ValueError where there are too few samples."""
    if have < need:
        raise ValueError(f"too few samples: have {have}, the measure needs at least {need}; pass more samples")


def check_widths(expected: tuple[int, int], x: Tensor, y: Tensor) -> None:
    """Raises ValueError where a batch is of other widths than those before it."""
    if (x.shape[1], y.shape[1]) != expected:
        raise ValueError(
            f"expected batches of widths {expected[0]} and {expected[1]} like the first one, found {x.shape[1]} and "
            f"{y.shape[1]}; reset() the measure before another pair of representations"
        )


def no_variance(name: str) -> ValueError:
    """The error for samples that are all the same."""
    return ValueError(f"zero variance: all samples of {name} are equal, so there is nothing to compare")
