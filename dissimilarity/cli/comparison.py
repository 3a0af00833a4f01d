"""Run ``dissimilarity compare``: load, compare, say what came out, and write files."""

import argparse
import math
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from torch import nn

from dissimilarity.capture.call import call
from dissimilarity.capture.forward import undisturbed
from dissimilarity.capture.hooks import device_of
from dissimilarity.capture.sites import matched_pairs, site_table
from dissimilarity.cli.command import LENGTH, SEQUENCES
from dissimilarity.cli.memory import check_memory
from dissimilarity.cli.output import claimed, show, write
from dissimilarity.cli.probe_text import Probe, probe_of
from dissimilarity.cli.result import Comparison
from dissimilarity.cli.sides import Side, find_side, labels_of, open_side
from dissimilarity.cli.verdict import sites_in_words
from dissimilarity.comparison.compare import compare
from dissimilarity.comparison.elementwise import Differences
from dissimilarity.comparison.in_step import compare_in_step
from dissimilarity.comparison.saved import mapped, open_source, sites_of
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.catalog import measure_classes


def run_compare(options: argparse.Namespace) -> bool:
    """Compare two models as the command line says, and return whether they differ by more than it allows.

    Raises:
        ValueError: something on the command line cannot be had, and what to type; or no layer has a value.
    """
    limits = dict(options.fail_over)
    by_name = _measures([*options.measures, *limits])
    _check_pairs(options)
    _check_device(options.device)
    _be_quiet()
    with claimed(options.out), Console(stderr=True).status("loading the libraries") as status:
        places = [find_side(argument) for argument in (options.a, options.b)]
        sizes = [place.size for place in places if place.size is not None]
        matched = options.pairs == "matched"
        check_memory(sizes, _tokens_read(options), matched, options.block_by_block)
        sides = []
        for place in places:
            status.update(f"loading {place.argument}")
            sides.append(open_side(place, options.device, options.block_by_block))
        status.update("comparing")
        probe = probe_of(sides, options.text, options.tokens, options.sequences, options.length)
        result = _compare(sides, probe, list(by_name.values()), options)
    show(result, options.format)
    if options.out is not None:
        write(result, sides, options.out)
        print(f"written to {options.out}", file=sys.stderr)
    rows = [row for measure in result.measures for row in result.at_matched(measure)]
    if rows and all(math.isnan(row["dissimilarity"]) for row in rows):
        raise ValueError(f"nothing was compared: {rows[0]['note']}")
    return any(_exceeds(result, by_name[name], limit) for name, limit in limits.items())


def _tokens_read(options: argparse.Namespace) -> int:
    """Return how many tokens models read at most."""
    if options.tokens is None:
        return (options.sequences or SEQUENCES) * (options.length or LENGTH)
    try:
        return mapped(options.tokens).size
    except (OSError, ValueError):  # `probe_of` explains it
        return 0


def _check_pairs(options: argparse.Namespace) -> None:
    """Choose the pairs of layers: those that are shown, and all of them where a file takes them.

    Raises:
        ValueError: all pairs of two models that are never in memory at one time.
    """
    if options.block_by_block and options.pairs == "all":
        raise ValueError("--pairs all needs all layers at one time, --block-by-block has one; leave one of them out")
    if options.pairs is None:
        options.pairs = "all" if options.out is not None and not options.block_by_block else "matched"


def _compare(sides: Sequence[Side], probe: Probe, measures: list[Measure], options: argparse.Namespace) -> Comparison:
    for side in sides:
        _check_runs(side, probe)
    a, b = (side.source for side in sides)
    sites, nulls, influence = options.sites, options.nulls, options.influence
    collected = Differences() if _can_be_subtracted(sides, probe) else None
    if options.block_by_block and probe.inputs is not None:
        table = compare_in_step(a, b, probe.inputs, sites, measures, nulls, influence, collected)
    else:
        table = compare(a, b, probe.inputs, sites, measures, options.pairs, nulls=nulls, influence=influence)
    matched = matched_pairs(*(sites_of(open_source(side.source, side.label), sites) for side in sides))
    differences = None
    if collected is not None and isinstance(a, nn.Module) and isinstance(b, nn.Module) and probe.tokens is not None:
        if not options.block_by_block:
            collected.add_models(a, b, probe.tokens, matched)
        differences = collected.result(a, b, probe.tokens, _coarsest(sides))
    return Comparison(labels_of(sides), table, measures, matched, differences, probe)


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
        raise ValueError(f"--device {name}: there is no such device here; type cpu, or cuda on a GPU") from error


def _be_quiet() -> None:
    """Keep bars, notices and warnings of the libraries that load models out of the terminal."""
    warnings.filterwarnings("ignore", module=r"transformers|peft|huggingface_hub")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
