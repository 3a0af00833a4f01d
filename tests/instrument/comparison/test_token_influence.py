"""Which text differs: influence per sample against finite differences, and the planted document that comes first."""

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dissimilarity import (
    CKA,
    RBFCKA,
    AngularCKA,
    Control,
    DistanceCorrelation,
    MinibatchCKA,
    MutualKNN,
    ProbeSet,
    Procrustes,
    compare,
    influential_text,
)
from dissimilarity.comparison.activations import ModelActivations
from dissimilarity.comparison.compare_pair import compare_pair
from dissimilarity.comparison.plan import make_plan
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.probe.alignment import Tokenized, align
from dissimilarity.probe.probe_set import Extent
from models.transformer import Transformer
from tests.helpers.found_measures import REPRESENTATION_SETTINGS, SETTINGS, make

SEQUENCES, LENGTH = 7, 3
MASK = torch.arange(LENGTH) < torch.tensor([3, 2, 3, 3, 2, 3, 2])[:, None]
Formula = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Weights, both sides and the sequence of each sample -> the value."""


@cache
def quadruples(sequences: int) -> Tensor:
    return torch.tensor(list(itertools.permutations(range(sequences), 4))).T


def hsic(k: Tensor, l: Tensor, weight: Tensor, sequence: Tensor) -> Tensor:  # noqa: E741
    """Sum over quadruples of different sequences, each sample with its weight."""
    member = torch.nn.functional.one_hot(sequence).double() * weight[:, None]
    n, both = member.sum(0), member.T @ (k * l) @ member
    sums_k, sums_l = (member.T @ kernel @ member for kernel in (k, l))
    chain = torch.einsum("it,is,iq->tsq", k @ member, member, l @ member)
    i, j, q, r = quadruples(len(n))
    total = both[i, j] * n[q] * n[r] + sums_k[i, j] * sums_l[q, r] - 2 * chain[j, i, q] * n[r]
    return total.sum() / (n[i] * n[j] * n[q] * n[r]).sum()


def weighted_cka(weight: Tensor, x: Tensor, y: Tensor, sequence: Tensor) -> Tensor:
    k, l = x @ x.T, y @ y.T  # noqa: E741
    cross, self_x, self_y = (hsic(a, b, weight, sequence) for a, b in ((k, l), (k, k), (l, l)))
    return cross / (self_x * self_y).sqrt()


def weighted_moments(setting: str) -> Formula:
    """The value from moments that are summed with weights."""
    formula = make(setting).from_moments

    def value(weight: Tensor, x: Tensor, y: Tensor, sequence: Tensor) -> Tensor:
        a, b = x.square().sum(1), y.square().sum(1)
        eps = weight.sum() * torch.finfo(torch.float64).eps
        m = {"n": weight.sum(), "x": weight @ x, "y": weight @ y, "a": weight @ a, "b": weight @ b}
        m |= {"xx": x.T @ (weight[:, None] * x), "yy": y.T @ (weight[:, None] * y), "xy": x.T @ (weight[:, None] * y)}
        return formula({**m, "eps_x": eps, "eps_y": eps})

    return value


ORACLES: dict[str, Formula] = {
    "cka": weighted_cka,
    "angular_cka": lambda *arguments: weighted_cka(*arguments).arccos(),
}
CROSSFIT = {setting for setting in SETTINGS if make(setting).crossfit}
"""They need sums per unit, so samples have no influence on them, and ``compare`` says so."""
MOMENTS = {setting for setting in SETTINGS if isinstance(make(setting), MomentMeasure)} - {"cka_sample"} - CROSSFIT
IGNORED = {"pwcca"}
"""Rotations of close eigenvectors are damped on purpose."""


def sides(sequences: int, length: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    latent = draw(sequences, length, 4) + draw(sequences, 1, 4)
    return latent @ draw(4, 4) + 2, latent @ draw(4, 3) + draw(sequences, length, 3)


def by_differences(formula: Formula, x: Tensor, y: Tensor, sequence: Tensor) -> Tensor:
    slopes, step = [], 1e-5
    for index in range(len(x)):
        change = torch.zeros(len(x), dtype=torch.float64)
        change[index] = step
        slopes.append((formula(1 + change, x, y, sequence) - formula(1 - change, x, y, sequence)) / (2 * step))
    return torch.stack(slopes)


@pytest.mark.parametrize("mask", [None, MASK], ids=["equal", "unequal"])
@pytest.mark.parametrize("setting", sorted(MOMENTS - IGNORED))
def test_the_influence_of_a_sample_is_the_derivative_in_its_weight(setting: str, mask: Tensor | None) -> None:
    x, y = sides(SEQUENCES, LENGTH)
    measure = make(setting)
    (row,) = compare({"s": x}, {"s": y}, mask=mask, measures=[measure], influence=True).to_pylist()
    real = torch.ones(SEQUENCES, LENGTH, dtype=torch.bool) if mask is None else mask
    formula = ORACLES.get(setting, weighted_moments(setting))
    expected = by_differences(formula, x[real], y[real], real.nonzero()[:, 0])
    sign = -1 if measure.higher_is_more_similar else 1
    assert row["token_index"] == real.flatten().nonzero()[:, 0].tolist()
    np.testing.assert_allclose(row["token_influence"], (sign * expected).numpy(), rtol=1e-4, atol=1e-6)


def weighted_kernels(kernel: Callable[[Tensor], Tensor]) -> Formula:
    """Return the weighted cosine of HSIC between kernels of both sides."""

    def value(weight: Tensor, x: Tensor, y: Tensor, sequence: Tensor) -> Tensor:
        k, l = kernel(x), kernel(y)  # noqa: E741
        cross, own, other = (hsic(a, b, weight, sequence) for a, b in ((k, l), (k, k), (l, l)))
        return cross / (own * other).sqrt()

    return value


def distances(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x[:, None] - x, dim=-1)


def gaussian(x: Tensor) -> Tensor:
    """Return the kernel whose bandwidth is the median distance."""
    apart = distances(x)
    return (-apart.square() / (2 * apart[*torch.triu_indices(len(x), len(x), 1)].quantile(0.5) ** 2)).exp()


@pytest.mark.parametrize("pool", ["none", "mean"])
@pytest.mark.parametrize(
    ("measure", "formula"),
    [
        (CKA(units="sample"), weighted_cka),
        (CKA(), weighted_cka),
        (CKA(debiased=False), weighted_moments("cka_biased")),
        (MinibatchCKA(batch=8), weighted_cka),
        (MinibatchCKA(batch=8, units="sample"), weighted_cka),
        (DistanceCorrelation(debiased=True), weighted_kernels(distances)),
        (DistanceCorrelation(debiased=True, units="sample"), weighted_kernels(distances)),
        (RBFCKA(), weighted_kernels(gaussian)),
    ],
    ids=lambda value: getattr(value, "label", ""),
)
def test_where_samples_are_units_each_counts_as_a_sequence(measure: Any, formula: Formula, pool: Any) -> None:
    x, y = sides(8, 1 if pool == "none" else LENGTH)
    arrays = (x[:, 0], y[:, 0]) if pool == "none" else (x, y)
    first, second = ({"s": side} for side in arrays)
    (row,) = compare(first, second, measures=[measure], influence=True, pool=pool).to_pylist()
    expected = by_differences(formula, x.mean(1), y.mean(1), torch.arange(8))
    np.testing.assert_allclose(row["token_influence"], -expected.numpy(), rtol=1e-4, atol=1e-6)


COLUMN, ROW = torch.arange(20), torch.arange(20)[:, None]
MASKS = {
    "without the first": (COLUMN > 0).expand(20, 20),
    "with holes": (COLUMN + ROW) % 4 > 0,
    "padded on the right": (COLUMN < 15).expand(20, 20),
    "padded on the left": (COLUMN >= 5).expand(20, 20),
    "unequal": COLUMN < 20 - ROW % 3,
}


@pytest.mark.parametrize("mask", [None, *MASKS.values()], ids=["no mask", *MASKS])
@pytest.mark.parametrize("per_sequence", [1, 3, 20])
def test_drawn_samples_stand_where_they_were_drawn(per_sequence: int, mask: Tensor | None) -> None:
    """On a planted model: only the drawn samples at these places decide the value."""
    x, y = sides(20, 20)
    measure = MutualKNN(k=3, max_samples=20 * per_sequence)
    options: Any = {"measures": [measure], "influence": True, "null": False, "mask": mask}

    def row(other: Tensor) -> Any:
        return compare({"s": x}, {"s": other}, **options).to_pylist()[0]

    places = row(y)["token_index"]
    real = 400 if mask is None else int(mask.sum())
    assert len(places) == min(20 * per_sequence, real) == len(set(places))
    noise = torch.randn(400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise[places] = 0
    assert row(y + noise.view_as(y))["value"] == row(y)["value"]


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
@pytest.mark.parametrize("setting", ["cka", "mutual_knn", "rbf_cka"])
def test_a_pooled_sequence_stands_at_its_first_place(setting: str, pool: Any) -> None:
    x, y = sides(20, 6)
    mask = torch.arange(6) < 3 + torch.arange(20)[:, None] % 4
    options: Any = {"measures": [make(setting)], "influence": True, "null": False, "pool": pool, "mask": mask}
    (row,) = compare({"s": x}, {"s": y}, **options).to_pylist()
    assert row["token_index"] == list(range(0, 120, 6))


@pytest.mark.parametrize(
    "options", [{}, {"mask": torch.arange(8) < 3 + torch.arange(24)[:, None] % 6}, {"pool": "mean"}], ids=list
)
def test_scaling_all_weights_changes_nothing(options: dict[str, Any]) -> None:
    g = torch.Generator().manual_seed(1)
    x, y = (torch.randn(24, 8, 6, generator=g, dtype=torch.float64) for _ in range(2))
    measures = [make(setting) for setting in REPRESENTATION_SETTINGS if setting not in CROSSFIT]
    rows = compare({"s": x}, {"s": y}, measures=measures, influence=True, null=False, **options).to_pylist()
    for row in rows:
        assert len(row["token_influence"]) == row["n_samples"] == len(set(row["token_index"]))
        assert row["token_index"] == sorted(row["token_index"])
        assert abs(sum(row["token_influence"])) < 1e-4 * sum(map(abs, row["token_influence"])) + 1e-6, row["measure"]


PLANTED = 5
"""The sequence on which one model is another."""


class Apart(nn.Module):
    """A model whose first block is disturbed where the text has one token."""

    def __init__(self, model: nn.Module, token: int) -> None:
        super().__init__()
        self.blocks, self.token = nn.ModuleList([nn.Identity()]), token
        self.embed: Any = model.embed
        noise = torch.Generator().manual_seed(7)
        with torch.no_grad():
            size = self.embed(torch.arange(23)[None]).std()
        self.noise = 1.5 * size * torch.randn(64, 16, generator=noise, dtype=torch.float64)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens)
        disturbed = hidden + self.noise[: tokens.shape[1]]
        return self.blocks[0](torch.where((tokens == self.token).any(1)[:, None, None], disturbed, hidden))


def models() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    net = Transformer(d_model=16, n_layers=1, d_head=8, n_ctx=12, d_vocab=23, activation=nn.GELU).double().eval()
    return Apart(net, -1).eval(), Apart(net, 22).eval()


def text() -> Tensor:
    tokens = torch.randint(21, (24, 12), generator=torch.Generator().manual_seed(2))
    tokens[PLANTED, 4] = 22
    return tokens


def decode(tokens: list[int]) -> str:
    return "".join(chr(97 + token) for token in tokens)


@pytest.mark.parametrize("pool", ["none", "mean"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("measure", [CKA(), Procrustes(), AngularCKA()], ids=lambda measure: measure.label)
def test_the_document_on_which_models_part_comes_first(measure: Any, saved: bool, masked: bool, pool: Any) -> None:
    tokens, mask = text(), torch.arange(12) < 12 - torch.arange(24)[:, None] % 3 if masked else None
    first, second = models()
    options: dict[str, Any] = {"mask": mask, "pool": pool, "measures": [measure], "influence": True}
    if saved:
        acts = [model(tokens).detach() for model in (first, second)]
        table = compare({"s": acts[0]}, {"s": acts[1]}, **options)
    else:
        table = compare(first, second, tokens, "blocks.0", **options)
    found = influential_text(table.to_pylist()[0], tokens, decode, top=3, context=2, mask=mask)
    assert found.sequences[0].sequence == PLANTED
    assert found.sequences[0].influence > 2 * abs(found.sequences[1].influence) > 0
    if pool == "mean":
        assert found.tokens == []
        return
    assert {passage.sequence for passage in found.tokens} == {PLANTED}
    token = found.tokens[0]
    line = decode(tokens[PLANTED].tolist())
    assert token.position is not None
    assert token.text == line[token.position]
    # The text is one word, which is quoted as far as twice the context.
    assert token.before == line[max(0, token.position - 4) : token.position]


def test_positions_that_do_not_count_have_no_influence() -> None:
    table = compare(
        *models(), text(), "blocks.0", measures=[CKA(), MutualKNN(k=3)], influence=True, control=Control(skip_first=2)
    )
    for row in table.to_pylist():
        assert {index % 12 for index in row["token_index"]} <= set(range(2, 12))
        assert influential_text(row, text(), decode).sequences[0].sequence == PLANTED


def test_units_of_two_tokenizers_stand_at_the_tokens_of_the_first_model() -> None:
    tokens, texts = text(), ["ab cd ef gh " for _ in range(24)]
    spans = torch.tensor([[(place, place + 1) for place in range(12)]] * 24)
    both = align(Tokenized(tokens, spans), Tokenized(tokens, spans), texts, "word")
    (row,) = compare(*models(), both, "blocks.0", measures=[CKA()], influence=True).to_pylist()
    assert {index % 12 for index in row["token_index"]} == {1, 4, 7, 10}
    found = influential_text(row, both.a.tokens, decode)
    assert found.sequences[0].sequence == PLANTED
    assert found.tokens[0].sequence == PLANTED


def test_influences_need_stored_activations_and_a_row_that_has_them() -> None:
    x, y = sides(8, 2)
    with pytest.raises(ValueError, match="n_units"):
        compare({"s": x}, {"s": y}, n_units=4, influence=True)
    row = compare({"s": x}, {"s": y}).to_pylist()[0]
    with pytest.raises(ValueError, match="influence=True"):
        influential_text(row, torch.zeros(8, 2), decode)


@pytest.mark.parametrize("setting", sorted(CROSSFIT))
def test_cross_fitted_measures_are_refused_with_influences(setting: str) -> None:
    x, y = sides(SEQUENCES, LENGTH)
    measures = [CKA(), make(setting)]
    with pytest.raises(ValueError, match=rf"cross-fitted measures \({make(setting).label}\): leave these"):
        compare({"s": x}, {"s": y}, measures=measures, influence=True)
    assert compare({"s": x}, {"s": y}, measures=measures).num_rows == 2


def test_error_bars_of_stored_activations_need_no_sums_per_unit() -> None:
    """At 512 features, sums per unit of 32 sequences took 17 times the memory of the moments."""
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(32, 4, 512, generator=g) for _ in range(2))
    plan = make_plan(ProbeSet(Extent(32, 4)), [CKA(), Procrustes()])
    sides = [
        ModelActivations(
            plan, ["s"], [({"s": side[start:stop]}, range(unit, unit + 1)) for start, stop, unit in plan.slices]
        )
        for side in (x, y)
    ]
    first, second = sides
    records = compare_pair(first, second, [("s", "s")], [CKA(), Procrustes()])
    assert all(record["stderr"] > 0 and record["n_units"] == 32 for record in records if record["site_a"] == "s")
    for side in sides:
        sums = [*side.side.sums.totals["s"].values(), *side.side.sequence_sums.totals["s"].values()]
        assert not side.side.sums.units["s"]
        assert sum(value.nbytes for value in sums) < 1.2 * 8 * 512**2
