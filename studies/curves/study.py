"""The study `curves`: the curves of any runs in one figure, and where they end."""

import math
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig
from rich.markup import escape

from dissimilarity.cli.fitted_table import FittedTable
from dissimilarity.inference.coverage import PROBE_TEXT
from dissimilarity.inference.jackknife import half_width
from dissimilarity.tables.curves import distinct, scale, select
from studies.common.format import DASH, number, p_value, plus_minus, table_head, table_row
from studies.common.next_command import models_override
from studies.common.results import Results
from studies.common.run_folders import ends_of, folders_of, has_curves, without_curves, write_csv
from studies.curves.figures import figures

COLUMNS = ("run", "reference", "measure", "site", "dissimilarity", "null", "minus the first run")


def curves(cfg: DictConfig) -> Results:
    """Draw the curves of `cfg.models`, and compare where they end with the first run.

    Args:
        cfg: config of analyze.py.

    Raises:
        ValueError: No folder, one that does not exist, or none with curves.
    """
    found = folders_of(cfg)
    folders, missing = [folder for folder in found if has_curves(folder)], without_curves(found)
    if not folders:
        why = "; ".join(missing)
        raise ValueError(f"models=[{','.join(cfg.models)}]: none of them has curves ({why}); list runs with references")
    table = ends_of(folders)
    write_csv(table, cfg)
    last = list({(row["run"], row["reference"], row["measure"]): row for row in table.to_pylist()}.values())
    scales = {measure: scale(select(table, measure=measure)) for measure in distinct(table, "measure")}
    lines = [_line(row, *scales[row["measure"]]) for row in last]
    shown = FittedTable("where the curves end, at the last site", names=["run", "reference"], drop=["null", "site"])
    for column in COLUMNS:
        shown.add_column(column)
    for row, line in zip(last, lines, strict=True):
        if row["measure"] == last[0]["measure"]:
            shown.add_row(*map(escape, line))
    text = [
        *(
            "# Curves",
            "",
            "Where each curve ends, at the last site of its run, and how far that is from the first run, on",
        ),
        *("the same text (paired errors).", "", *table_head(*COLUMNS), *(table_row(*line) for line in lines), ""),
        *(f"- {line}" for line in missing),
        *([""] if missing else []),
    ]
    return Results(
        table=table,
        summary="\n".join([*text, PROBE_TEXT, ""]),
        figures=figures(folders),
        provenance={"folders": [str(folder.path.absolute()) for folder in folders]},
        shown=[shown, *map(escape, missing)],
        next_command=f"python analyze.py study=report {models_override(cfg.models)}",
        coverage=PROBE_TEXT,
    )


def _line(row: Mapping[str, Any], slope: float, offset: float) -> list[str]:
    """Return the cells of a row; the null is on the scale of the dissimilarity, offset + slope * value."""
    half = float(half_width(row["stderr"], row["n_units"]))
    gap = row["difference"]
    paired = DASH
    if gap is not None and math.isfinite(gap):
        margin = float(half_width(row["difference_stderr"], row["n_units"]))
        paired = f"{plus_minus(gap, margin, '+.3f')} ({p_value(row['p'])})".replace("± +", "± ")
    value = plus_minus(row["dissimilarity"], half) if math.isfinite(row["dissimilarity"]) else DASH
    names = [row["run"], row["reference"], row["measure"], row["site_a"]]
    return [*names, value, number(offset + slope * row["null"], sign=False), paired]
