"""Stitches between models of two families whose penalties depend on the models, their seeds and the pair."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.verdicts.verdict import Verdict
from studies.asymmetry.capacity import over_families
from studies.asymmetry.numbers import (
    at_equal_losses,
    claim_a,
    claim_b,
    claim_c,
    paired_differences,
)
from studies.common.jackknife import LEVEL

FAMILIES = ("solu", "gelu")
SEEDS, SITES = 5, ("blocks.0.resid_post", "blocks.1.resid_post")
MODEL, SEED, PAIR, LOSS = 0.05, 0.03, 0.03, 0.05
"""Standard deviations in nats: what a model, a seed and a pair add to a stitched loss, and a model's own loss."""

Added = Callable[[str, str], float]
"""Returns what is added to a stitch by the families of its front and back."""


def stitches(rng: np.random.Generator, added: Added, is_ring: bool = False) -> list[dict[str, Any]]:
    """Return the records of every stitch between the models of two families, and of each model with itself.

    Args:
        rng: draws everything.
        added: the planted effect.
        is_ring: whether each model has one independent partner per family, as trained stitches do, or all of them.
    """
    places = [(family, seed) for family in FAMILIES for seed in range(SEEDS)]
    shared = rng.normal(0, SEED, (2, SEEDS))
    front, back = (dict(zip(places, rng.normal(0, MODEL, len(places)), strict=True)) for _ in range(2))
    own = {place: 4 + rng.normal(0, LOSS) for place in places}
    records = []
    for a in places:
        for b in places:
            kinship = "self" if a == b else "sibling" if a[1] == b[1] else "independent"
            if is_ring and (a[1] - b[1]) % SEEDS not in (0, 1 if a[0] == FAMILIES[0] else SEEDS - 1):
                continue
            for site in SITES:
                of_models = front[a] + back[b] + shared[0, a[1]] + shared[1, b[1]]
                loss = 4.3 + of_models + rng.normal(0, PAIR) + added(a[0], b[0])
                records.append(_record(a, b, kinship, site, loss, own))
    return records


def _record(a: Any, b: Any, kinship: str, site: str, loss: float, own: Any) -> dict[str, Any]:
    sides = {
        key: value
        for side, (family, seed) in (("front", a), ("back", b))
        for key, value in (
            (side, f"{family}-{seed}"),
            (f"family_{side}", family),
            (f"init_seed_{side}", seed),
            (f"loss_{side}", own[family, seed]),
        )
    }
    place = {"width_back": 64, "depth": 3, "site": site, "kinship": kinship, "step": 10, "last": True}
    return {**sides, **place, "loss_stitched": loss, "penalty": loss - own[b]}


def _one_way(effect: float) -> Added:
    return lambda front, back: effect * ((front, back) == FAMILIES)


def _within_second(effect: float) -> Added:
    return lambda front, back: effect * (front == back == FAMILIES[1])


def _across(effect: float) -> Added:
    return lambda front, back: effect * (front != back)


def _other_way(effect: float) -> Added:
    """One direction costs more in any case, so that the claim about both rests on the other."""
    return lambda front, back: 0.15 * ((front, back) == FAMILIES) + effect * ((back, front) == FAMILIES)


def _claims(claim: Any, added: Callable[[float], Added], kinship: str, is_ring: bool = False) -> Any:
    def simulate(rng: np.random.Generator, effect: float) -> bool:
        records = stitches(rng, added(effect), is_ring)
        return claim(records, FAMILIES, kinship, "loss_stitched").verdict in ("holds", "reversed")

    return simulate


def _equal_losses(rng: np.random.Generator, effect: float) -> bool:
    records = stitches(rng, _one_way(effect))
    line = at_equal_losses(paired_differences(records, FAMILIES, "independent", "penalty"))
    return line.low > 0 or line.high < 0


def _capacity(rng: np.random.Generator, effect: float) -> bool:
    """Draw five families of five models: families differ in sparsity and in penalty, related by the effect."""
    models = []
    for family in range(5):
        sparsity = rng.normal()
        penalty = effect * sparsity + rng.normal()
        models += [
            {"family": family, "sparsity": sparsity + 0.2 * x, "into_base": penalty + 0.2 * y}
            for x, y in rng.normal(size=(5, 2))
        ]
    return over_families(models, "sparsity", "into_base")[1] < LEVEL


VERDICTS = (
    Verdict("asymmetry", "A, independent models", _claims(claim_a, _one_way, "independent"), 0.15),
    Verdict("asymmetry", "A, one partner per model", _claims(claim_a, _one_way, "independent", is_ring=True), 0.15),
    Verdict("asymmetry", "A, siblings", _claims(claim_a, _one_way, "sibling"), 0.15),
    Verdict("asymmetry", "B, independent models", _claims(claim_b, _within_second, "independent"), 0.15),
    Verdict("asymmetry", "C, independent models", _claims(claim_c, _across, "independent"), 0.15),
    Verdict("asymmetry", "C, one direction costs more", _claims(claim_c, _other_way, "independent"), 0.15),
    Verdict("asymmetry", "C, siblings", _claims(claim_c, _across, "sibling"), 0.15),
    Verdict("asymmetry", "A at equal losses", _equal_losses, 0.15),
    Verdict("asymmetry", "capacity", _capacity, 5.0),
)
