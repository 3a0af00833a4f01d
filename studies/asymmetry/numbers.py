"""Numbers of the study `asymmetry`: differences between the two directions, their intervals, and the paper's claims.

Models are the unit. Independent models are units of their family; siblings share weights and text, so that the models
of one seed are one unit.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from studies.asymmetry.differences import Cell, Difference, Term, Unit, difference, over_models
from studies.common.jackknife import Interval

Record = dict[str, Any]

READINGS = {"loss_stitched": "raw loss", "penalty": "penalty", "excess": "penalty minus self"}
CRITERIA = (
    ("paper", "loss_stitched"),
    ("paper", "penalty"),
    ("task", "penalty"),
    ("task", "excess"),
    ("direct", "penalty"),
    ("direct", "excess"),
)
"""Pairs of fit and reading, the paper's first."""
KINSHIPS = ("sibling", "independent")


@dataclass(frozen=True)
class Primary:
    """The claim that is tested; it is chosen before there are results, and everything else is exploratory.

    Attributes:
        kinship, fit, reading: of claim A.
        layer: a site, or `all` for the mean over layers.
    """

    kinship: str
    fit: str
    reading: str
    layer: str

    @property
    def where(self) -> str:
        """Return the layer in words."""
        return "over all layers" if self.layer == "all" else f"at {self.layer}"


def with_self(records: Sequence[Record]) -> list[Record]:
    """Add the self-stitch penalties of both models to each record, and the penalty minus that of the back model.

    A record is matched with self-stitches of the same kind, fit, site and step.
    """
    penalties = {
        (record["back"], record["step"], record["fit"], record["kind"], record["back_site"]): record["penalty"]
        for record in records
        if record["front"] == record["back"] and record["site"] == record["back_site"]
    }

    def self_penalty(record: Record, side: str, site: str) -> float:
        key = (record[side], record["step"], record["fit"], record["kind"], record[site])
        return penalties.get(key, math.nan)

    extended = []
    for record in records:
        back, front = self_penalty(record, "back", "back_site"), self_penalty(record, "front", "site")
        extended.append({**record, "self_back": back, "self_front": front, "excess": record["penalty"] - back})
    return extended


def select(records: Iterable[Record], **values: Any) -> list[Record]:
    """Return the records with these values.

    Examples:
        >>> select([{"fit": "task"}, {"fit": "direct"}], fit="task")
        [{'fit': 'task'}]
    """
    return [record for record in records if all(record[key] == value for key, value in values.items())]


def same_shape(records: Iterable[Record], fit: str) -> list[Record]:
    """Return the records of one fit between models of equal width and depth, at equal sites."""
    return [
        record
        for record in records
        if record["fit"] == fit
        and record["kind"] != "identity"
        and record["width_front"] == record["width_back"]
        and record["site"] == record["back_site"]
    ]


def cell_of(record: Record) -> Cell:
    """Return the cell of a record."""
    return record["width_back"], record["depth"], record["site"]


def layer_of(site: str) -> int:
    """Return the number of a site's block.

    Examples:
        >>> layer_of("blocks.3.resid_post")
        3
    """
    return int(site.split(".")[1])


def paired_differences(records: Sequence[Record], families: Sequence[str], kinship: str, reading: str) -> list[Record]:
    """Return first -> second minus second -> first per pair of models, site and step, with the gap of their losses."""
    by_direction = {
        (record["front"], record["back"], record["site"], record["step"]): record
        for record in records
        if record["kinship"] == kinship
    }
    differences = []
    for (front, back, site, step), record in by_direction.items():
        reverse = by_direction.get((back, front, site, step))
        if (record["family_front"], record["family_back"]) == tuple(families) and reverse is not None:
            differences.append(
                {
                    "units": units_of(record),
                    "cell": cell_of(record),
                    "step": step,
                    "last": record["last"],
                    "difference": record[reading] - reverse[reading],
                    # The gap between the two back models is the part of a raw loss that is not due to the stitch.
                    "gap": record["loss_back"] - reverse["loss_back"],
                }
            )
    return differences


def terms_of(differences: Sequence[Record]) -> list[Term]:
    """Return records of `paired_differences` as terms."""
    return [Term(record["units"], record["cell"], record["difference"]) for record in differences]


def units_of(record: Record) -> tuple[Unit, ...]:
    """Return the independent models of a stitch: the two models, or the seed that siblings have in common."""
    shape = record["width_back"], record["depth"]
    if record["kinship"] != "independent":
        return (("", *shape, str(record["init_seed_back"])),)
    return tuple((record[f"family_{side}"], *shape, record[side]) for side in ("front", "back"))


