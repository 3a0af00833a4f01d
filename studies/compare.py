"""The study `compare`: how similar models are, layer by layer, every pair of them by every measure."""

import shlex
from itertools import combinations
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from launch.results import Results

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

    from dissimilarity.alignment import Alignment
    from dissimilarity.compare import compare
    from dissimilarity.control import control_of
    from launch.text import said
    from studies.comparison_text import summary, terminal_tables
    from studies.inputs import load_subjects, measures_of, read_by

    terminal = Console(stderr=True, highlight=False)
    with terminal.status("loading the models"):
        subjects = load_subjects(list(cfg.models), cfg.runs_dir, cfg.device)
        probe = read_by(cfg, subjects)
        inputs = {(a.label, b.label): probe.between(a, b) for a, b in combinations(subjects, 2)}
    measures, control = measures_of(cfg), control_of(cfg.control)
    tables, both = {}, list(combinations(subjects, 2))
    for number, (a, b) in enumerate(both, 1):
        with terminal.status(f"{a.label} and {b.label} ({number} of {len(both)})"):
            tables[a.label, b.label] = compare(
                a.source,
                b.source,
                inputs[a.label, b.label],
                _plain(cfg.sites),
                measures,
                pairs,  # pyright: ignore
                groups,
                control=control,
            )
    notes = {"models": {subject.label: subject.provenance for subject in subjects}, "probe": probe.notes}
    aligned = {names: said(found) for names, found in inputs.items() if isinstance(found, Alignment)}
    if aligned:
        notes["alignments"] = [{"model_a": a, "model_b": b, **found} for (a, b), found in aligned.items()]
    return Results(
        table=pa.concat_tables([_named(table, *names) for names, table in tables.items()]),
        summary=summary(tables, measures, notes, aligned),
        figures=_figures(tables),
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


def _figures(tables: "dict[tuple[str, str], pa.Table]") -> dict[str, Any]:
    """One figure a pair of models, or more of many measures, by file name."""
    import pyarrow as pa

    from dissimilarity.comparison import comparison_figure
    from dissimilarity.curves import distinct
    from dissimilarity.plotting import file_name

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
