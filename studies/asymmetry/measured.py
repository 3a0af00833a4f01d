"""Measurements of the study `asymmetry`: stitches in both directions, identity stitches, loss barriers."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from torch import nn

from dissimilarity.stitching import barrier
from studies.asymmetry.numbers import Record
from studies.asymmetry.stitches import HeldOutText, ModelAtStep, Stitches, kinship


def main_records(
    models: Sequence[Sequence[ModelAtStep]], families: Sequence[str], stitches: Stitches, terminal: Console
) -> list[Record]:
    """Measure all stitches between models of equal shape: direct at every step, trained at the last.

    Args:
        models: for each run, the model at each of its steps.
        families: the two families that are compared.
        stitches: measures stitches, or reads them from the journal.
        terminal: shows progress.
    """
    jobs = []
    for fronts in models:
        for backs in models:
            if fronts[0].shape == backs[0].shape:
                jobs += [(front, back) for front, back in zip(fronts, backs, strict=True)]
    records: list[Record] = []
    initial_nets: dict[str, nn.Module] = {}
    seeds = sorted({model.init_seed for model in (steps[0] for steps in models)})
    for number, (front, back) in enumerate(jobs, 1):
        with terminal.status(
            escape(f"stitching {front.run} into {back.run}, step {back.step} ({number} of {len(jobs)})")
        ):
            records += stitches.direct(front, back, "affine", [(site, site) for site in back.sites])
            if not back.last or not _is_trained(front, back, families, seeds):
                continue
            for site in back.sites[:-1]:
                records += stitches.trained(front, back, "task", site)
                records += stitches.trained(front, back, "paper", site)
                if kinship(front, back) != "self" and front.family != back.family:
                    if front.run not in initial_nets:
                        initial_nets[front.run] = front.initial_net()
                    records += stitches.nulls(front, back, initial_nets[front.run], site)
    return records


def _is_trained(front: ModelAtStep, back: ModelAtStep, families: Sequence[str], seeds: list[int]) -> bool:
    """Return whether the stitches of a pair are trained.

    Stitches are trained for each model with itself, its sibling and one independent model of either family. Every model
    is then in the same number of pairs, and each pair is trained in both directions or in neither.
    """
    across = front.family == families[1] and back.family == families[0]
    first, second = (back, front) if across else (front, back)
    return (seeds.index(first.init_seed) - seeds.index(second.init_seed)) % len(seeds) in (0, 1)


def identity_records(models: Sequence[ModelAtStep], stitches: Stitches, terminal: Console) -> list[Record]:
    """Measure identity stitches across the layers of each model, and between siblings."""
    records: list[Record] = []
    with terminal.status("identity stitches"):
        for model in models:
            records += stitches.direct(model, model, "identity", [(a, b) for a in model.sites for b in model.sites])
            for other in models:
                if kinship(model, other) == "sibling" and model.shape == other.shape:
                    records += stitches.direct(model, other, "identity", [(site, site) for site in model.sites])
    return records


def barrier_records(
    models: Sequence[ModelAtStep], reordered: Sequence[ModelAtStep], text: HeldOutText, terminal: Console
) -> list[Record]:
    """Measure loss barriers on the line between models of one family.

    Args:
        models: the models of the study at their end.
        reordered: siblings of some of them that read the text in another order.
        text: losses are measured on its held-out part.
        terminal: shows progress.
    """
    records = []
    with terminal.status("barriers"):
        for sibling in reordered:
            for model in models:
                if (model.family, model.shape) == (sibling.family, sibling.shape):
                    peak = barrier(model.net, sibling.net, text.held_out)
                    names = {"a": model.run, "b": sibling.run, "family": model.family}
                    values = {"barrier": peak.value, "stderr": peak.stderr, "at": peak.at}
                    records.append({**names, "kinship": kinship(model, sibling), **values})
    return records