def at_equal_losses(differences: Sequence[Record]) -> Interval:
    """Return the asymmetry that remains where neither model is better, from records of `paired_differences`.

    It is the value at 0 of the least-squares line of the asymmetry on the gap between the two models' own losses. The
    slope says nothing: penalties contain these losses.
    """
    points = np.array([[record["gap"], record["difference"]] for record in differences])

    def intercept(chosen: np.ndarray) -> float:
        gaps, values = points[chosen].T
        if chosen.sum() < 3 or np.ptp(gaps) == 0:
            return math.nan
        centered = gaps - gaps.mean()
        return float(values.mean() - gaps.mean() * (centered @ values) / (centered @ centered))

    return over_models([record["units"] for record in differences], intercept)


def claim_a(records: Sequence[Record], families: Sequence[str], kinship: str, reading: str) -> Difference:
    """Return how much more first -> second costs than second -> first."""
    differences = paired_differences(records, families, kinship, reading)
    return difference(terms_of(differences))


def claim_b(records: Sequence[Record], families: Sequence[str], kinship: str, reading: str) -> Difference:
    """Return how much more stitches within the second family cost than those within the first.

    For siblings, each model is stitched to itself. For independent models, these are different models of one family.
    """
    first, second = (_terms(records, family, family, kinship, reading) for family in families)
    return difference(second, first)


def claim_c(records: Sequence[Record], families: Sequence[str], kinship: str, reading: str) -> Difference:
    """Return how much more stitches across families cost than those within the second family.

    The claim is about both directions, so it holds only if it holds for each: the interval reaches from the lower end
    of one to the upper end of the other, and the estimate is that of the cheaper direction.
    """
    directions = claim_c_by_direction(records, families, kinship, reading)
    cheaper = min(directions, key=lambda direction: direction.mean)
    ends = [(direction.low, direction.high, direction.p) for direction in directions]
    low, high, p = (choose(values) for choose, values in zip((min, max, max), zip(*ends, strict=True), strict=True))
    return replace(cheaper, low=low, high=high, p=p)


def claim_c_by_direction(
    records: Sequence[Record], families: Sequence[str], kinship: str, reading: str
) -> tuple[Difference, Difference]:
    """Return claim C for first -> second, then for second -> first."""
    first, second = families
    within = _terms(records, second, second, kinship, reading)
    there, back = (
        difference(_terms(records, *pair, kinship, reading), within) for pair in ((first, second), (second, first))
    )
    return there, back


CLAIMS: dict[str, tuple[str, Callable[[Sequence[Record], Sequence[str], str, str], Difference]]] = {
    "A": ("{0} -> {1} costs more than {1} -> {0}", claim_a),
    "B": ("{1} -> {1} costs more than {0} -> {0}", claim_b),
    "C": ("both directions across families cost more than {1} -> {1}", claim_c),
}


def all_claims(records: Sequence[Record], families: Sequence[str]) -> dict[tuple[str, str, str, str], Difference]:
    """Return the difference at the end of training by (claim, kinship, fit, reading)."""
    at_end = {fit: select(same_shape(records, fit), last=True) for fit, _ in CRITERIA}
    return {
        (name, kinship, fit, reading): claim(at_end[fit], families, kinship, reading)
        for name, (_, claim) in CLAIMS.items()
        for kinship in KINSHIPS
        for fit, reading in CRITERIA
    }


def primary_claim(records: Sequence[Record], families: Sequence[str], primary: Primary) -> Difference:
    """Return claim A at the end of training by the primary criterion.

    Raises:
        ValueError: Nothing was stitched at the primary layer.
    """
    at_end = select(same_shape(records, primary.fit), last=True)
    sites = list(dict.fromkeys(record["site"] for record in at_end))
    if primary.layer not in ("all", *sites):
        raise ValueError(
            f"study.primary_layer={primary.layer}: expected all, or a layer with {primary.fit} stitches: "
            f"{', '.join(sites) or 'there is none'}"
        )
    chosen = at_end if primary.layer == "all" else select(at_end, site=primary.layer)
    return claim_a(chosen, families, primary.kinship, primary.reading)


def _terms(records: Sequence[Record], front: str, back: str, kinship: str, reading: str) -> list[Term]:
    """Return the stitches from one family into another; within a family, self-stitches stand for siblings."""
    kind = "self" if front == back and kinship == "sibling" else kinship
    chosen = select(records, family_front=front, family_back=back, kinship=kind)
    return [Term(units_of(record), cell_of(record), record[reading]) for record in chosen]
