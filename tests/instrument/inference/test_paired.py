"""Paired differences: their errors are those of repeated draws of text, and what cannot be paired is refused."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from dissimilarity import CKA, MutualKNN, Procrustes, changes, compare, compare_many, difference, select
from dissimilarity.functional import cka
from dissimilarity.inference.changes import holm, moves
from dissimilarity.inference.jackknife import influence_of_left_out, stderr_of_influence
from dissimilarity.tables.curves import SCHEMA, scale
from tests.instrument.tables.test_curves import row

SEQUENCES, LENGTH, WIDTH, TICKS = 32, 4, 6, 4
DRAWS = 30
Sites = dict[str, torch.Tensor]


def text(seed: int, change: float = 0.0) -> tuple[Sites, Sites]:
    """Return the activations of a model at several ticks, and of a reference, on one draw of text.

    At all ticks the model has the same distribution given the text, except that the last one is changed.
    """
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    scale_of_sequence = (draw(SEQUENCES, 1, 1) / 3).exp()
    meaning = scale_of_sequence * (draw(SEQUENCES, 1, WIDTH) + draw(SEQUENCES, LENGTH, WIDTH))
    noise = [0.2 * (1 + change * (tick == TICKS - 1)) for tick in range(TICKS)]
    ticks = {f"t{tick}": meaning + size * draw(SEQUENCES, LENGTH, WIDTH) for tick, size in enumerate(noise)}
    return ticks, {"reference": meaning + 0.5 * scale_of_sequence * draw(SEQUENCES, LENGTH, WIDTH)}


@cache
def compared(seed: int, change: float = 0.0) -> pa.Table:
    """Return curves of two measures, with the ticks as steps."""
    ticks, reference = text(seed, change)
    records = compare(ticks, reference, measures=[CKA(), Procrustes()], null=False).to_pylist()
    curves = [
        {**record, "step": int(record["site_a"][1:]), "reference": "r", "site_a": "s", "site_b": "s"}
        for record in records
    ]
    return pa.Table.from_pylist(curves)


def test_the_error_of_a_difference_is_the_jackknife_of_the_difference() -> None:
    ticks, reference = text(0)
    table = compare(ticks, reference, measures=[CKA()], n_units=8, null=False)
    sequence = torch.arange(SEQUENCES)

    def left_out(tick: str) -> torch.Tensor:
        values = []
        for unit in range(8):
            remaining = sequence // (SEQUENCES // 8) != unit
            units = torch.arange(int(remaining.sum())).repeat_interleave(LENGTH)
            x, y = (side[remaining].flatten(0, 1) for side in (ticks[tick], reference["reference"]))
            values.append(1 - cka(x, y, units=units))
        return torch.stack(values)

    result = difference(select(table, site_a="t1"), select(table, site_a="t0")).to_pylist()[0]
    expected = stderr_of_influence(influence_of_left_out(left_out("t1") - left_out("t0"))).item()
    assert result["stderr"] == pytest.approx(expected, rel=1e-4)
    assert result["high"] - result["low"] == pytest.approx(2 * 2.3646 * expected, rel=1e-3)
    values = dict(zip(table["site_a"].to_pylist(), table["dissimilarity"].to_pylist(), strict=True))
    assert result["difference"] == pytest.approx(values["t1"] - values["t0"])
    assert result["measure"] == "cka" and result["site_b"] == "reference" and "site_a" not in result


def test_paired_errors_are_those_of_repeated_draws_and_far_smaller_than_two_bands() -> None:
    for measure in ("cka", "procrustes"):
        gaps, paired, unpaired = [], [], []
        for seed in range(DRAWS):
            table = select(compared(seed), measure=measure)
            first, second = (select(table, step=step) for step in (1, 0))
            result = difference(first, second).to_pylist()[0]
            gaps.append(result["difference"])
            paired.append(result["stderr"])
            unpaired.append(math.hypot(*(part["stderr"][0].as_py() for part in (first, second))))
        ratio = np.sqrt(np.mean(np.square(paired))) / np.std(gaps, ddof=1)
        # With 32 sequences a jackknife may err to the safe side, because it counts twice what depends on two of them.
        # The standard deviation of 30 draws is known to 13%.
        assert 0.75 < ratio < 1.6, (measure, ratio)
        assert np.mean(np.abs(gaps) / paired > 2.131) < 0.14, measure
        assert np.mean(unpaired) > 3 * np.mean(paired), measure


def test_a_curve_moves_where_it_was_changed_and_rarely_elsewhere() -> None:
    still = [step is not None for seed in range(DRAWS) for step in moves(compared(seed)).values()]
    assert np.mean(still) <= 0.09
    moved = [step for seed in range(10) for step in moves(compared(seed, change=4.0)).values()]
    assert np.mean([step == TICKS - 1 for step in moved]) >= 0.9


def test_identical_ticks_do_not_move_and_have_p_1() -> None:
    ticks, _ = text(0)
    same = {"t0": ticks["t0"], "t1": ticks["t0"], "t2": ticks["t0"] * (1 + 1e-9)}
    table = compare(same, {"t0": ticks["t0"]}, measures=[CKA(), Procrustes(), MutualKNN(k=5)], null=False)
    for site in ("t1", "t2"):
        result = difference(select(table, site_a=site), select(table, site_a="t0"))
        assert result["p"].to_pylist() == [1.0] * 3
        assert np.abs(result["difference"].to_numpy()).max() < 1e-6
    rows = [row(step, value=0.5, dissimilarity=0.5, influence=[0.25, -0.25, 0.0]) for step in range(5)]
    assert list(moves(pa.Table.from_pylist(rows, schema=SCHEMA)).values()) == [None]


def test_an_error_of_zero_is_no_evidence() -> None:
    rows = [row(step, influence=[0.1, 0.2, -0.3]) for step in (0, 3)]
    result = difference(*(pa.Table.from_pylist([each]) for each in rows)).to_pylist()[0]
    assert result["difference"] == pytest.approx(-3 / 7) and result["stderr"] == 0 and math.isnan(result["p"])


def test_missing_values_stay_missing() -> None:
    rows = [row(0), row(1), row(2, value=math.nan, dissimilarity=math.nan, influence=[]), row(4)]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    result = difference(select(table, step=2), select(table, step=0)).to_pylist()[0]
    assert all(math.isnan(result[name]) for name in ("difference", "stderr", "low", "high", "p"))
    assert changes(table)["step"].to_pylist() == [1, 4] and set(changes(table)["since"].to_pylist()) == {0}
    later = pa.Table.from_pylist([rows[2] | {"step": 0}, *rows[1:]], schema=SCHEMA)
    assert set(changes(later)["since"].to_pylist()) == {1}, "the first tick with a value"
    other = pa.Table.from_pylist([rows[0], row(1, probe="other"), row(4)], schema=SCHEMA)
    assert changes(other)["step"].to_pylist() == [4], "another probe set cannot be paired"
    assert moves(SCHEMA.empty_table()) == {} and changes(SCHEMA.empty_table()).num_rows == 0


def test_holm_is_the_step_down_procedure() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = rng.uniform(size=rng.integers(1, 9)) ** 3
        rejected = np.zeros(len(p), bool)
        for rank, index in enumerate(np.argsort(p)):
            if p[index] >= 0.05 / (len(p) - rank):
                break
            rejected[index] = True
        assert ((holm(p) < 0.05) == rejected).all()
    assert holm(np.array([])).tolist() == []


def curve(step: int, **other: Any) -> pa.Table:
    return pa.Table.from_pylist([row(step, a, a, **other) for a in (0, 1)], schema=SCHEMA)


def two_runs() -> tuple[pa.Table, pa.Table]:
    first, second = (
        pa.Table.from_pylist([row(step, reference=label) for step in (0, 1, last) for label in ("init", "previous")])
        for last in (4, 5)
    )
    return first, second


PAIRED: dict[str, tuple[Callable[[], tuple[pa.Table, pa.Table]], int]] = {
    "two ticks": (lambda: (curve(3), curve(1)), 2),
    "two references": (lambda: (curve(3, reference="init"), curve(3, reference="runs/a")), 2),
    "two sites": (lambda: (curve(3).slice(0, 1), curve(3).slice(1, 1)), 1),
    "two estimators": (lambda: (curve(3), curve(3, measure="cka_sample")), 2),
    "two estimators of a square": (
        lambda: (
            curve(3, measure="distance_correlation_debiased"),
            curve(3, measure="distance_correlation_debiased_sample"),
        ),
        2,
    ),
    "two runs of other schedules": (two_runs, 4),
}


@pytest.mark.parametrize("name", PAIRED)
def test_rows_are_paired_by_what_they_share(name: str) -> None:
    sides, count = PAIRED[name]
    assert difference(*sides()).num_rows == count


def test_pairs_of_models_are_paired() -> None:
    """A table of ``compare_many``: one model with two others."""
    ticks, reference = text(0)
    models: Any = {"r": {"s": reference["reference"]}, "a": {"s": ticks["t0"]}, "b": {"s": ticks["t0"] * 2}}
    table = compare_many(models, measures=[CKA()], null=False)
    result = difference(select(table, model_a="r", model_b="a"), select(table, model_a="r", model_b="b")).to_pylist()
    assert len(result) == 1 and result[0]["model_a"] == "r" and result[0]["p"] == 1.0


REFUSED: dict[str, tuple[Callable[[], tuple[pa.Table, pa.Table]], str]] = {
    "probe sets": (lambda: (curve(1, probe="x"), curve(2)), "rows of one probe set, found x and ab12: .* n_units"),
    "units": (lambda: (curve(1, influence=[0.5, 0.5]), curve(2)), "rows of the same units, found 2 and 3 units"),
    "scales": (lambda: (curve(1), curve(1, measure="procrustes")), "measures on one scale, found cka and procrustes"),
    "a root and a square": (
        lambda: (curve(1, measure="distance_correlation"), curve(1, measure="distance_correlation_debiased")),
        "measures on one scale, found distance_correlation and distance_correlation_debiased",
    ),
    "nothing in common": (
        lambda: (two_runs()[0], curve(9)),
        "equal values of step on both sides, or one value on each, found 0, 1, 4 and 9; select one of each",
    ),
    "several rows": (
        lambda: (pa.concat_tables([curve(1), curve(1)]), curve(2)),
        "one row per .* on the first side, found several, and they differ in none of the columns; select fewer rows",
    ),
    "no rows": (lambda: (curve(1), curve(2).slice(0, 0)), "on the second side, found 0 rows"),
    "no influences": (lambda: (curve(1), curve(2).drop_columns(["influence"])), "influence on the second side"),
    "no partners": (
        lambda: (
            pa.concat_tables([curve(1).slice(0, 1), curve(2).slice(1, 1)]),
            pa.concat_tables([curve(2).slice(0, 1), curve(1).slice(1, 1)]),
        ),
        "rows with the same .* on both sides, found none",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_paired_is_refused(name: str) -> None:
    sides, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        difference(*sides())


def test_probe_sets_have_fingerprints() -> None:
    """The same sequences in the same units, whatever else differs."""
    embedding = torch.nn.Sequential(torch.nn.Embedding(9, 4))
    tokens = torch.randint(9, (16, 5), generator=torch.Generator().manual_seed(0))

    def probe(tokens: torch.Tensor, **options: Any) -> str:
        table = compare(embedding, embedding, tokens, "0", measures=[CKA()], null=False, **options)
        return table["probe"][0].as_py()

    assert probe(tokens) == probe(tokens.int()) == probe(tokens, mask=torch.ones(16, 5, dtype=torch.bool))
    assert len({probe(tokens), probe(tokens.flip(0)), probe(tokens, n_units=4), probe(tokens[:, :4])}) == 4
    assert set(compared(0)["probe"].to_pylist()) == {""}


def test_the_sign_of_a_dissimilarity_is_found_in_the_table() -> None:
    for measure, slope in (("cka", -1.0), ("procrustes", 1.0)):
        assert scale(select(compared(0), measure=measure))[0] == slope


def test_changes_are_of_curves() -> None:
    with pytest.raises(ValueError, match=r"found a table without step; pass read_curves\(FOLDER\)"):
        changes(curve(1).drop_columns(["step"]))
