"""Measures of model outputs (logits): one value per sample, averaged."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.capture.sites import LOGITS
from dissimilarity.measures.base.checks import ArrayLike, as_tensors, check_count, check_samples, check_widths
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.sample_measure import SampleMeasure, weighted_mean
from dissimilarity.moments.finite import count_not_finite
from dissimilarity.moments.products import sum_device

AT_ONCE = 2**22
"""Number of outputs that are turned into float64 probabilities at a time."""

PerSample = Callable[[Tensor, Tensor], Tensor]
"""Both sides (n, classes), log-probabilities or logits -> one value per sample."""


def mean_over_samples(per_sample: PerSample, x: ArrayLike, y: ArrayLike, logits: bool = False) -> Float[Tensor, ""]:
    """Return the mean of one value per sample over all samples of two models' logits.

    Args:
        per_sample: the value of each sample.
        x: logits (n, classes) of one model.
        y: logits of the other, of the same classes.
        logits: whether ``per_sample`` takes the logits themselves instead of log-probabilities.

    Raises:
        ValueError: x and y cannot be compared.
    """
    x, y = as_tensors(x, y)
    check_samples(x, y)
    check_count(len(x), 1)
    return sum_over_samples(per_sample, x.detach(), y.detach(), logits) / len(x)


def sum_over_samples(
    per_sample: PerSample, x: Float[Tensor, "n _"], y: Float[Tensor, "n _"], logits: bool
) -> Float[Tensor, ""]:
    """Return the sum over the samples in float64, some samples at a time; arguments as for ``mean_over_samples``."""
    check_classes(x, y)
    device, at_once = sum_device(x.device), max(1, AT_ONCE // max(1, x.shape[1]))
    sums = []
    for parts in zip(x.split(at_once), y.split(at_once), strict=True):
        a, b = (part.to(device).double() for part in parts)
        sums.append(len(a) * per_sample(*((a, b) if logits else (log_probabilities(a), log_probabilities(b)))).mean())
    return torch.stack(sums).sum()


def log_probabilities(logits: Float[Tensor, "n classes"]) -> Float[Tensor, "n classes"]:
    """Return the log-softmax of finite logits."""
    check_finite(logits)
    return torch.log_softmax(logits, -1)


class OutputMeasure(SampleMeasure):
    """A mean over samples of a function of both models' logits (n, classes) of the same classes.

    Samples that are all equal are allowed: a model may return one distribution whatever its input.

    As a metric it is exact over all samples that it receives, in constant memory. A comparison of models evaluates it
    on the same bounded subsample of positions as other sample measures.
    """

    full_state_update: ClassVar[bool | None] = False
    takes_logits: ClassVar[bool] = False

    def __init__(self, max_samples: int = 1024, seed: int = 0) -> None:
        super().__init__(max_samples, seed)
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self._widths: tuple[int, int] | None = None

    @abstractmethod
    def per_sample(self, x: Float[Tensor, "n classes"], y: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
        """Return the value of each sample, from log-probabilities, or from logits if ``takes_logits``."""

    def prepare(self, x: Float[Tensor, "n classes"]) -> Float[Tensor, "n classes"]:
        """Return the input of ``per_sample`` for one side."""
        if not self.takes_logits:
            return log_probabilities(x)
        check_finite(x)
        return x

    def between(
        self, x: Float[Tensor, "n classes"], y: Float[Tensor, "n other"], weight: Float[Tensor, " n"] | None = None
    ) -> Float[Tensor, ""]:
        """Return the mean over the samples."""
        check_classes(x, y)
        return weighted_mean(self.per_sample(x, y).double(), weight)

    def rearrange(self, x: Float[Tensor, "n classes"], order: Int[Tensor, " n"]) -> Float[Tensor, "n classes"]:
        """Return the samples in another order."""
        return x[order]

    def value(self, x: ArrayLike, y: ArrayLike) -> Float[Tensor, ""]:
        """Return the value over all samples of x and y at once."""
        return mean_over_samples(self.per_sample, x, y, self.takes_logits)

    def update(self, x: ArrayLike, y: ArrayLike) -> None:
        """Add the samples of one batch."""
        x, y = as_tensors(x, y)
        check_samples(x, y)
        if self._widths is not None and int(self.seen):
            check_widths(self._widths, x, y)
        self._widths = (x.shape[1], y.shape[1])
        if len(x):
            added = sum_over_samples(self.per_sample, x.detach(), y.detach(), self.takes_logits)
            self.total = self.total + added.to(self.total.device)
            self.seen = self.seen + len(x)

    def compute(self) -> Float[Tensor, ""]:
        """Return the mean over all samples seen, on all processes."""
        check_count(int(self.seen), self.minimum_samples)
        return self.total / self.seen


def check_classes(x: Float[Tensor, "n classes"], y: Float[Tensor, "n other"]) -> None:
    """Raise ValueError if the two sides have different numbers of classes."""
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"expected the same classes on both sides, found {x.shape[1]} and {y.shape[1]}; "
            "compare outputs of models with one vocabulary"
        )


def check_finite(x: Float[Tensor, "n classes"]) -> None:
    """Raise ValueError if outputs are NaN or infinite."""
    bad = count_not_finite(x)
    if bad:
        raise ValueError(f"{bad} of {x.numel()} outputs are NaN or infinite")


def across_tokenizers(measures: Sequence[Measure]) -> tuple[list[Measure], list[dict[str, Any]]]:
    """Split measures into those that can compare models of different tokenizers, and records for those that cannot.

    Returns:
        the measures of representations, and one record per measure of outputs, without a value and with a note that
        says why.
    """
    no_value = dict.fromkeys(("value", "dissimilarity", "stderr", "null", "calibrated", "calibrated_stderr"), math.nan)
    records = [
        {
            "measure": measure.label,
            "site_a": LOGITS,
            "site_b": LOGITS,
            **no_value,
            "n_samples": 0,
            "n_units": 0,
            "note": f"{measure.label} compares predictions token by token, and the models use different tokenizers",
        }
        for measure in measures
        if isinstance(measure, OutputMeasure)
    ]
    return [measure for measure in measures if not isinstance(measure, OutputMeasure)], records
