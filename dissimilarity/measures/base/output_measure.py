"""Measures of what two models put out: one value a sample, from the logits of both."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.capture.sites import LOGITS
from dissimilarity.measures.base.checks import check_count, check_rows, check_widths
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.sample_measure import SampleMeasure, weighted_mean
from dissimilarity.moments.finite import count_not_finite
from dissimilarity.moments.products import sum_device

AT_ONCE = 2**22
"""Outputs that are turned into float64 probabilities together."""


class OutputMeasure(SampleMeasure):
    """A mean over samples of a function of both models' logits (n, classes) of the same classes.

    Samples that are all equal are as good as others: a model may put out one distribution whatever its input.

    As a metric it is exact over all samples that it is fed, in constant memory; in a comparison of models it sees the
    same bounded sample of positions as other sample measures do.
    """

    full_state_update: ClassVar[bool | None] = False

    def __init__(self, samples: int = 1024, seed: int = 0) -> None:
        super().__init__(samples, seed)
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self._widths: tuple[int, int] | None = None

    @abstractmethod
    def per_sample(self, x: Float[Tensor, "n classes"], y: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
        """The value of each sample, from log-probabilities."""

    def prepare(self, x: Float[Tensor, "n classes"]) -> Float[Tensor, "n classes"]:
        """Log-probabilities."""
        check_finite(x)
        return torch.log_softmax(x, -1)

    def between(
        self, x: Float[Tensor, "n classes"], y: Float[Tensor, "n other"], weight: Float[Tensor, " n"] | None = None
    ) -> Float[Tensor, ""]:
        """Mean over the samples."""
        if x.shape[1] != y.shape[1]:
            raise ValueError(
                f"expected the same classes on both sides, found {x.shape[1]} and {y.shape[1]}; "
                "outputs are compared between models of one vocabulary"
            )
        return weighted_mean(self.per_sample(x, y).double(), weight)

    def rearrange(self, x: Float[Tensor, "n classes"], order: Int[Tensor, " n"]) -> Any:
        """The rows in another order."""
        return x[order]

    def of(self, x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> Float[Tensor, ""]:
        """The value over all rows of x and y."""
        check_rows(x, y)
        check_count(len(x), self.minimum_samples)
        return self._total(x.detach(), y.detach()) / len(x)

    def update(self, x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> None:
        """Adds the samples of one batch."""
        check_rows(x, y)
        if self._widths is not None and int(self.seen):
            check_widths(self._widths, x, y)
        self._widths = (x.shape[1], y.shape[1])
        if len(x):
            self.total = self.total + self._total(x.detach(), y.detach())
            self.seen = self.seen + len(x)

    def _total(self, x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> Float[Tensor, ""]:
        """The sum over the samples in float64, some at a time."""
        device, at_once = sum_device(x.device), max(1, AT_ONCE // max(1, x.shape[1]))
        parts = zip(x.split(at_once), y.split(at_once), strict=True)
        sums = [len(a) * self.between(*(self.prepare(part.to(device).double()) for part in (a, b))) for a, b in parts]
        return torch.stack(sums).sum().to(self.total.device)

    def compute(self) -> Float[Tensor, ""]:
        """The mean over all samples seen, on all processes."""
        check_count(int(self.seen), self.minimum_samples)
        return self.total / self.seen


def check_finite(x: Float[Tensor, "n classes"]) -> None:
    """Raises ValueError where there are outputs that are no numbers."""
    bad = count_not_finite(x)
    if bad:
        raise ValueError(f"{bad} of {x.numel()} outputs are NaN or infinite")


def across_tokenizers(measures: Sequence[Measure]) -> tuple[list[Measure], list[dict[str, Any]]]:
    """The measures that compare models of other tokens, and rows that say why there is no value of the others."""
    nothing = dict.fromkeys(("value", "dissimilarity", "stderr", "null", "calibrated"), math.nan)
    rows = [
        {
            "measure": measure.label,
            "site_a": LOGITS,
            "site_b": LOGITS,
            **nothing,
            "n_samples": 0,
            "note": f"{measure.label} compares what two models expect token by token, and their tokens are others",
        }
        for measure in measures
        if isinstance(measure, OutputMeasure)
    ]
    return [measure for measure in measures if not isinstance(measure, OutputMeasure)], rows
