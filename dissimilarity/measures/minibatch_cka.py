"""Debiased linear CKA in minibatches of samples."""

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.inference.jackknife import stderr_of_left_out
from dissimilarity.measures.base.checks import check_count, check_pair, check_rows, check_widths
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.measures.numerics.centered import centered_product, left_out_terms, members
from dissimilarity.moments.products import sum_device

Reduction = Literal["ratio_of_means", "mean_of_ratios"]


def minibatch_cka(
    x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], reduction: Reduction = "ratio_of_means", batch: int = 256
) -> Float[Tensor, ""]:
    """Debiased linear CKA over minibatches of consecutive samples; see ``MinibatchCKA``.

    Args:
        x, y: rows are samples; widths may differ.
        reduction: ``ratio_of_means`` or ``mean_of_ratios``.
        batch: rows of a minibatch; an incomplete last one is left out, unless it is the only one.

    Returns:
        float64 scalar in [-1, 1]; 1 = same, about 0 for independent data.
    """
    return MinibatchCKA(reduction, batch).of(x, y)


@dataclass(frozen=True)
class Grams:
    """One side: the Gram matrices of all minibatches, each about its mean and with zeros on its diagonal, float64."""

    grams: Float[Tensor, "batches size size"]
    rows: Float[Tensor, "n p"]


