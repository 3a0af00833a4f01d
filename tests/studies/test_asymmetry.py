"""Numbers of the study `asymmetry`, from records with planted answers, and the trainings that it needs."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from studies.asymmetry.capacity import over_families
from studies.asymmetry.differences import Term, difference
from studies.asymmetry.grid import common_steps, sweeps_of_size
from studies.asymmetry.numbers import (
    Primary,
    claim_a,
    claim_b,
    claim_c,
    claim_c_by_direction,
    paired_differences,
    primary_claim,
    with_self,
)
from studies.common.format import interval
from studies.common.resampling import rank_correlation
from studies.common.trainings import unfinished

FAMILIES = ("solu", "gelu")
SIZE = {"widths": [64], "depths": [2, 3], "seeds": [0, 1, 2], "narrow": 32, "train": ["trainer.max_steps=5"]}
OWN = {"solu": 4.0, "gelu": 3.9}


def record(front: str, a: int, back: str, b: int, penalty: float, site: str = "blocks.0.resid_post") -> dict[str, Any]:
    kinship = "self" if (front, a) == (back, b) else "sibling" if a == b else "independent"
    return {
        "front": f"{front}-{a}",
        "back": f"{back}-{b}",
        "family_front": front,
        "family_back": back,
        "width_front": 64,
        "width_back": 64,
        "depth": 2,
        "init_seed_front": a,
        "init_seed_back": b,
        "kinship": kinship,
        "step": 10,
        "last": True,
        "site": site,
        "back_site": site,
        "kind": "affine",
        "fit": "direct",
        "penalty": penalty,
        "loss_front": OWN[front],
        "loss_back": OWN[back],
        "loss_stitched": OWN[back] + penalty,
    }


def planted() -> list[dict[str, Any]]:
    """Return records: solu -> gelu costs 0.05 more than back as a penalty, 0.05 less as a raw loss (0.05 - 0.1)."""
    records = []
    for seed in range(5):
        wobble = 0.01 * (seed - 2)
        records += [
            record("solu", seed, "gelu", seed, 0.25 + wobble),
            record("gelu", seed, "solu", seed, 0.2 + wobble / 2),
        ]
        records += [record("solu", seed, "solu", seed, 0.01), record("gelu", seed, "gelu", seed, 0.03)]
    return with_self(records)


def test_the_planted_asymmetry_is_found_and_its_sign_depends_on_the_reading() -> None:
    penalty, raw = (claim_a(planted(), FAMILIES, "sibling", reading) for reading in ("penalty", "loss_stitched"))
    assert penalty.mean == pytest.approx(0.05) and penalty.verdict == "holds"
    assert (penalty.models, penalty.cells, penalty.positive) == (5, 1, 1)
    assert raw.mean == pytest.approx(-0.05) and raw.verdict == "reversed"
    # minus each back model's self-stitch: 0.25 - 0.03 - (0.2 - 0.01)
    assert claim_a(planted(), FAMILIES, "sibling", "excess").mean == pytest.approx(0.03)


def test_each_difference_comes_with_the_gap_between_the_models_losses() -> None:
    differences = paired_differences(planted(), FAMILIES, "sibling", "penalty")
    assert [record["gap"] for record in differences] == pytest.approx([-0.1] * 5)


def test_claims_about_stitches_within_a_family() -> None:
    records = planted()
    assert claim_b(records, FAMILIES, "sibling", "penalty").mean == pytest.approx(0.02)
    there, back = claim_c_by_direction(records, FAMILIES, "sibling", "penalty")
    both = claim_c(records, FAMILIES, "sibling", "penalty")
    assert (there.mean, back.mean, both.mean) == pytest.approx((0.22, 0.17, 0.17))
    assert (both.low, both.high, both.verdict) == (back.low, there.high, "holds")


def test_claim_c_takes_both_directions() -> None:
    """One direction that costs more and one that costs less are no claim, whatever their mean."""
    records = planted()
    for entry in records:
        if (entry["family_front"], entry["family_back"]) == ("gelu", "solu"):
            entry["penalty"] -= 0.25
    assert [claim.verdict for claim in claim_c_by_direction(records, FAMILIES, "sibling", "penalty")] == [
        "holds",
        "reversed",
    ]
    assert claim_c(records, FAMILIES, "sibling", "penalty").verdict == "open"


def test_fewer_than_five_models_per_family_have_values_and_no_verdict() -> None:
    claim = claim_a([entry for entry in planted() if entry["init_seed_back"] < 4], FAMILIES, "sibling", "penalty")
    assert claim.mean == pytest.approx(0.0475) and math.isnan(claim.low) and claim.verdict == "no verdict"
    assert interval(claim) == "+0.047 (4 seeds: no interval)"


def test_the_primary_claim_is_at_its_layer() -> None:
    later = [
        record(*entry, site="blocks.1.resid_post")
        for entry in (("solu", 0, "gelu", 0, 0.9), ("gelu", 0, "solu", 0, 0.2))
    ]
    records = with_self([*planted(), *later])
    for layer, mean in (("blocks.0.resid_post", 0.05), ("blocks.1.resid_post", 0.7), ("all", 0.375)):
        primary = Primary("sibling", "direct", "penalty", layer)
        assert primary_claim(records, FAMILIES, primary).mean == pytest.approx(mean)
    with pytest.raises(ValueError, match="study.primary_layer=blocks.9: expected all, or a layer with direct stitches"):
        primary_claim(records, FAMILIES, Primary("sibling", "direct", "penalty", "blocks.9"))


def test_without_records_nothing_is_claimed() -> None:
    claim = claim_a(planted(), FAMILIES, "independent", "penalty")
    assert (claim.verdict, claim.models, claim.cells) == ("no verdict", 0, 0)


def test_intervals_are_those_of_the_t_tests_over_models_whatever_the_number_of_cells() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=5), rng.normal(1, 2, 7)
    cells = [(64, 2, f"site {number}") for number in range(50)]
    one = difference([Term((("a", 64, 2, str(n)),), cell, x) for n, x in enumerate(first) for cell in cells])
    test = stats.ttest_1samp(first, 0)
    assert (one.low, one.high) == pytest.approx(test.confidence_interval()) and one.p == pytest.approx(
        stats.ttest_1samp(first, 0)[1]
    )
    sides = [
        [Term(((s, 64, 2, str(n)),), cells[0], x) for n, x in enumerate(xs)]
        for s, xs in zip("ab", (first, second), strict=True)
    ]
    two, welch = difference(*sides), stats.ttest_ind(first, second, equal_var=False)
    assert (two.low, two.high) == pytest.approx(welch.confidence_interval()) and two.p == pytest.approx(welch[1])


def test_the_correlations_of_capacity_permute_families() -> None:
    """Thirty models of four families are four points."""
    models = [
        {"family": f"f{family}", "sparsity": family + 0.01 * seed, "into_base": family**2 + 0.02 * seed}
        for family in range(4)
        for seed in range(8)
    ]
    rho, p = over_families(models, "sparsity", "into_base")
    assert rho == pytest.approx(1) and p == pytest.approx(2 / math.factorial(4))


def test_rank_correlation() -> None:
    rho, p = rank_correlation([1, 2, 3, 4, 5, 6, 7], [1, 4, 9, 16, 25, 36, 49], 999, min_points=4)
    assert rho == pytest.approx(1) and p < 0.01


def test_the_trainings_of_a_size(tmp_path: Path) -> None:
    sweeps = sweeps_of_size(SIZE, FAMILIES, ("relu",))
    assert len(sweeps["main"].names) == 12 and sweeps["main"].names[0] == "solu-w64-d2-s0"
    assert sweeps["narrow"].names == [f"gelu-w32-d3-s{seed}" for seed in range(3)]
    assert sweeps["orders"].names == ["solu-w64-d3-s0-o1", "gelu-w64-d3-s0-o1"]
    command = sweeps["orders"].command(tmp_path)
    assert "data_seed=1" in command and "model=solu,gelu" in command and "trainer.max_steps=5" in command
    done = tmp_path / "gelu-w32-d3-s1"
    done.mkdir()
    (done / "summary.json").write_text(json.dumps({"status": "finished"}))
    assert unfinished(sweeps["narrow"], tmp_path) == ["gelu-w32-d3-s0", "gelu-w32-d3-s2"]


def test_points_of_training_are_those_that_all_runs_have(tmp_path: Path) -> None:
    for name, steps in (("a", (0, 1, 2, 4, 8, 16, 20)), ("b", (0, 2, 4, 8, 20))):
        folder = tmp_path / name / "checkpoints"
        folder.mkdir(parents=True)
        for step in steps:
            (folder / f"step_{step:07d}.ckpt").touch()
    assert common_steps(tmp_path, ["a", "b"], 3) == [4, 8, 20]
