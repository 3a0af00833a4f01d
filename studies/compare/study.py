"""The study `compare`: how similar are models, layer by layer? Every pair of models by every measure."""

from inspect import isfunction
from itertools import combinations
from typing import Any

import pyarrow as pa
from omegaconf import DictConfig
from rich.console import Console

from dissimilarity.comparison.compare import compare
from dissimilarity.comparison.compare_many import compare_many
from dissimilarity.figures.options import as_figure_options
from dissimilarity.inference.coverage import PROBE_TEXT, SAMPLES
from dissimilarity.measures.base.measure import Measure
from dissimilarity.probe.alignment import Alignment
from dissimilarity.probe.outliers import control_of
from dissimilarity.probe.site_layout import Channels
from dissimilarity.tables.curves import select
from launch.machine import training_device
from launch.run.alignment import alignment_summary
from studies.common.inputs import (
    SharedProbe,
    Subject,
    load_subjects,
    load_without_weights,
    measures_of,
    shared_probe,
    sites_of_config,
    source_of,
)
from studies.common.next_command import ALL_MEASURES, models_override
from studies.common.progress import progress_of
from studies.common.results import Results
from studies.compare.differing_text import differing_text, text_of
from studies.compare.figures import figures
from studies.compare.text import summary, terminal_tables

Pair = tuple[str, str]


def compare_models(
    cfg: DictConfig, pairs: str, n_units: int | None, nulls: int, channels: Channels, influence: bool
) -> Results:
    """Compare every pair of `cfg.models` on one probe set.

    Args:
        cfg: config of analyze.py.
        pairs: `all` pairs of sites, or those `matched` by relative depth.
        n_units: number of units of sequences for the error bars; None: each sequence is one.
        nulls: number of rearrangements of the null.
        channels: whether features are `first` or `last` at sites that leave it open, such as saved images.
        influence: whether to find the text that makes the models differ most.

    Raises:
        ValueError: Fewer than two models, or models that cannot be compared.
    """
    uris = list(cfg.models)
    if len(uris) < 2:
        raise ValueError(
            f"models=[{','.join(uris)}]: expected two models or more to compare, found {len(uris)}; "
            "type models=[runs/a,runs/b]"
        )
    measures = measures_of(cfg)
    terminal = Console(stderr=True, highlight=False)
    with terminal.status("loading the models") as status:
        # Two models fit into memory together.
        if len(uris) == 2:
            subjects = load_subjects(uris, cfg.runs_dir, cfg.device)
        else:
            subjects = load_without_weights(uris, cfg.runs_dir, progress_of(status))
        probe = shared_probe(cfg, subjects)
        inputs = {(a.label, b.label): probe.between(a, b) for a, b in combinations(subjects, 2)}
        options = {"nulls": nulls, "n_units": n_units, "control": control_of(cfg.control), "channels": channels}
        options |= {"influence": True} if influence else {}
        tables = _compare(cfg, subjects, probe, inputs, measures, pairs, options, progress_of(status))
    table = pa.concat_tables([_with_labels(pair, *labels) for labels, pair in tables.items()])
    notes = {"models": {subject.label: subject.provenance for subject in subjects}, "probe": probe.notes}
    aligned = {labels: alignment_summary(text) for labels, text in inputs.items() if isinstance(text, Alignment)}
    if aligned:
        notes["alignments"] = [{"model_a": a, "model_b": b, **entry} for (a, b), entry in aligned.items()]
    lines, drawn, colored = [], {}, []
    if influence:
        by_label = {subject.label: subject for subject in subjects}
        texts = {(a, b): text_of(probe, by_label[a], read) for (a, b), read in inputs.items()}
        lines, drawn, colored = differing_text(tables, texts, measures)
    return Results(
        table=table,
        summary=summary(tables, measures, notes, aligned) + "".join(f"{line}\n" for line in lines),
        figures=figures(table, tables, as_figure_options(cfg.figures)) | drawn,
        provenance=notes,
        shown=terminal_tables(tables, measures, aligned),
        next_command=_next_command(cfg, subjects),
        coverage=PROBE_TEXT if probe.notes else SAMPLES,
        texts=colored,
    )


def _compare(
    cfg: DictConfig,
    subjects: list[Subject],
    probe: SharedProbe,
    inputs: dict[Pair, Any],
    measures: list[Measure],
    pairs: str,
    settings: Any,
    on_progress: Any,
) -> dict[Pair, pa.Table]:
    """Return the table of each pair of models."""
    options: Any = (sites_of_config(cfg), measures, pairs)
    if len(subjects) > 2:
        device = training_device(cfg.device)
        models = {subject.label: source_of(subject, cfg.runs_dir, device) for subject in subjects}
    else:
        models = {subject.label: subject.source for subject in subjects}
    if len(subjects) > 2 and probe.text is None and not settings.get("influence"):
        table = compare_many(models, probe.tokens, *options, on_progress=on_progress, mask=probe.mask, **settings).arrow
        return {(a, b): select(table, model_a=a, model_b=b).drop_columns(["model_a", "model_b"]) for a, b in inputs}
    tables = {}
    for (a, b), text in inputs.items():
        on_progress(f"{a} and {b}")
        mask = probe.mask if text is probe.tokens else None  # aligned positions are never padding
        sides = _loaded(models[a]), _loaded(models[b])
        tables[a, b] = compare(*sides, text, *options, mask=mask, **settings).arrow
    return tables


def _loaded(source: Any) -> Any:
    return source() if isfunction(source) else source


def _with_labels(table: pa.Table, a: str, b: str) -> pa.Table:
    """Return the table with the labels of the two models in front."""
    labels = {"model_a": a, "model_b": b}
    columns = {column: pa.array([label] * table.num_rows, pa.string()) for column, label in labels.items()}
    return pa.table({**columns, **{column: table[column] for column in table.column_names}})


def _next_command(cfg: DictConfig, subjects: list[Subject]) -> str | None:
    """Return the comparison by every measure, or at another point of each block."""
    command = f"python analyze.py study=compare {models_override(cfg.models)} measures=all"
    if len(cfg.measures) < ALL_MEASURES:
        return f"{command} name=compare_all"
    if cfg.sites is None and any(subject.reference is not None for subject in subjects):
        return f"{command} sites=blocks.*.mlp_out name=compare_mlp"
    return None
