"""The study `compare`: how similar models are, layer by layer, every pair of them by every measure."""

import shlex
from inspect import isfunction
from itertools import combinations
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from studies.common.results import Results

if TYPE_CHECKING:
    import pyarrow as pa

MEASURES_A_FIGURE = 20


def compare_models(cfg: DictConfig, pairs: str, groups: int) -> Results:
    """Compares every pair of `cfg.models` on one probe set.

    Args:
        cfg: the config of analyze.py.
        pairs: `all` pairs of sites, or those `matched` by relative depth.
        groups: jackknife groups of sequences.

    Raises:
        ValueError: fewer than two models, or models that cannot be compared.
    """
    if len(cfg.models) < 2:
        raise ValueError(
            f"models=[{','.join(cfg.models)}]: expected two models or more to compare, found {len(cfg.models)}; "
            "type models=[runs/a,runs/b]"
        )
    if pairs not in ("all", "matched") or not isinstance(groups, int) or groups < 2:
        raise ValueError(f"expected study.pairs all or matched and study.groups >= 2, found {pairs} and {groups}")
    import pyarrow as pa
    from rich.console import Console

    from dissimilarity.comparison.compare import compare
    from dissimilarity.comparison.compare_many import compare_many
    from dissimilarity.probe.alignment import Alignment
    from dissimilarity.probe.outliers import control_of
    from launch.machine import device_of
    from launch.run.alignment import alignment_summary
    from studies.common.inputs import load_subjects, loader, look_at, measures_of, read_by
    from studies.compare.text import summary, terminal_tables

    terminal, uris = Console(stderr=True, highlight=False), list(cfg.models)
    measures, control, home = measures_of(cfg), control_of(cfg.control), device_of(cfg.device)
    options: Any = (_plain(cfg.sites), measures, pairs, groups)
    with terminal.status("loading the models") as status:
        # Two are both in memory, and nothing of their activations has to be kept.
        two = len(uris) == 2
        subjects = load_subjects(uris, cfg.runs_dir, cfg.device) if two else look_at(uris, cfg.runs_dir, status.update)
        probe = read_by(cfg, subjects)
        couples = list(combinations(subjects, 2))
        inputs = {(a.label, b.label): probe.between(a, b) for a, b in couples}
        models = {each.label: each.source if two else loader(each, cfg.runs_dir, home) for each in subjects}
        if not two and probe.text is None:
            table = compare_many(models, probe.tokens, *options, control=control, tell=status.update, mask=probe.mask)
            tables = _by_couple(table)
        else:
            tables = {}
            for a, b in inputs:
                status.update(f"{a} and {b}")
                first, second = _loaded(models[a]), _loaded(models[b])
                mask = probe.mask if inputs[a, b] is probe.tokens else None  # aligned units are none of padding
                tables[a, b] = compare(first, second, inputs[a, b], *options, control=control, mask=mask)
            table = pa.concat_tables([_named(found, *names) for names, found in tables.items()])
    notes = {"models": {subject.label: subject.provenance for subject in subjects}, "probe": probe.notes}
    aligned = {names: alignment_summary(found) for names, found in inputs.items() if isinstance(found, Alignment)}
    if aligned:
        notes["alignments"] = [{"model_a": a, "model_b": b, **found} for (a, b), found in aligned.items()]
    return Results(
        table=table,
        summary=summary(tables, measures, notes, aligned),
        figures=_figures(tables) | (_of_models(table) if len(subjects) > 2 else {}),
        provenance=notes,
        shown=terminal_tables(tables, measures, aligned),
        next_command=_next(cfg),
    )


def _named(table: "pa.Table", a: str, b: str) -> "pa.Table":
    """The table with the models' names in front."""
    import pyarrow as pa

    names = {"model_a": a, "model_b": b}
    columns = {column: pa.array([name] * table.num_rows, pa.string()) for column, name in names.items()}
    return pa.table({**columns, **{column: table[column] for column in table.column_names}})


def _loaded(model: Any) -> Any:
    """A model that is to be loaded first, or whatever else is compared, as it is."""
    return model() if isfunction(model) else model


def _by_couple(table: "pa.Table") -> "dict[tuple[str, str], pa.Table]":
    """The table of each two models, without their names."""
    from dissimilarity.tables.curves import select

    couples = dict.fromkeys(zip(table["model_a"].to_pylist(), table["model_b"].to_pylist(), strict=True))
    return {(a, b): select(table, model_a=a, model_b=b).drop_columns(["model_a", "model_b"]) for a, b in couples}


def _of_models(table: "pa.Table") -> dict[str, Any]:
    """The tree and the map of the models, where they can be drawn."""
    from dissimilarity.figures.models import models_figure

    try:
        return {"models": models_figure(table)}
    except ValueError:
        return {}


def _figures(tables: "dict[tuple[str, str], pa.Table]") -> dict[str, Any]:
    """One figure a pair of models, or more of many measures, by file name."""
    import pyarrow as pa

    from dissimilarity.figures.comparison import comparison_figure
    from dissimilarity.figures.style import file_name
    from dissimilarity.tables.curves import distinct

    figures: dict[str, Any] = {}
    for (a, b), table in tables.items():
        measures = distinct(table, "measure")
        for first in range(0, len(measures), MEASURES_A_FIGURE):
            some = measures[first : first + MEASURES_A_FIGURE]
            chosen = table.filter(pa.array([measure in some for measure in table["measure"].to_pylist()], pa.bool_()))
            parts = ["heatmap", a, b, *([str(1 + first // MEASURES_A_FIGURE)] if first else [])]
            figures[file_name(parts, figures)] = comparison_figure(chosen, a, b)
    return figures


def _next(cfg: DictConfig) -> str:
    """The comparison that a reader of this one would want next: every measure, or another point of each block."""
    models = f"models=[{','.join(cfg.models)}]"
    models = shlex.quote(models) if " " in models else models
    more = "measures=all name=compare_all" if len(cfg.measures) < 10 else "sites=blocks.*.mlp_out name=compare_mlp"
    return f"python analyze.py study=compare {models} {more}"


def _plain(sites: Any) -> Any:
    return sites if sites is None or isinstance(sites, str) else list(sites)
