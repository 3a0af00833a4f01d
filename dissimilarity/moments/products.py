"""Matrix products of samples, and what keeps them precise: full float32, outlier rows in float64, offsets removed."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

OUTLIER_FACTOR = 16.0
"""A row is an outlier where its squared norm exceeds this many times the median."""
MANY = 512
"""Samples from which products may be fast: their roundings average out, and the precision decides how long it takes."""
APART = 0.8
"""Cosine of two sides up to which error bars take fast products: at most 0.5% of them is rounding.

Near 1, what the cross term and the self terms have in common cancels, and rounding does not.
"""


def sum_device(device: torch.device) -> torch.device:
    """Return where float64 sums live: beside the data, or on the CPU for devices without float64 (MPS)."""
    return torch.device("cpu") if device.type == "mps" else device


@cache
def has_fast_bfloat16(device: str) -> bool:
    """Return whether a kind of device has products of bfloat16; most processors emulate them, which takes longer."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and torch.cpu._is_amx_tile_supported()


def fast_where_many(x: Float[Tensor, "*n p"]) -> bool:
    """Return whether products of samples for nulls and error bars are fast ones: rounded, never those of values."""
    return x.dtype != torch.float64 and x[..., 0].numel() >= MANY and has_fast_bfloat16(x.device.type)


def rounded_where_many(x: Float[Tensor, "*n p"]) -> Float[Tensor, "*n p"]:
    """Round samples to bfloat16 where products are fast then."""
    return x.bfloat16() if fast_where_many(x) else x


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Compute products in true float32, whatever a training script chose for speed (TF32, bfloat16, autocast)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def as_samples(x: Tensor) -> Tensor:
    """Return samples in float32 or float64: (..., d) becomes (n, d), and half precision is cast up before any sum.

    >>> as_samples(torch.zeros(2, 3, 4, dtype=torch.bfloat16)).shape
    torch.Size([6, 4])
    """
    samples = x.reshape(-1, x.shape[-1]) if x.ndim > 1 else x[:, None]
    return samples if samples.dtype == torch.float64 else samples.float()