class MinibatchCKA(SampleMeasure):
    """Debiased linear CKA over minibatches of consecutive samples, with HSIC_1 of Song et al. (2012) in each.

    Two estimators: ``ratio_of_means`` (Nguyen et al. 2021), mean HSIC(K, L) / sqrt(mean HSIC(K, K) mean HSIC(L, L)),
    which tends to the value over all samples, and ``mean_of_ratios`` (Brown et al. 2023), the mean of each minibatch's
    HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), which does not.

    Minibatches are cut in the order of the stream, whatever the calls of ``update``, which takes any number of samples
    in constant memory. Left-over samples wait for the next ones; those of several processes are joined. An incomplete
    last minibatch is left out, unless it is the only one. The order of samples matters where it changes minibatches.

    Args:
        reduction: ``ratio_of_means`` or ``mean_of_ratios``.
        batch: rows of a minibatch.
        samples: in a comparison of models, most rows that are compared.
        seed: which rows those are.
    """

    full_state_update: ClassVar[bool | None] = False
    higher_is_more_similar: ClassVar[bool] = True
    bounds: tuple[float, float] = (-1.0, 1.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = False
    invariant_to: frozenset[str] = frozenset({"orthogonal", "isotropic_scaling", "translation", "permutation"})
    minimum_samples: int = 4
    identical: ClassVar[float] = 1.0
    formula: ClassVar[str] = "debiased CKA over minibatches: ratio of the mean HSICs, or mean of the ratios"
    cost: ClassVar[str] = "n batch (p + q)"
    source: ClassVar[str] = "Nguyen et al. 2021; Brown et al. 2023"

    def __init__(
        self, reduction: Reduction = "ratio_of_means", batch: int = 256, samples: int = 1024, seed: int = 0
    ) -> None:
        super().__init__(samples, seed)
        if reduction not in ("ratio_of_means", "mean_of_ratios"):
            raise ValueError(f"expected reduction ratio_of_means or mean_of_ratios, found {reduction!r}")
        if batch < 4:
            raise ValueError(f"expected minibatches of at least 4 samples, found batch={batch}")
        self.reduction, self.batch = reduction, batch
        # Of the complete minibatches so far: cross and self terms, ratios, and how many there are.
        self.add_state("sums", torch.zeros(5, dtype=torch.float64), dist_reduce_fx="sum")
        self._widths: tuple[int, int] | None = None

    @property
    def label(self) -> str:
        """``cka_ratio_of_means`` or ``cka_mean_of_ratios``, with the size of the minibatches where it is not 256."""
        return f"cka_{self.reduction}" if self.batch == 256 else f"cka_{self.reduction}_{self.batch}"

    def prepare(self, x: Float[Tensor, "n p"]) -> Grams:
        """Gram matrices of the minibatches."""
        size = min(self.batch, len(x))
        batches = x.detach()[: len(x) // size * size].to(sum_device(x.device)).double().unflatten(0, (-1, size))
        batches = batches - batches.mean(1, keepdim=True)
        grams = batches @ batches.mT
        grams.diagonal(dim1=1, dim2=2).zero_()
        return Grams(grams, x)

    def between(self, x: Grams, y: Grams, weight: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """The value over the minibatches."""
        return self._reduced(_terms(x.grams, y.grams, weight))

    def estimate(self, x: Grams, y: Grams, group: Int[Tensor, " n"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The value and its error by leaving out each group in turn, and minibatches of which too little is left."""
        batches, size = x.grams.shape[:2]
        member = members(group.to(x.grams.device))[: batches * size].unflatten(0, (batches, size))
        parts = [left_out_terms(a, b, True, of) for a, b, of in zip(x.grams, y.grams, member, strict=True)]
        terms, n = (torch.stack(part) for part in zip(*parts, strict=True))
        terms = (terms / (n * (n - 3))[:, None]).movedim(1, 0)
        values = [self._reduced(terms[:, n[:, out] >= 4, out]) for out in range(n.shape[1])]
        return self.between(x, y), stderr_of_left_out(torch.stack(values))

    def rearrange(self, x: Grams, order: Int[Tensor, " n"]) -> Grams:
        """The Gram matrices of the rearranged rows, which fall into other minibatches."""
        return self.prepare(x.rows[order.to(x.rows.device)])

    def of(self, x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> Float[Tensor, ""]:
        """The value over all rows, some minibatches at a time."""
        check_pair(x, y, self.minimum_samples)
        sums, *left = self._added(torch.zeros(5, dtype=torch.float64, device=x.device), x, y)
        return self._total(sums, *left)

    def update(self, x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> None:
        """Adds the minibatches that are complete, and keeps the samples left over for the next ones."""
        check_rows(x, y)
        if self._widths is not None and int(self.seen):
            check_widths(self._widths, x, y)
        self._widths = (x.shape[1], y.shape[1])
        self.seen = self.seen + len(x)
        rows = [torch.cat([*self._kept(old), new.detach()]) for old, new in ((self.x, x), (self.y, y))]
        self.sums, *left = self._added(self.sums, *rows)
        self.x, self.y = ([part] for part in left)

    def compute(self) -> Float[Tensor, ""]:
        """The value over all samples seen, on all processes."""
        check_count(int(self.seen), self.minimum_samples)
        return self._total(*self._added(self.sums, *(torch.cat(self._kept(rows)) for rows in (self.x, self.y))))

    def _kept(self, state: object) -> list[Tensor]:
        """The parts of a list state, which is one tensor once it was gathered from several processes."""
        return [state] if isinstance(state, Tensor) else list(cast(list[Tensor], state))

    def _added(self, sums: Float[Tensor, "5"], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The sums with the complete minibatches of some rows added, and the rows left over."""
        complete = len(x) // self.batch * self.batch
        for a, b in zip(x[:complete].split(16 * self.batch), y[:complete].split(16 * self.batch), strict=True):
            if len(a):
                sums = sums + self._summed(a, b).to(sums.device)
        return sums, x[complete:].clone(), y[complete:].clone()

    def _summed(self, x: Tensor, y: Tensor) -> Float[Tensor, "5"]:
        terms = _terms(self.prepare(x).grams, self.prepare(y).grams, None)
        cross, self_x, self_y = terms
        ratio = _over(cross, self_x, torch.where((self_x > 0) & (self_y > 0), self_y, float("nan")))
        return torch.stack([*terms.sum(1), ratio.sum(), ratio.new_tensor(len(ratio))])

    def _total(self, sums: Float[Tensor, "5"], x: Tensor, y: Tensor) -> Float[Tensor, ""]:
        """The value from the sums, or over the rows left over if there is no complete minibatch."""
        if not int(sums[4]):
            check_pair(x, y, self.minimum_samples)
            return self.between(self.prepare(x), self.prepare(y))
        if self.reduction == "mean_of_ratios":
            if bool(sums[3].isnan()):
                raise _undefined("of a minibatch")
            return sums[3] / sums[4]
        return _ratio(sums[:3])

    def _reduced(self, terms: Float[Tensor, "3 batches"]) -> Float[Tensor, ""]:
        return _ratio(terms).mean() if self.reduction == "mean_of_ratios" else _ratio(terms.mean(1))


def _ratio(terms: Tensor) -> Tensor:
    cross, self_x, self_y = terms
    for own, name in ((self_x, "x"), (self_y, "y")):
        if not bool((own > 0).all()):
            raise _undefined(f"of {name}" + (f" in {int((own <= 0).sum())} of {own.numel()} minibatches" * own.ndim))
    return _over(cross, self_x, self_y)


def _over(cross: Tensor, self_x: Tensor, self_y: Tensor) -> Tensor:
    """cross / sqrt(self_x self_y), whose product may leave the range of float64."""
    return cross / self_x * (self_x / self_y).sqrt()


def _undefined(which: str) -> ValueError:
    return ValueError(
        f"the unbiased self term {which} is not positive, so there is nothing to divide by: the samples are equal, or "
        "all at right angles; raise batch or pass other samples"
    )


def _terms(
    x: Float[Tensor, "batches n n"], y: Float[Tensor, "batches n n"], weight: Float[Tensor, " rows"] | None
) -> Float[Tensor, "3 batches"]:
    """HSIC_1 of x with y, x with x and y with y in each minibatch; 0 where it is of the size of rounding."""
    count, n = x.shape[:2]
    of = x.new_ones(count, n) if weight is None else weight[: count * n].view(count, n)
    total = of.sum(1)

    def hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
        a, b, ab = (torch.einsum("bij,bj->bi", m, of) for m in (k, l, k * l))
        trace, chain, sum_a, sum_b = ((of * v).sum(1) for v in (ab, a * b, a, b))
        found = centered_product(total, trace, chain, sum_a, sum_b, unbiased=True)
        return torch.where(found.abs() > 1e-14 * trace.abs(), found, 0.0) / (total * (total - 3))

    return torch.stack([hsic(x, y), hsic(x, x), hsic(y, y)])
