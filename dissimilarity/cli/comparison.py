"""Run ``dissimilarity compare``: load, compare, say what came out, and write files."""

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from torch import nn

from dissimilarity.capture.call import call
from dissimilarity.capture.forward import undisturbed
from dissimilarity.capture.hooks import device_of
from dissimilarity.capture.site_names import matched_pairs
from dissimilarity.capture.sites import site_table
from dissimilarity.cli.output import show, write
from dissimilarity.cli.places import Place
from dissimilarity.cli.probe_text import Probe, probe_of
from dissimilarity.cli.result import Comparison
from dissimilarity.cli.sides import Side, open_side
from dissimilarity.cli.verdict import sites_in_words
from dissimilarity.comparison.compare import compare
from dissimilarity.comparison.elementwise import Differences
from dissimilarity.comparison.in_step import compare_in_step
from dissimilarity.comparison.saved import open_source, sites_of
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.catalog import measure_classes
from dissimilarity.moments.cross import SitePair
from dissimilarity.probe.steps import NotInStepsError
from dissimilarity.tables.result import AnyTable


def run_compare(options: argparse.Namespace, places: Sequence[Place]) -> bool:
    """Compare two models as the command line says, and return whether they differ by more than it allows.

    Args:
        options: the command line.
        places: where the two are.

    Raises:
        ValueError: something on the command line cannot be had, and what to type; or no layer has a value.
    """
    limits = dict(options.fail_over)
    by_name = _measures([*options.measures, *limits])
    if options.pairs is None:
        options.pairs = "all" if options.out is not None and not options.block_by_block else "matched"
    _check_device(options.device)
    with Console(stderr=True).status("loading the libraries") as status:
        sides = []
        for place in places:
            status.update(escape(f"loading {place.argument}"))
            sides.append(open_side(place, options.device, options.block_by_block))
        status.update("comparing")
        probe = probe_of(sides, options)
        result = _compare(sides, probe, list(by_name.values()), options)
    show(result, options.format)
    if options.out is not None:
        write(result, sides, options.out)
        print(f"written to {options.out}", file=sys.stderr)
    rows = [row for measure in result.measures for row in result.at_matched(measure)]
    if rows and all(math.isnan(row["dissimilarity"]) for row in rows):
        raise ValueError(f"nothing was compared: {rows[0]['note']}")
    return any(_exceeds(result, by_name[name], limit) for name, limit in limits.items())


Compared = tuple[AnyTable, Differences | None]
"""The table of a comparison, and the differences element by element where they make sense."""


def _compare(sides: Sequence[Side], probe: Probe, measures: list[Measure], options: argparse.Namespace) -> Comparison:
    for side in sides:
        _check_runs(side, probe)
    matched = matched_pairs(*(_sites(side, probe, options) for side in sides))
    compared = _compare_in_step(sides, probe, measures, options)
    table, collected = compared or _compare_whole(sides, probe, measures, options, matched)
    differences = None
    if collected is not None:
        (a, b), tokens = (side.model for side in sides), probe.tokens
        assert a is not None and b is not None and tokens is not None
        differences = collected.result(a, b, tokens, _coarsest(sides))
    labels = sides[0].label, sides[1].label
    return Comparison(labels, table, measures, matched, differences, probe)


def _sites(side: Side, probe: Probe, options: argparse.Namespace) -> list[str]:
    try:
        return sites_of(open_source(side.source, side.label), options.sites, probe.tokens)
    except ValueError as error:
        raise ValueError(f"{side.label}: {error}") from error


def _compare_in_step(
    sides: Sequence[Side], probe: Probe, measures: list[Measure], options: argparse.Namespace
) -> Compared | None:
    """Compare matched layers in one pass of each model, with the activations of one block at a time.

    Returns:
        None if all layers are to be compared, or a model in memory does not run block by block.
    """
    if probe.inputs is None or options.pairs != "matched":
        return None
    a, b = (side.source for side in sides)
    collected = Differences() if _can_be_subtracted(sides, probe) else None
    more = (options.nulls, options.influence, collected)
    try:
        return compare_in_step(a, b, probe.inputs, options.sites, measures, *more), collected
    except NotInStepsError:
        if options.block_by_block:
            raise
    return None


def _compare_whole(
    sides: Sequence[Side],
    probe: Probe,
    measures: list[Measure],
    options: argparse.Namespace,
    matched: Sequence[SitePair],
) -> Compared:
    """Compare layers with the activations of all of them at one time."""
    (a, b), more = (side.source for side in sides), {"nulls": options.nulls, "influence": options.influence}
    table = compare(a, b, probe.inputs, options.sites, measures, options.pairs, **more)
    if not _can_be_subtracted(sides, probe):
        return table, None
    assert isinstance(a, nn.Module) and isinstance(b, nn.Module) and probe.tokens is not None
    collected = Differences()
    collected.add_models(a, b, probe.tokens, matched)
    return table, collected


def _check_runs(side: Side, probe: Probe) -> None:
    """Check that a model without named sites runs at all, which would be the reason for it.

    Raises:
        ValueError: it does not; says why.
    """
    if side.model is None or probe.tokens is None or site_table(side.model, probe.tokens.shape[1]):
        return
    try:
        with undisturbed(side.model):
            call(side.model, probe.tokens[:1].to(device_of(side.model)))
    except Exception as error:  # whatever a model raises
        raise ValueError(f"{side.label} does not run on this machine: {type(error).__name__}: {error}") from error


def _can_be_subtracted(sides: Sequence[Side], probe: Probe) -> bool:
    """Return whether both sides are models of the same depth and width that read the same tokens."""
    sizes = {_sizes(side.model) for side in sides if side.model is not None}
    return probe.tokens is not None and len(sizes) == 1 and all(side.model is not None for side in sides)


def _sizes(model: nn.Module) -> tuple[Any, ...]:
    config = getattr(model, "config", model)
    return tuple(getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size"))


def _coarsest(sides: Sequence[Side]) -> torch.dtype:
    """Return the coarsest precision of the weights of both sides in their files."""
    dtypes = [side.dtype for side in sides if side.dtype is not None]
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)


def _measures(names: Sequence[str]) -> dict[str, Measure]:
    """Return measures, with their defaults, by the names of their functions."""
    classes = {name: kind for kind, name in measure_classes().items()}
    return {name: classes[name]() for name in names}


def _exceeds(result: Comparison, measure: Measure, limit: float) -> bool:
    """Return whether the dissimilarity at any matched layer is larger than a limit.

    Raises:
        ValueError: a layer has no value.
    """
    rows = result.at_matched(measure)
    missing = [row for row in rows if math.isnan(row["dissimilarity"])]
    if missing or not rows:
        note = missing[0]["note"] if missing else "it was not computed"
        raise ValueError(f"--fail-over {measure.label}: a layer has no value ({note})")
    worst = max(rows, key=lambda row: row["dissimilarity"])
    if worst["dissimilarity"] > limit:
        found = f"{measure.label} differs by {worst['dissimilarity']:.4g} at {sites_in_words(worst)}"
        print(f"dissimilarity: {found}, more than {limit:g}", file=sys.stderr)
    return worst["dissimilarity"] > limit


def _check_device(name: str) -> None:
    """Check that there is such a device.

    Raises:
        ValueError: there is none.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: there is no such device here; use cpu, or cuda on a GPU") from error