def choose_offset(x: Float[Tensor, "n p"]) -> Float[Tensor, " p"]:
    """Return the mean of the samples where keeping it would cost digits, else zero.

    About 256 samples decide, so that zero costs no pass over all of them.
    """
    few = x[:: max(1, len(x) // 256)].to(sum_device(x.device)).double()
    guess = few.mean(0)
    return column_means(x) if bool(2 * guess @ guess > few.square().sum(1).mean()) else torch.zeros_like(guess)


def remove_offset(x: Float[Tensor, "*n p"], offset: Float[Tensor, " p"]) -> Float[Tensor, "*n p"]:
    """Subtract an offset; return the samples themselves where it is zero."""
    return x - offset.to(x) if bool(offset.any()) else x


def column_means(x: Float[Tensor, "n p"]) -> Float[Tensor, " p"]:
    """Return the column means in float64, accurate enough for an offset."""
    return x.mean(0).to(sum_device(x.device)).double()


def squared_norms(x: Float[Tensor, "units n p"]) -> Float[Tensor, "units n"]:
    """Compute the squared norm of each sample, in float64 where the device has it."""
    device = sum_device(x.device)
    # A few hundred samples at a time stay in the processor's cache; all at once would take 20 times as long.
    block = x.shape[1] if x.is_cuda else 2**17 // max(1, len(x) * x.shape[-1])
    parts = (part.to(device).double() for part in x.split(max(1, block), 1))
    return torch.cat([torch.linalg.vecdot(part, part) for part in parts], 1)


def find_outlier_rows(norms: Float[Tensor, "units n"]) -> Bool[Tensor, "units n"]:
    """Find the samples that outweigh the others, from their squared norms.

    A single massive activation leaves more rounding in a float32 product than all other samples add to it, and debiased
    HSIC subtracts exactly the part of that sample: one token of 1000 times the usual norm would cost CKA 1e-3.
    """
    return norms > OUTLIER_FACTOR * norms.median()


def zero_outliers(x: Float[Tensor, "units n p"], outlier_rows: Bool[Tensor, "units n"]) -> Float[Tensor, "units n p"]:
    """Set outlier rows to zero; return the same tensor where there are none, or where x is float64 anyway."""
    if x.dtype == torch.float64 or not bool(outlier_rows.any()):
        return x
    return x.masked_fill(outlier_rows[..., None], 0)


def products(
    x: Float[Tensor, "units n p"],
    y: Float[Tensor, "units n q"] | None,
    outlier_rows: Bool[Tensor, "units n"],
    regular: Float[Tensor, "units n p"] | None = None,
) -> tuple[Float[Tensor, "p q"], Float[Tensor, "units p q"]]:
    """Compute x' y over all samples and per unit; x' x where y is None.

    Products are taken in the precision of ``regular``, those of outlier rows in float64. Totals are summed in float64;
    the product of a single unit is returned as it is, because a copy of a large one takes time.

    Args:
        x: samples of the first side.
        y: the same samples of the second side.
        outlier_rows: which samples are multiplied in float64.
        regular: ``zero_outliers(x, outlier_rows)``, if the caller has it; for a null perhaps rounded.
    """
    device = sum_device(x.device)
    regular = zero_outliers(x, outlier_rows) if regular is None else regular
    no_outliers = x.dtype == torch.float64 or not bool(outlier_rows.any())
    with full_float32(x.device):
        per_unit = (gram(regular) if y is None else product(regular, y.to(regular))).to(device, x.dtype)
    y = x if y is None else y
    total = per_unit[0] if len(per_unit) == 1 and no_outliers else sum_in_float64(per_unit)
    if not no_outliers:
        for unit in outlier_rows.any(1).nonzero()[:, 0]:
            rows = outlier_rows[unit]
            outlier_product = x[unit, rows].to(device).double().T @ y[unit, rows].to(device).double()
            total += outlier_product
            per_unit[unit] += outlier_product
    return total, per_unit


def weighted_sums(
    x: Float[Tensor, "units n p"],
    weights: Float[Tensor, "units n k"],
    outlier_rows: Bool[Tensor, "units n"],
    regular: Float[Tensor, "units n p"] | None = None,
) -> tuple[Float[Tensor, "p k"], Float[Tensor, "units p k"]]:
    """Compute x' w as ``products`` does, with weights scaled to a mean of 1 so that float32 stays in range."""
    size = weights.mean((0, 1))
    size = torch.where(size > 0, size, 1.0)
    total, per_unit = products(x, weights / size, outlier_rows, regular)
    return total * size, per_unit * size


def product(x: Float[Tensor, "units n p"], y: Float[Tensor, "units n q"]) -> Float[Tensor, "units p q"]:
    """Compute x' y per unit."""
    if y.shape[-1] < x.shape[-1] // 8:  # a narrow second factor takes up to ten times as long
        return (y.mT @ x).mT
    return (x[0].T @ y[0])[None] if len(x) == 1 else x.mT @ y


def gram(x: Float[Tensor, "units n p"]) -> Float[Tensor, "units p p"]:
    """Compute x' x per unit; for one wide unit only the blocks on and above the diagonal: 5/8 of the work."""
    width = x.shape[-1]
    if len(x) > 1 or width < 256:
        return product(x, x)
    products = x.new_empty(1, width, width)
    for start in range(0, width, block := -(-width // 4)):
        stop = min(start + block, width)
        products[:, start:stop, start:] = product(x[..., start:stop], x[..., start:])
        products[:, stop:, start:stop] = products[:, start:stop, stop:].mT
    return products


def sum_in_float64(parts: Float[Tensor, "units p q"]) -> Float[Tensor, "p q"]:
    """Sum over units in float64, some rows at a time: torch's sum in another dtype takes 10 times as long."""
    total = parts.new_empty(parts.shape[1:], dtype=torch.float64)
    at_once = max(1, 2**15 // max(1, total[:1].numel())) if not total.is_cuda else len(total)
    for start in range(0, len(total), at_once):
        rows = total[start : start + at_once].copy_(parts[0, start : start + at_once])
        for part in parts[1:]:
            rows += part[start : start + at_once]
    return total


def add_in_place(total: Tensor, addend: Tensor) -> None:
    """Add to a total a few rows at a time: torch first copies all of an addend of another dtype."""
    block = max(1, 2**18 // max(1, total[:1].numel())) if total.ndim else 0
    parts = zip(total.split(block), addend.split(block), strict=True) if block else [(total, addend)]
    for total_part, addend_part in parts:
        total_part += addend_part


def scales_of(values: Float[Tensor, "arrays p *rest"]) -> Float[Tensor, " arrays"]:
    """Return the largest magnitude in each array, or 1 if that is zero: derivatives may exceed the range of float32.

    >>> scales_of(torch.tensor([[1.0, -3.0], [0.0, 0.0]])).tolist()
    [3.0, 1.0]
    """
    size = torch.linalg.vector_norm(values.flatten(1), float("inf"), dim=1)
    return torch.where(size > 0, size, 1.0)
