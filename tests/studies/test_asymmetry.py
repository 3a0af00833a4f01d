"""Numbers of the study `asymmetry`, from records with planted answers, and the trainings that it needs."""

import json
from pathlib import Path
from typing import Any

import pytest

from studies.asymmetry.grid import common_steps, sweeps_of_size
from studies.asymmetry.numbers import claim_a, claim_b, claim_c, difference, paired_differences, with_self
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
    for seed in range(3):
        wobble = 0.01 * (seed - 1)
        records += [
            record("solu", seed, "gelu", seed, 0.25 + wobble),
            record("gelu", seed, "solu", seed, 0.2 + wobble / 2),
        ]
        records += [record("solu", seed, "solu", seed, 0.01), record("gelu", seed, "gelu", seed, 0.03)]
    return with_self(records)


def test_the_planted_asymmetry_is_found_and_its_sign_depends_on_the_reading() -> None:
    penalty, raw = (claim_a(planted(), FAMILIES, "sibling", reading) for reading in ("penalty", "loss_stitched"))
    assert penalty.mean == pytest.approx(0.05) and penalty.verdict == "holds"
    assert (penalty.pairs, penalty.cells, penalty.positive) == (3, 1, 1)
    assert raw.mean == pytest.approx(-0.05) and raw.verdict == "reversed"
    # minus each back model's self-stitch: 0.25 - 0.03 - (0.2 - 0.01)
    assert claim_a(planted(), FAMILIES, "sibling", "excess").mean == pytest.approx(0.03)


def test_each_difference_comes_with_the_gap_between_the_models_losses() -> None:
    differences = paired_differences(planted(), FAMILIES, "sibling", "penalty")
    assert [record["gap"] for record in differences] == pytest.approx([-0.1] * 3)


def test_claims_about_stitches_within_a_family() -> None:
    records = planted()
    assert claim_b(records, FAMILIES, "sibling", "penalty").mean == pytest.approx(0.02)
    assert claim_c(records, FAMILIES, "sibling", "penalty").mean == pytest.approx(0.17, abs=0.01)
    assert claim_c(records, FAMILIES, "sibling", "penalty").verdict == "holds"


def test_without_records_nothing_is_claimed() -> None:
    claim = claim_a(planted(), FAMILIES, "independent", "penalty")
    assert (claim.verdict, claim.pairs, claim.cells) == ("open", 0, 0)


def test_intervals_are_over_pairs_of_models_not_over_cells() -> None:
    """Many cells of two pairs do not make the interval narrow."""
    values = [(pair, (64, 2, f"site {cell}"), float(pair)) for pair in (0, 1) for cell in range(50)]
    mean = difference(values)
    assert mean.mean == 0.5 and (mean.low, mean.high) == (0.0, 1.0)


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
